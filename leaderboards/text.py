"""Names from records, made inert: a record may come from anyone and its names may hold anything."""

from bench.errors import printable


def plain(text: str, limit: int = 40) -> str:
    """A name on one line (`bench.errors.printable`), cut to `limit` characters."""
    # Cutting first keeps a name of a million characters cheap.
    shown = printable(text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def code(text: str, limit: int = 40) -> str:
    """`text` as a Markdown code span, inside of which links, mentions, HTML and emphasis are plain characters.

    A back-tick would end the span and a pipe the table cell, so look-alikes stand for the two."""
    return f"`{plain(text, limit).replace('`', 'ʼ').replace('|', '¦') or ' '}`"


def display_name(method: str) -> str:
    """A method's name for a reader: parents lose their `parent:` prefix. Still untrusted text."""
    return method.removeprefix("parent:")
