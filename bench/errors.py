"""The one exception whose message is shown to the user as it is, without a traceback."""


class BenchError(ValueError):
    """Bad input or a missing prerequisite. The message is one sentence naming the offending thing and the remedy."""
