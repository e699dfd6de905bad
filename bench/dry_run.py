"""`python -m bench run --dry-run`: everything that can be checked without weights, and the plan with its cost.

Nothing is downloaded, started or written, and no network is asked: what the hub holds is taken at its word.
"""

import importlib.util
import os
from collections.abc import Sequence

from bench import estimate
from bench.engines import check_engine
from bench.errors import BenchError
from bench.estimate import BYTES, CPU, GPU, Work
from bench.grid import Cell, merge_cells, parent_cells, sweep_cells
from bench.plan import Plan
from bench.runner import find_mergers
from bench.sources import check_data, check_judges, check_parents
from bench.suite import Arm, Suite
from merges import tuners
from merges.registry import Merger, find, load_all


def plan(suite: Suite, methods: Sequence[str], arms: Sequence[Arm]) -> Plan:
    """Check a suite and what is asked of it. Nothing is raised: `problems` holds a sentence for each."""
    made = Plan(f"{suite.name}: {suite.title}" if suite.title else suite.name)
    sizes = check_parents(suite, made)
    cells = _cells(suite, methods, arms, made)
    work = Work(max(sizes, default=0.0))
    check_data(suite, made, work)
    work.judges = check_judges(suite, made)
    _memory(suite, made, work)
    if cells and work.parameters:
        for machine in (GPU, CPU):
            hours = sum(estimate.seconds(suite, cell, work, machine) for cell in cells) / 3600
            made.say("time", f"about {_hours(hours)} on {machine.name}")
        made.say("assumed", estimate.ASSUMED)
    made.say("this machine", _machine(made, suite, work))
    return made


def _cells(suite: Suite, methods: Sequence[str], arms: Sequence[Arm], made: Plan) -> list[Cell]:
    """The cells of the run, as `bench.runner` will make them, and lines about them by method."""
    for check in (
        lambda: check_engine(suite.engine.name),
        lambda: tuners.check_options(suite.search.tuner, suite.search.options),
        *(lambda name=name, given=given: find(name).check_options(given) for name, given in suite.methods.items()),
    ):
        with made.noting():
            check()
    if suite.engine.name == "vllm" and importlib.util.find_spec("vllm") is None:
        made.problems.append("the engine vllm is not installed; run `make setup`, or give --engine transformers")
    cells, mergers = [], []
    load_all()
    for name in methods:
        with made.noting():
            mergers += find_mergers([name])
    with made.noting():
        cells = [*parent_cells(suite, ""), *sweep_cells(suite, "")]
        made.say("cells", f"{len(suite.parents)} parents" + (f", {len(cells) - len(suite.parents)} of the sweep" if
                                                             suite.sweep else ""))  # fmt: skip
    for merger in mergers:
        with made.noting():
            mine = merge_cells(suite, "", [merger], arms)
            if not mine:
                raise BenchError(
                    f"{merger.name} takes part in no arm of {', '.join(arms)}: it needs calibration data; leave it out"
                )
            cells += mine
            _say_cells(suite, merger, mine, made)
    with made.noting():
        budget = estimate.evaluations(suite)
        groups = "each tensor" if suite.search.groups == "tensor" else f"each of {suite.search.groups} layer groups"
        made.say("search", f"{suite.search.tuner}: {budget} a cell with data, coefficients for {groups}")
    made.say("in all", f"{len(cells)} cells")
    return cells


def _say_cells(suite: Suite, merger: Merger, cells: Sequence[Cell], made: Plan) -> None:
    by_arm = {arm: [str(cell.seed) for cell in cells if cell.arm == arm] for arm in {c.arm: 0 for c in cells}}
    shown = "; ".join(f"{arm}, seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}" for arm, seeds in by_arm.items())
    made.say("cells", f"{merger.name}: {shown}")
    if merger.safety and not suite.of_role("base"):
        made.warnings.append(f"{merger.name} needs a parent of role base, which the suite has not: its cells will fail")


def _memory(suite: Suite, made: Plan, work: Work) -> None:
    if work.parameters:
        weights = work.parameters * BYTES[suite.engine.dtype] / 1e9
        made.say("memory", f"{suite.engine.name}: {weights:.3g} GB of weights, whatever the number of parents")
        if suite.search.tuner == "gradient":
            made.say("memory", f"gradient: {weights:.3g} GB more for the model that learns, and activations")
    if work.judges:
        judges = 2 * sum(work.judges) / 1e9  # none is published in float32
        made.say("memory", f"judge: {judges:.3g} GB of weights")
    if made.download:
        made.say("download", f"about {made.download / 1e9:.3g} GB of weights")


def _machine(made: Plan, suite: Suite, work: Work) -> str:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not torch.cuda.is_available():
        return f"{cores} CPU cores, no GPU"
    device = torch.cuda.get_device_properties(0)
    wanted = (work.parameters * BYTES[suite.engine.dtype] + 2 * sum(work.judges)) / 1e9
    if wanted > device.total_memory / 1e9:
        made.warnings.append(f"{wanted:.3g} GB of weights do not fit {device.name}, {device.total_memory / 1e9:.3g} GB")
    return f"{cores} CPU cores, {device.name} with {device.total_memory / 1e9:.3g} GB"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} days"
