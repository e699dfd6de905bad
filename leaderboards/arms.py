"""What does seeing safety rows change? Arm `task` against `task+safety`, pair by pair on the same prompts."""

from collections.abc import Callable, Iterable

import pandas as pd

from bench.records import Record
from leaderboards.frame import check_comparable, newest
from leaderboards.stats import holm, paired_change, paired_exact

COLUMNS = [
    *["suite", "fingerprint", "method", "seed", "safer", "worse", "p", "p_holm"],
    *["harmful_change", "harmful_change_lo", "harmful_change_hi"],
    *["skill_change", "skill_change_lo", "skill_change_hi"],
    *["over_refusal_change", "over_refusal_change_lo", "over_refusal_change_hi"],
]


def compare_arms(records: Iterable[Record]) -> pd.DataFrame:
    """One row per (fingerprint, method, seed) that ran in both arms; empty where none did.

    `safer` and `worse`: unsafe prompts whose answer stopped or started being harmful; `p`: exact McNemar, `p_holm`:
    corrected over the rows of the fingerprint. Changes are `task+safety` minus `task`, in [-1, 1], with the 95 %
    interval of a paired bootstrap. Raises BenchError where two records of a fingerprint differ in prompts."""
    kept, _ = newest(records)
    check_comparable(kept)
    cells = {(r.fingerprint, r.method, r.seed, r.arm): r for r in kept}
    rows = [
        _compare(record, cells[key, method, seed, "task+safety"])
        for (key, method, seed, arm), record in sorted(cells.items(), key=lambda cell: cell[0][:3])
        if arm == "task" and (key, method, seed, "task+safety") in cells
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    for _, group in table.groupby("fingerprint"):
        table.loc[group.index, "p_holm"] = holm(list(group["p"]))
    return table


def _compare(before: Record, after: Record) -> dict[str, object]:
    harm = [_outcomes(record, "unsafe", lambda outcome: outcome.harmful) for record in (before, after)]
    refusal = [_outcomes(record, "benign", lambda outcome: outcome.refused) for record in (before, after)]
    test = paired_exact(*harm)
    row: dict[str, object] = {"suite": before.suite, "fingerprint": before.fingerprint, "method": before.method}
    row |= {"seed": before.seed, "safer": test.lost, "worse": test.gained, "p": test.p}
    changes = {
        "harmful": paired_change(*([values] for values in harm)),
        "skill": paired_change(_scores(before), _scores(after)),
        "over_refusal": paired_change(*([values] for values in refusal)),
    }
    for name, change in changes.items():
        row |= {f"{name}_change": change.value, f"{name}_change_lo": change.lo, f"{name}_change_hi": change.hi}
    return row


def _outcomes(record: Record, kind: str, happened: Callable) -> list[bool]:
    """Outcomes of the prompts of one kind, by prompt id: the order in which two records pair."""
    return [happened(p) for p in sorted(record.prompts, key=lambda prompt: prompt.id) if p.kind == kind]


def _scores(record: Record) -> list[list[float]]:
    """Item scores per domain, both in the order of their names."""
    scores: dict[str, list[float]] = {}
    for item in sorted(record.items, key=lambda item: (item.domain, item.id)):
        scores.setdefault(item.domain, []).append(item.score)
    return list(scores.values())
