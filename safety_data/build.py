"""Writes every shipped data file from one seed: calibration and test prompts here, lm-eval test items in bench/tasks.

    python -m bench data

The same seed gives the same bytes. Building fails, and writes nothing, when a file would hold fewer rows than it
should, or when training or calibration prompts overlap with test prompts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from safety_data.contamination import overlaps
from safety_data.rows import CalibrationRow, DataError, PromptRow, write_rows
from safety_data.templates import Example, chem, math, ordinary, safety

SEED = 20240620  # the month of the paper
SAMPLE = 40_000  # more than any training mix draws: every topic with every template
SPARE = 1.25  # draw this many times the rows wanted, so that dropped duplicates are made good
COUNTS = {"unsafe": 140, "benign": 140, "safety": 70, "task": 80, "skill": 200}


class Item(BaseModel):
    """A test item of an lm-eval task."""

    id: str
    question: str
    answer: str


class Built(NamedTuple):
    """What a file holds, and how many drawn examples were dropped because their prompt had been seen before."""

    rows: Sequence[BaseModel]
    duplicates: int


def distinct(name: str, examples: Sequence[Example], count: int) -> tuple[list[Example], int]:
    """The first `count` examples with different prompts, and the number of repeats met on the way.

    Raises DataError when there are fewer.
    """
    kept: dict[str, Example] = {}
    repeats = 0
    for example in examples:
        if len(kept) == count:
            break
        if example.prompt in kept:
            repeats += 1
        kept.setdefault(example.prompt, example)
    if len(kept) < count:
        raise DataError(f"{name}: asked for {count} rows and the generator made {len(kept)} different ones; add topics")
    return list(kept.values()), repeats


def prompt_rows(kind: safety.Kind) -> Built:
    """Test prompts for the judge."""
    drawn = safety.unsafe if kind == "unsafe" else safety.benign
    examples, repeats = distinct(f"{kind} test", drawn("test", COUNTS[kind], SEED), COUNTS[kind])
    return Built(
        [
            PromptRow(id=f"{kind}-test-{number:03}", kind=kind, category=e.group, prompt=e.prompt, source="templates")
            for number, e in enumerate(examples, start=1)
        ],
        repeats,
    )


def safety_rows() -> Built:
    """Calibration rows of `D_safety`: unsafe prompt, refusal."""
    count = COUNTS["safety"]
    examples, repeats = distinct("safety calibration", safety.refused("calibration", count, SEED), count)
    return Built([_calibration("safety", number, e, category=e.group) for number, e in enumerate(examples, 1)], repeats)


def task_rows(domain: str) -> Built:
    """Calibration rows of `D_expert`: domain question, worked answer."""
    examples, repeats = distinct(f"{domain} calibration", _skill(domain, "calibration", COUNTS["task"]), COUNTS["task"])
    return Built([_calibration("task", number, e, domain=domain) for number, e in enumerate(examples, 1)], repeats)


def items(domain: str) -> Built:
    """Test items of the lm-eval task of a domain."""
    examples, repeats = distinct(f"{domain} test", _skill(domain, "test", COUNTS["skill"]), COUNTS["skill"])
    return Built(
        [
            Item(id=f"{domain}-test-{number:03}", question=e.prompt, answer=e.answer)
            for number, e in enumerate(examples, start=1)
        ],
        repeats,
    )


def _skill(domain: str, split: str, count: int) -> list[Example]:
    generator = {"math": math.examples, "chem": chem.examples}[domain]
    return generator(split, round(count * SPARE), SEED)


def _calibration(kind: str, number: int, example: Example, **key: str) -> CalibrationRow:
    label = f"{kind}-{key['domain']}" if "domain" in key else kind
    return CalibrationRow(
        id=f"{label}-calibration-{number:03}",
        kind=kind,
        **key,
        prompt=example.prompt,
        response=example.response,
        source="templates",
        seed=SEED,
    )


def check_disjoint(files: dict[Path, Built]) -> None:
    """Raises DataError when a training or calibration prompt overlaps with a test prompt."""
    rows = [row for built in files.values() for row in built.rows]
    test = [row.prompt for row in rows if isinstance(row, PromptRow)]
    test += [row.question for row in rows if isinstance(row, Item)]
    calibration = [row.prompt for row in rows if isinstance(row, CalibrationRow)]
    generators = (safety.refused, math.examples, chem.examples, ordinary.examples)
    train = [e.prompt for generator in generators for e in generator("train", SAMPLE, SEED)]
    train += [e.prompt for e in safety.refused("further", SAMPLE, SEED)]
    train += [e.prompt for pool in ("train", "further") for e in safety.answered(pool, SAMPLE, SEED)]
    found = overlaps(calibration + train, test) + overlaps(train, calibration)
    if found:
        kind, seen, held_out = found[0]
        example = f"({kind}) {seen!r} and {held_out!r}"
        raise DataError(f"{len(found)} prompts overlap with held-out ones, e.g. {example}; reword them")


def plan(root: Path) -> dict[Path, Built]:
    """Every shipped file below the repository's root and its rows, checked, nothing written."""
    data, tasks = root / "safety_data" / "smol", root / "bench" / "tasks"
    files = {
        data / "unsafe.test.jsonl": prompt_rows("unsafe"),
        data / "benign.test.jsonl": prompt_rows("benign"),
        data / "safety.calibration.jsonl": safety_rows(),
    }
    for domain in ("math", "chem"):
        files[data / f"{domain}.calibration.jsonl"] = task_rows(domain)
        files[tasks / f"smol_{domain}.test.jsonl"] = items(domain)
    check_disjoint(files)
    return files


def build(root: Path) -> dict[Path, Built]:
    """Write every shipped file below the repository's root. Returns what `plan` does."""
    files = plan(root)
    for path, built in files.items():
        write_rows(path, built.rows)
    return files
