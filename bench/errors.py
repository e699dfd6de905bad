"""The exceptions whose message is shown to the user as it is, without a traceback."""


class BenchError(ValueError):
    """Bad input or a missing prerequisite. The message is one sentence naming the offending thing and the remedy."""


class OutError(BenchError):
    """A file cannot be written: no cell can be finished, so a run stops here instead of failing them one by one."""
