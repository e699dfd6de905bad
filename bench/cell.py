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
from torch import Tensor

from bench.calibration import Calibration, calibration, rows_of_arm
from bench.checkpoints import AnyCheckpoint
from bench.engines.base import Engine
from bench.grid import Cell
from bench.harm import count, measure_harm
from bench.judges.base import Judge
from bench.records import Costs, Merger, Parent, Provenance, Record, Scores, TracePoint, Tuning
from bench.skill import measure_skill
from bench.suite import Suite
from merges import tuners
from merges.apply import Context, Weights, differing, merge
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

    @property
    def base(self) -> AnyCheckpoint:
        """Where task vectors start: the base, or the aligned parent where a suite has no base."""
        return self.parents[[*self.suite.of_role("base"), *self.suite.of_role("aligned")][0]]

    def models(self, form: str) -> dict[str, AnyCheckpoint]:
        """The parents that are merged: aligned and experts, in the suite's order. Without a base, the aligned parent's
        own task vector is zero and its coefficients could change nothing, so task-vector mergers leave it out."""
        aligned = [] if form == "deltas" and not self.suite.of_role("base") else self.suite.of_role("aligned")
        return {name: self.parents[name] for name in [*aligned, *self.suite.of_role("expert")]}


@dataclass
class Clock:
    """Wall seconds per stage, in the order they came, and the costs of the search."""

    seconds: dict[str, float] = field(default_factory=dict)
    evaluations: int = 0
    tokens: int = 0

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
        outcomes = measure_harm(bench.engine, bench.judge, bench.prompts, bench.suite.safety.max_tokens)
    with clock.stage("skill"):
        report(f"answering the tasks of {', '.join(bench.suite.skill.domains)}")
        skill, items = measure_skill(bench.engine, bench.suite.skill, bench.suite.seed)
    return Record(
        suite=bench.suite.name,
        fingerprint=bench.fingerprint,
        cell=cell.fingerprint,
        method=cell.method,
        arm=cell.arm,
        seed=cell.seed,
        parents=[_parent(bench, name) for name in (bench.parents if cell.merger else [cell.parent])],
        merger=_merger(cell),
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
            seconds=clock.seconds, evaluations=clock.evaluations, tokens=clock.tokens, peak_rss_mb=_peak_rss_mb()
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
    merger, models = cell.merger, bench.models(cell.merger.form)
    rows = rows_of_arm(bench.suite, cell.arm)
    seen = calibration(rows, bench.suite.calibration.factors, bench.engine) if rows else None

    def measure(weights: Weights) -> float:
        bench.engine.load_weights(weights)
        clock.evaluations += 1
        clock.tokens += seen.tokens
        return seen.loss(bench.engine)

    if merger.form == "context":
        context = Context(models, bench.base, measure, bench.dtype)
        with clock.stage("tune"):
            report("measuring the parents on the calibration rows")
            weights = merger.function(context, **cell.options)
        return weights, lambda: _tuning("defaults", seen, models, {"all": dict(cell.options) | context.notes}, [])

    groups = layer_groups(bench.base, bench.suite.search.groups)

    def merged(coefficients: Coefficients) -> Iterator[tuple[str, Tensor]]:
        return merge(merger, models, bench.base, coefficients, groups, seed=cell.seed, dtype=bench.dtype)

    if seen is None:
        coefficients = uniform(merger, groups.values(), list(models), cell.options)
        return merged(coefficients), lambda: _tuning("defaults", None, models, coefficients, [])

    search = bench.suite.search
    options = tuners.check_options(search.tuner, search.options)
    trace: list[TracePoint] = []

    def objective(coefficients: Coefficients) -> float:
        loss = measure(merged(coefficients))
        best = min(loss, trace[-1].best) if trace else loss
        trace.append(TracePoint(evaluation=clock.evaluations, loss=loss, best=best, tokens=clock.tokens))
        budget = f"/{options['evaluations']}" if "evaluations" in options else ""
        report(f"{search.tuner} {clock.evaluations}{budget}, best loss {best:.3f}")
        return loss

    with clock.stage("tune"):
        # A base that is also merged, or an adapter that leaves layers alone, would give genes that change nothing.
        active = differing(models, bench.base if merger.form == "deltas" else None, groups)
        space = Space.of(merger, groups, list(models), cell.options, active)
        coefficients = tuners.find(search.tuner)(space, objective, cell.seed, **options)
    return merged(coefficients), lambda: _tuning(search.tuner, seen, models, coefficients, trace)


def _tuning(
    tuner: str, seen: Calibration | None, models: Mapping[str, Any], coefficients: Coefficients, trace: list[TracePoint]
) -> Tuning:
    rows = seen.rows if seen else {}
    return Tuning(tuner=tuner, rows=rows, models=list(models), coefficients=coefficients, trace=trace)


def _parent(bench: Bench, name: str) -> Parent:
    return Parent(name=name, role=bench.suite.parents[name].role, sha256=bench.parents[name].sha256)


def _merger(cell: Cell) -> Merger | None:
    merger = cell.merger
    if merger is None:
        return None
    return Merger(
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
