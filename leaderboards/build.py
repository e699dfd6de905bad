"""`build_leaderboard`: the folder of records -> tables and plots beside it.

OUT/records/*.json -> OUT/leaderboard.csv, OUT/leaderboard.md, OUT/plots/frontier.png, OUT/plots/skill.png
"""

from pathlib import Path

import pandas as pd

from bench.errors import BenchError
from bench.records import read_records, write_atomically
from leaderboards import plots
from leaderboards.arms import compare_arms
from leaderboards.frame import by_fingerprint, frame
from leaderboards.tables import to_csv, to_markdown


def build_leaderboard(out: Path, fingerprint: str | None = None) -> pd.DataFrame:
    """Write the tables of every fingerprint and the plots of one, and return the frame (`leaderboards.frame.frame`).

    fingerprint: the one to plot, or its first characters; the newest where None. Raises BenchError when there are no
    records, when one contradicts itself, when no or several fingerprints match, or when a file cannot be written."""
    records = read_records(out)
    table = frame(records)
    rows = choose(table, fingerprint)
    outputs = {
        "leaderboard.csv": to_csv(table),
        "leaderboard.md": to_markdown(table, compare_arms(records)),
        "plots/frontier.png": plots.frontier(rows),
        "plots/skill.png": plots.skill(rows),
    }
    for name, content in outputs.items():
        write_atomically(out / name, content)
    return table


def choose(table: pd.DataFrame, fingerprint: str | None = None) -> pd.DataFrame:
    """Rows of the one fingerprint that starts with `fingerprint`, or of the newest. Raises BenchError if none does."""
    found = [(key, rows) for key, rows in by_fingerprint(table) if key.startswith(fingerprint or "")]
    if not found or (fingerprint and len(found) > 1):
        known = ", ".join(ascii(key[:8]) for key in dict.fromkeys(table["fingerprint"]))
        how_many = "several records' fingerprints start" if found else "no record's fingerprint starts"
        raise BenchError(f"{how_many} with {fingerprint!a}; there are {known}")
    return found[0][1]
