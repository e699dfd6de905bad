"""`build_leaderboard`: the folder of records -> tables and plots beside it.

OUT/records/*.json -> OUT/leaderboard.csv, OUT/leaderboard.md, OUT/plots/{frontier,skill,trace}.png
`build_ablation`: the same, and OUT/plots/<ablation>.png, with <ablation>-trace.png where it varies the tuner
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bench.errors import BenchError
from bench.failures import read_failures
from bench.records import Record, read_record, read_records, write_atomically
from leaderboards import plots, traces
from leaderboards.arms import compare_arms
from leaderboards.failed import markdown_failures
from leaderboards.frame import by_fingerprint, frame, without_sweep
from leaderboards.frontier import against_frontier
from leaderboards.pool import pooled
from leaderboards.tables import to_csv, to_markdown

PUBLISHED = Path(__file__).with_name("published")


def records_below(folder: Path) -> list[Record]:
    """Records of a folder: its JSON files, or where it has none the record files (`*.seed*.json`) in folders below it.

    In the order of their paths. Raises BenchError when there are none, or one cannot be read."""
    paths = sorted(folder.glob("*.json")) or sorted(folder.rglob("*.seed*.json"))
    if not paths:
        raise BenchError(f"no records in {folder}; run `make bench METHOD=ties` first or name another folder")
    return [read_record(path) for path in paths]


def records_to_show(out: Path) -> list[Record]:
    """Those of a run under `out/records/`, or where there are none the published ones, if any are."""
    ours = any((out / "records").glob("*.json")) or not any(PUBLISHED.rglob("*.seed*.json"))
    return read_records(out) if ours else records_below(PUBLISHED)


class Board(NamedTuple):
    """Records and what is computed of them, once for all outputs: `table` has a row a record, `rows` one a method x arm
    (`leaderboards.pool.pooled`), both with the gains over the scalar-ratio frontier where there is one; `arms` compares
    those of each method."""

    records: list[Record]
    table: pd.DataFrame
    rows: pd.DataFrame
    arms: pd.DataFrame


def board_of(records: list[Record]) -> Board:
    """Aggregate records. Raises BenchError where one contradicts itself or does not fit the others."""
    gains = against_frontier(records)
    table, rows = (_with_gains(made, gains) for made in (frame(records), pooled(records)))
    return Board(records, table, rows, compare_arms(records))


def build_leaderboard(out: Path, fingerprint: str | None = None, board: Board | None = None) -> pd.DataFrame:
    """Write the tables of every fingerprint and the plots of one, and return the table of all: one row per method x
    arm (`leaderboards.pool.pooled`), with the gains over the scalar-ratio frontier where there is one.

    leaderboard.csv has one row a record instead, each with its method's gains. plots/trace.png is there only where a
    tuner left a trace. fingerprint: the one to plot, or its first characters; the newest where None. board: of the
    records under `out/records/` where None. Raises BenchError when there are no records, when one contradicts itself,
    when no or several fingerprints match, or when a file cannot be written."""
    board = board or board_of(read_records(out))
    rows = choose(board.rows, fingerprint)
    outputs = {
        "leaderboard.csv": to_csv(board.table),
        "leaderboard.md": to_markdown(board.rows, board.arms) + markdown_failures(read_failures(out)),
        "plots/frontier.png": plots.frontier(rows),
        "plots/skill.png": plots.skill(without_sweep(rows)),
    }
    traced = [r for r in board.records if r.fingerprint == rows["fingerprint"][0] and r.tuning and r.tuning.trace]
    if traced:
        outputs["plots/trace.png"] = traces.trace(traced)
    for name, content in outputs.items():
        write_atomically(out / name, content)
    return board.rows


def build_ablation(
    out: Path, name: str, label: str, fingerprints: Mapping[str, str], arms: Sequence[str]
) -> tuple[pd.DataFrame, Path]:
    """Write the tables and OUT/plots/NAME.png: scores against what was varied; return the rows shown and the plot.
    Where tuners were varied, OUT/plots/NAME-trace.png shows what each one's search cost.

    label: of the axis. fingerprints: of the suites, by the value of what they vary. Raises BenchError where no cell of
    them has finished."""
    table = build_leaderboard(out)
    points = [(_number(value), table[table["fingerprint"] == key]) for value, key in fingerprints.items()]
    shown = pd.concat([rows for _, rows in points], ignore_index=True)
    if not shown["arm"].isin(list(arms)).any():
        raise BenchError(f"no cell of the ablation {name} has finished; look into {out / 'logs'}")
    plot = out / "plots" / f"{name}.png"
    write_atomically(plot, plots.ablation(points, label, arms))
    searched = [r for r in read_records(out) if r.fingerprint in fingerprints.values() and r.tuning and r.tuning.trace]
    if len({record.tuning.tuner for record in searched}) > 1:
        write_atomically(plot.with_stem(f"{name}-trace"), traces.trace(searched))
    return shown, plot


def _number(value: str) -> float | str:
    """A value as a number where it is one, so that the axis has a scale."""
    try:
        return float(value)
    except ValueError:
        return value


def _with_gains(table: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns of `against_frontier`, empty for rows that have no gain; as it is without gains."""
    if not len(gains):
        return table
    joined = table.merge(gains, on=["fingerprint", "method", "arm"], how="left")
    joined.attrs = table.attrs
    return joined


def choose(table: pd.DataFrame, fingerprint: str | None = None) -> pd.DataFrame:
    """Rows of the one fingerprint that starts with `fingerprint`, or of the newest. Raises BenchError if none does."""
    found = [(key, rows) for key, rows in by_fingerprint(table) if key.startswith(fingerprint or "")]
    if not found or (fingerprint and len(found) > 1):
        known = ", ".join(ascii(key[:8]) for key in dict.fromkeys(table["fingerprint"]))
        how_many = "several records' fingerprints start" if found else "no record's fingerprint starts"
        raise BenchError(f"{how_many} with {fingerprint!a}; there are {known}")
    return found[0][1]
