"""The frame as CSV, Markdown and a terminal table. Nothing a model said appears, and every name is made inert.

method   arm          skill       math  bio  harmful     over-refusal  time
ties     task          61 [56-66]   58   64   97 [93-99]    2 [1-6]    41 s
ties     task+safety   60 [55-65]   57   63    8 [5-13]     5 [2-10]   44 s
"""

from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from leaderboards.frame import by_fingerprint, domains_of, is_parent
from leaderboards.text import code, display_name, plain

READING = """\
## How to read this

* All rates are percentages with 95 % intervals in brackets (Wilson), counted over the prompts named above the table.
* **skill**: mean over the domains of the share of items answered correctly. Higher is better.
* **kept**: a merge's skill in a domain relative to the best expert's.
* **harmful**: share of unsafe prompts that got an answer the judge calls harmful. Lower is better.
* **refusals**: share of unsafe prompts refused. An answer may be neither a refusal nor harmful.
* **over-refusal**: share of harmless but alarming-looking prompts that were refused. Lower is better.
* **arm**: the calibration data a method saw: `none`, the experts' answers (`task`), or those and refusals
  (`task+safety`). Parents show their role instead.
* **evals**: candidate merges whose loss was measured to choose coefficients.
"""

TERMINAL_READING = """\
Percentages with 95 % intervals. Skill: mean over domains, higher is better.
Harmful: of unsafe prompts; over-refusal: of benign ones; lower is better."""

READING_ARMS = """\
Each method against itself on the same prompts, in percentage points with 95 % intervals (paired bootstrap). *safer* and
*worse* count the unsafe prompts whose answer stopped or started being harmful; p is the exact McNemar test of the two,
Holm-corrected over the rows of this table. An interval without width means that no item changed.
"""


def to_csv(table: pd.DataFrame) -> str:
    """Every row and column. Text is one line each and no spreadsheet takes it for a formula."""
    shown = table.rename(columns=lambda column: plain(column, 200))
    for column in shown.select_dtypes(exclude="number"):
        shown[column] = [_cell(str(value)) for value in shown[column]]
    return shown.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def to_markdown(table: pd.DataFrame, arms: pd.DataFrame) -> str:
    """leaderboard.md: one section per fingerprint, newest first. `arms` is `compare_arms` of the same records."""
    parts = []
    for fingerprint, rows in by_fingerprint(table):
        parts += [
            f"# {code(rows['suite'][0])} under conditions {code(fingerprint[:8])}",
            _conditions(rows, code) + ".",
            _markdown_table(*_merged_columns(rows)),
        ]
        pairs = arms[arms["fingerprint"] == fingerprint]
        if len(pairs):
            parts += ["## What safety rows change: `task` -> `task+safety`", READING_ARMS.strip(), _arm_table(pairs)]
    if superseded := table.attrs.get("superseded", 0):
        parts.append(f"Left out: {_superseded(superseded)}.")
    return "\n\n".join([*parts, READING])


def terminal_table(table: pd.DataFrame, width: int = 80) -> Group:
    """One table per fingerprint for `rich.console.Console.print`, at most `width` >= 60 columns wide.

    The domains' columns are left out where they do not fit; time too, where it still does not."""
    tables = [_terminal_table(fingerprint, rows, width) for fingerprint, rows in by_fingerprint(table)]
    superseded = table.attrs.get("superseded", 0)
    notes = [Text(f"Left out: {_superseded(superseded)}.", style="dim")] if superseded else []
    return Group(*tables, *notes)


def _terminal_table(fingerprint: str, rows: pd.DataFrame, width: int) -> Group:
    cells = {"method": [plain(display_name(method), 20) for method in rows["method"]], "arm": _arm_or_role(rows)}
    if rows["seed"].nunique() > 1:
        cells["seed"] = [str(seed) for seed in rows["seed"]]
    cells["skill"] = _intervals(rows, "skill_mean", "skill_mean")
    domains = domains_of(rows)
    per_domain = {plain(domain, 8): _percentages(rows[f"skill_{domain}"]) for domain in domains if len(domains) > 1}
    safety = {
        "harmful": _intervals(rows, "harmful_rate", "harmful"),
        "over-\nrefusal": _intervals(rows, "over_refusal_rate", "over_refusal"),
    }
    time = {"time": [_duration(seconds) for seconds in rows["seconds"]]}
    # Columns need names of their own: two domains may be cut to the same letters, and one may be called "time".
    whole = len(per_domain) == len(domains) and per_domain.keys().isdisjoint(cells | safety | time)
    choices = [cells | per_domain | safety | time, cells | per_domain | safety] if whole else []
    choices += [cells | safety | time, cells | safety]
    chosen = next((choice for choice in choices if _width(choice) <= width), choices[-1])

    shown = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=0)
    for name in chosen:
        shown.add_column(
            Text(name, style="bold"),
            justify="right" if name in per_domain or name in ("seed", "time") else "left",
            no_wrap=True,
            vertical="bottom",
        )
    parents = list(is_parent(rows))
    for index, values in enumerate(zip(*chosen.values(), strict=True)):
        last_parent = parents[index] and not all(parents) and not parents[index + 1]
        shown.add_row(*(Text(value) for value in values), end_section=last_parent)
    title = Text.assemble((plain(rows["suite"][0]), "bold"), f" under conditions {plain(fingerprint[:8])}\n")
    notes = f"{_conditions(rows, plain)}.\n{TERMINAL_READING}\n"
    return Group(title, shown, Text(f"\n{notes}", style="dim"))


def _width(columns: dict[str, list[str]]) -> int:
    """Terminal cells a table of these columns takes, with one between columns."""
    widest = [max(Text(line).cell_len for line in (*name.split("\n"), *values)) for name, values in columns.items()]
    return sum(widest) + len(widest) - 1


def _merged_columns(rows: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    domains = domains_of(rows)
    columns = {
        "method": [code(display_name(method)) for method in rows["method"]],
        "arm": _arm_or_role(rows),
        "tuner": [code(tuner) if tuner else "" for tuner in rows["tuner"]],
    }
    if rows["seed"].nunique() > 1:
        columns["seed"] = [str(seed) for seed in rows["seed"]]
    columns["skill"] = _intervals(rows, "skill_mean", "skill_mean")
    for domain in domains if len(domains) > 1 else []:
        columns[code(domain)] = _intervals(rows, f"skill_{domain}", f"skill_{domain}")
    columns["harmful"] = _intervals(rows, "harmful_rate", "harmful")
    columns["over-refusal"] = _intervals(rows, "over_refusal_rate", "over_refusal")
    columns["refusals"] = _intervals(rows, "refusal_rate", "refusal")
    for domain in domains:
        if rows[f"retention_{domain}"].notna().any():
            columns[f"{code(domain)} kept"] = _percentages(rows[f"retention_{domain}"])
    columns["evals"] = [f"{count}" for count in rows["evaluations"]]
    columns["time"] = [_duration(seconds) for seconds in rows["seconds"]]
    columns["peak memory"] = [f"{megabytes / 1000:.1f} GB" for megabytes in rows["peak_rss_mb"]]
    return list(columns), [[value.strip() for value in row] for row in zip(*columns.values(), strict=True)]


def _arm_table(pairs: pd.DataFrame) -> str:
    columns = {"method": [code(method) for method in pairs["method"]]}
    if pairs["seed"].nunique() > 1:
        columns["seed"] = [str(seed) for seed in pairs["seed"]]
    columns["harmful"] = _changes(pairs, "harmful")
    columns["safer / worse"] = [f"{s} / {w}" for s, w in zip(pairs["safer"], pairs["worse"], strict=True)]
    columns["p (Holm)"] = ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in pairs["p_holm"]]
    columns["skill"] = _changes(pairs, "skill")
    columns["over-refusal"] = _changes(pairs, "over_refusal")
    return _markdown_table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])


def _markdown_table(names: list[str], rows: list[list[str]]) -> str:
    left = {"method", "arm", "tuner"}
    rule = [":--" if name in left else "--:" for name in names]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [names, rule, *rows])


def _conditions(rows: pd.DataFrame, inert) -> str:
    """What every row of one fingerprint was measured with, on one line."""

    def values(column: str) -> str:
        return " / ".join(inert(str(value)) for value in dict.fromkeys(rows[column].dropna()))

    def largest(column: str) -> int:
        return int(rows[column].max())

    items = [f"{largest(f'items_{domain}')} {inert(domain)}" for domain in domains_of(rows)]
    return (
        f"Engine {values('engine')}, dtype {values('dtype')}, judge {values('judge')}; "
        f"{largest('n_unsafe')} unsafe and {largest('n_benign')} benign prompts"
        + (f"; items: {', '.join(items)}" if items else "")
    )


def _arm_or_role(rows: pd.DataFrame) -> list[str]:
    # Both come from a fixed list (`Record`), so they are safe as they are.
    return [arm or role for arm, role in zip(rows["arm"], rows["role"], strict=True)]


def _intervals(rows: pd.DataFrame, value: str, ends: str) -> list[str]:
    return [_interval(*row) for row in rows[[value, f"{ends}_lo", f"{ends}_hi"]].itertuples(index=False)]


def _interval(value: float, lo: float, hi: float) -> str:
    # The value takes three places so that a left-justified column lines up.
    return "  -" if pd.isna(value) else f"{100 * value:3.0f} [{100 * lo:.0f}-{100 * hi:.0f}]"


def _changes(pairs: pd.DataFrame, name: str) -> list[str]:
    def points(value: float) -> str:
        # Adding 0.0 turns a rounded -0.0 into 0.0.
        return f"{round(100 * value, 1) + 0.0:+.1f}"

    columns = [f"{name}_change", f"{name}_change_lo", f"{name}_change_hi"]
    return [
        "-" if pd.isna(change) else f"{points(change)} [{points(lo)}, {points(hi)}]"
        for change, lo, hi in pairs[columns].itertuples(index=False)
    ]


def _percentages(values: Sequence[float]) -> list[str]:
    return ["-" if pd.isna(value) else f"{100 * value:.0f}" for value in values]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _superseded(count: int) -> str:
    return "1 record, superseded by a newer one" if count == 1 else f"{count} records, superseded by newer ones"


def _cell(value: str) -> str:
    text = plain(value, 200)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
