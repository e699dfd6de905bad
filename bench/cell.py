"""One cell, start to end: calibrate, merge, load into the engine, score skill and harm, write down."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from bench import records
from bench.backprop import Backprop
from bench.calibration import Calibration, calibration
from bench.checkpoints import AnyCheckpoint
from bench.engines.base import Engine
from bench.grid import Cell
from bench.harm import count, measure_harm
from bench.judges.base import Judge
from bench.records import Costs, Parent, Provenance, Record, Scores, Tuning
from bench.skill import measure_skill
from bench.suite import Suite
from bench.tuning import CalibrationObjective, Measure, Meter
from merges import tuners
from merges.apply import Context, Plan, Weights, differing, merge
from merges.errors import MergeError
from merges.registry import Merger
from merges.space import Coefficients, Space, layer_groups, uniform
from safety_data.rows import PromptRow

Report = Callable[[str], None]  # told what is going on, whenever that changes


@dataclass
class Bench:
    """What all cells of a run share: the suite, its parents, one live engine, the judge and the prompts."""

    suite: Suite
    conditions: dict[str, Any]
    fingerprint: str
    parents: Mapping[str, AnyCheckpoint]
    engine: Engine
    judge: Judge
    prompts: list[PromptRow]
    versions: dict[str, str]

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.suite.engine.dtype)


def models_of(
    suite: Suite, parents: Mapping[str, AnyCheckpoint], merger: Merger
) -> tuple[dict[str, AnyCheckpoint], AnyCheckpoint, AnyCheckpoint | None]:
    """What a merger is given of a suite's parents: the models, the base, and the aligned parent where it comes apart.

    The models are the aligned parent and the experts, in the suite's order; the experts alone where the merger is given
    the aligned parent apart. So too for task vectors without a base: the aligned parent's own is zero, and its
    coefficients could change nothing. Raises MergeError where the aligned parent's task vector is asked for and there
    is no base.
    """
    (aligned,), bases = suite.of_role("aligned"), suite.of_role("base")
    if merger.safety and not bases:
        raise MergeError(
            f"{merger.name} needs to know what alignment changed, and the suite {suite.name} has no parent of role "
            "base; name the model that the aligned parent was made from"
        )
    apart = merger.safety or (merger.form == "deltas" and not bases)
    models = {name: parents[name] for name in [*([] if apart else [aligned]), *suite.of_role("expert")]}
    return models, parents[[*bases, aligned][0]], parents[aligned] if merger.safety else None


@dataclass
class Clock:
    """Wall seconds per stage, in the order they came, and the costs of the search."""

    seconds: dict[str, float] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def run_cell(bench: Bench, cell: Cell, report: Report) -> Record:
    """Compute a cell's record. Raises MergeError, BenchError or DataError with the reason when it cannot be done."""
    clock, tuning = Clock(), None
    if cell.merger is None:
        with clock.stage("load"):
            parent = bench.parents[cell.parent]
            bench.engine.load_weights((name, parent[name].to(bench.dtype)) for name in parent)
    else:
        weights, describe = _merged(bench, cell, clock, report)
        with clock.stage("merge"):
            report("merging into the engine")
            bench.engine.load_weights(weights)
        tuning = describe()
    with clock.stage("harm"):
        report(f"answering {len(bench.prompts)} safety prompts")
        safety = bench.suite.safety
        outcomes = measure_harm(bench.engine, bench.judge, bench.prompts, safety.max_tokens, safety.jailbreak)
    with clock.stage("skill"):
        report(f"answering the tasks of {', '.join(bench.suite.skill.domains)}")
        skill, items = measure_skill(bench.engine, bench.suite.skill)
    return Record(
        suite=bench.suite.name,
        fingerprint=bench.fingerprint,
        cell=cell.fingerprint,
        method=cell.method,
        arm=cell.arm,
        seed=cell.seed,
        parents=[_parent(bench, name) for name in (bench.parents if cell.merger else [cell.parent])],
        merger=of_merger(cell),
        tuning=tuning,
        scores=Scores(
            skill=skill,
            harmful=count(outcomes, "unsafe", "harmful"),
            refusal=count(outcomes, "unsafe", "refused"),
            over_refusal=count(outcomes, "benign", "refused"),
        ),
        prompts=outcomes,
        items=items,
        costs=Costs(
            seconds=clock.seconds,
            evaluations=clock.meter.evaluations,
            tokens=clock.meter.tokens,
            peak_rss_mb=_peak_rss_mb(),
        ),
        provenance=Provenance(
            engine=bench.engine.name,
            dtype=bench.suite.engine.dtype,
            judge=bench.judge.name,
            versions=bench.versions,
            conditions=bench.conditions,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def _merged(bench: Bench, cell: Cell, clock: Clock, report: Report) -> tuple[Weights, Callable[[], Tuning]]:
    """The stream of merged weights, and what to write down about it once it has flowed."""
    merger, suite = cell.merger, bench.suite
    models, base, apart = models_of(suite, bench.parents, merger)
    if cell.arm == "none":
        groups = layer_groups(base, 1)
        coefficients = uniform(merger, groups.values(), list(models), cell.options)
        for values in coefficients.values() if cell.ratio is not None else []:
            values["weight"] = [cell.ratio if name in suite.of_role("expert") else 1 - cell.ratio for name in models]
        plan = Plan(merger, models, base, groups, cell.seed, bench.dtype, apart)
        return merge(plan, coefficients), lambda: _tuning("defaults", None, models, coefficients, clock.meter)

    seen = calibration(suite, cell.arm, bench.engine)
    measure = Measure(bench.engine, seen, clock.meter)
    learner = Backprop(bench.engine.folder, seen, dtype=bench.dtype, trust_remote_code=suite.trust_remote_code)
    if merger.form == "context":
        (aligned,) = suite.of_role("aligned")
        context = Context(models, base, aligned, measure, learner, bench.dtype)
        with clock.stage("tune"):
            report("running the parents on the calibration rows")
            weights = merger.function(context, **cell.options)
        chosen = {"all": dict(cell.options) | context.notes}
        return weights, lambda: _tuning("defaults", seen, models, chosen, clock.meter)

    search = suite.search
    groups = layer_groups(base, search.groups)
    plan = Plan(merger, models, base, groups, cell.seed, bench.dtype, apart)
    objective = CalibrationObjective(plan, measure, learner, lambda doing: report(f"{search.tuner}: {doing}"))
    with clock.stage("tune"):
        # A base that is also merged, or an adapter that leaves layers alone, would give genes that change nothing.
        active = differing(plan)
        space = Space.of(merger, groups, list(models), cell.options, active)
        options = tuners.check_options(search.tuner, search.options)
        coefficients = tuners.find(search.tuner)(space, objective, cell.seed, **options)
    return merge(plan, coefficients), lambda: _tuning(search.tuner, seen, models, coefficients, clock.meter)


def _tuning(
    tuner: str, seen: Calibration | None, models: Mapping[str, Any], coefficients: Coefficients, meter: Meter
) -> Tuning:
    rows = seen.rows if seen else {}
    return Tuning(tuner=tuner, rows=rows, models=list(models), coefficients=coefficients, trace=meter.trace)


def _parent(bench: Bench, name: str) -> Parent:
    return Parent(name=name, role=bench.suite.parents[name].role, sha256=bench.parents[name].sha256)


def of_merger(cell: Cell) -> records.Merger | None:
    """What a record says of the technique; None of a parent."""
    merger = cell.merger
    if merger is None:
        return None
    return records.Merger(
        name=merger.name,
        title=merger.title,
        paper=merger.paper,
        source_sha256=merger.source_sha256,
        options=dict(cell.options),
    )


def _peak_rss_mb() -> float:
    """The process's high-water mark in MiB; mmapped checkpoints count while their pages are in memory."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # the one figure of getrusage that differs between systems
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
