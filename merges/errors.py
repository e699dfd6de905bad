"""The exception of this package; kept apart from torch, so that a command line can catch it cheaply."""


class MergeError(ValueError):
    """A merge cannot be done as asked. The message names the merger, tensor or parameter at fault."""
