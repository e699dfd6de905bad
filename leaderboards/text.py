"""Names from records, made inert: a record may come from anyone and its names may hold anything."""

import unicodedata


def plain(text: str, limit: int = 40) -> str:
    """One line of at most `limit` characters: no control, bidi, zero-width, surrogate or line-separating character.

    >>> plain("ties\\x1b[31m")
    'ties�[31m'
    """
    # Categories C* hold ANSI escapes, bidi overrides and zero-width joiners; Zl and Zp end a line. Cutting first keeps
    # a name of a million characters cheap.
    shown = "".join(_shown(character) for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def code(text: str, limit: int = 40) -> str:
    """`text` as a Markdown code span, inside of which links, mentions, HTML and emphasis are plain characters.

    A back-tick would end the span and a pipe the table cell, so look-alikes stand for the two."""
    return f"`{plain(text, limit).replace('`', 'ʼ').replace('|', '¦') or ' '}`"


def display_name(method: str) -> str:
    """A method's name for a reader: parents lose their `parent:` prefix. Still untrusted text."""
    return method.removeprefix("parent:")


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Zs":
        return " "
    return "\N{REPLACEMENT CHARACTER}" if category[0] == "C" or category in ("Zl", "Zp") else character
