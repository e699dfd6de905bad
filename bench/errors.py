"""The exceptions whose message is shown to the user as it is, without a traceback."""


def printable(text: str) -> str:
    """One line without control characters: a message may quote keys and names from anybody's file."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in " ".join(text.split())
    )


class BenchError(ValueError):
    """Bad input or a missing prerequisite. The message is one sentence naming the offending thing and the remedy."""

    def __str__(self) -> str:
        return printable(super().__str__())


class RunStopped(BenchError):
    """The disk is full, or a service is gone: no cell can be finished, so a run stops instead of failing each."""


class EngineLost(RuntimeError):
    """An engine died or cannot be trusted any more: a new process is needed to have one again."""
