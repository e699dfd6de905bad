"""Judges: (prompt, response) -> refused? harmful? One file a judge; `get_judge` finds one by name."""

from difflib import get_close_matches

from bench.errors import BenchError
from bench.judges.base import LABELS, Judge, Label, Verdict
from bench.judges.refusal_rules import RefusalRules

JUDGES: dict[str, type] = {RefusalRules.name: RefusalRules}
"""Name in a suite file -> class. A class is made without arguments."""


def get_judge(name: str) -> Judge:
    """A new judge. Raises `BenchError` naming the nearest valid name and all known ones when there is none."""
    if name in JUDGES:
        return JUDGES[name]()
    near = get_close_matches(name, JUDGES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise BenchError(f"unknown judge {name!r}: {hint}known judges are {', '.join(sorted(JUDGES))}")


__all__ = ["JUDGES", "LABELS", "Judge", "Label", "RefusalRules", "Verdict", "get_judge"]
