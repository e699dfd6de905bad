"""Cells that failed, as a part of a leaderboard: named, with the reason, and never a number."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from bench.failures import Failure
from leaderboards.text import code, plain

WIDTH = 300  # characters of a reason that are shown


def markdown_failures(failures: Sequence[Failure]) -> str:
    """A section of leaderboard.md; empty where nothing failed."""
    if not failures:
        return ""
    lines = [
        "## Failed",
        "",
        "These cells have no score.",
        "",
        "| suite | method | arm | seed | why |",
        "|---|---|---|---:|---|",
    ]
    for one in failures:
        conditions = f"{code(one.suite)} {code(one.fingerprint[:8])}"
        lines.append(
            f"| {conditions} | {code(one.method)} | {one.arm or ''} | {one.seed} | {code(one.reason, WIDTH)} |"
        )
    return "\n".join(lines) + "\n"


def terminal_failures(failed: Mapping[str, str]) -> Table:
    """For the terminal, below the table: cell by label, and the reason."""
    table = Table("failed", "why there is no score", box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1))
    for label, reason in failed.items():
        table.add_row(Text(plain(label, 60), style="red"), Text(plain(reason, WIDTH)))
    return table
