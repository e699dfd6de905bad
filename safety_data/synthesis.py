"""Makes calibration rows: prompts from a generator, answers from the parents, and an account of what was rejected.

`D_safety` is unsafe prompts with the aligned parent's own refusals, `D_expert` a domain's questions with the expert's
own answers (Hammoud et al. 2024, arXiv:2406.14563). Beside them we put benign but alarming prompts with the aligned
parent's own answers: refusals alone would teach a merge to refuse everything that sounds alarming. Models come in as
functions: this room knows no engine.

    rows, account = gather(Wanted("task", 100, "math"), from_templates("task", "math", 100, 0), answer=..., ...)
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from safety_data.contamination import normalise, overlaps
from safety_data.drafts import Batch, Draft, Generator, Kind, Reply
from safety_data.report import UNPARSABLE, Account
from safety_data.rows import CalibrationRow, DataError
from safety_data.taxonomy import CATEGORIES

Answers = Literal["own", "fixed"]  # the parents' own, or the phrase lists'
Answer = Callable[[Sequence[str]], list[Reply]]  # greedy answers of the parent whose rows these are
Judge = Callable[[str, str], str]  # (prompt, answer) -> why the answer is not the wanted one; "" where it is

TASK_ROWS, SAFETY_ROWS, BENIGN_ROWS = 240, 140, 140  # of a domain, and over all categories


@dataclass(frozen=True)
class Wanted:
    """A file of rows to make, and what every row of it says about how it was made.

    equal: as many rows of every category. Otherwise as they were drawn, spread as evenly as they allow.
    """

    kind: Kind
    rows: int
    domain: str | None = None
    seed: int = 0
    generator: Generator = "templates"
    source: str = "templates"
    hashes: dict[str, str] = field(default_factory=dict)
    equal: bool = True

    @property
    def name(self) -> str:
        """The domain, `safety` or `benign`: what the file is called."""
        return self.domain or self.kind

    @property
    def groups(self) -> int:
        """How many categories the rows are spread over."""
        return len(CATEGORIES) if self.kind != "task" else 1


def gather(
    wanted: Wanted,
    batches: Iterable[Batch],
    *,
    answer: Answer | None,
    judge: Judge | None,
    shown: Iterable[str] = (),
    held_out: Sequence[str] = (),
) -> tuple[list[CalibrationRow], Account]:
    """Take drafts until there are as many good rows as wanted.

    Rejected are prompts met before or `shown` as examples, prompts that overlap with `held_out` ones, answers that are
    empty or cut, and those that `judge` objects to. Without `answer`, drafts keep the response they have. Any prefix of
    the rows is balanced over categories. Raises DataError with the account when the drafts run out.
    """
    kept: list[Draft] = []
    rejected: Counter[str] = Counter()
    produced, chosen = 0, []
    seen = {normalise(prompt) for prompt in shown}
    for batch in batches:
        produced += batch.produced
        rejected[UNPARSABLE] += batch.produced - len(batch.drafts)
        fresh = _new(batch.drafts, seen, held_out, rejected)
        replies = answer([draft.prompt for draft in fresh]) if answer else [Reply(d.response, True) for d in fresh]
        for draft, reply in zip(fresh, replies, strict=True):
            if reason := _objection(draft.prompt, reply, judge):
                rejected[reason] += 1
            else:
                kept.append(draft._replace(response=reply.text))
        chosen = in_rounds(kept, wanted)
        if len(chosen) == wanted.rows:
            break
    spare = len(kept) - len(chosen)
    account = Account(wanted.name, wanted.rows, produced, len(chosen), spare, {k: n for k, n in rejected.items() if n})
    if len(chosen) < wanted.rows:
        raise DataError(
            f"{account}{_shortest(kept, wanted)}; ask for fewer rows, or for a writer or parent that does it"
        )
    return [_row(wanted, number, draft) for number, draft in enumerate(chosen, start=1)], account


def in_rounds(drafts: Sequence[Draft], wanted: Wanted) -> list[Draft]:
    """At most the rows wanted, one of each category in turn; where `equal`, only as long as every one has another."""
    groups: dict[str | None, list[Draft]] = {}
    for draft in drafts:
        groups.setdefault(draft.category, []).append(draft)
    rng, chosen = random.Random(f"rounds {wanted.seed}"), []
    for turn in range(max(map(len, groups.values()), default=0)):
        present = [group[turn] for group in groups.values() if turn < len(group)]
        if wanted.equal and len(present) < min(wanted.groups, wanted.rows - len(chosen)):
            break
        chosen += rng.sample(present, len(present))
    return chosen[: wanted.rows]


def _new(drafts: Sequence[Draft], seen: set[str], held_out: Sequence[str], rejected: Counter[str]) -> list[Draft]:
    """The drafts whose prompts are neither met before nor tested on. Adds to `seen` and `rejected`."""
    tested = {found.calibration for found in overlaps([draft.prompt for draft in drafts], held_out)}
    fresh = []
    for draft in drafts:
        key = normalise(draft.prompt)
        if key in seen:
            rejected["repeated"] += 1
        elif draft.prompt in tested:
            rejected["overlaps with a test prompt"] += 1
        else:
            fresh.append(draft)
        seen.add(key)
    return fresh


def _objection(prompt: str, reply: Reply, judge: Judge | None) -> str:
    """Why an answer is not kept; "" where it is."""
    if not reply.text.strip():
        return "empty answer"
    if not reply.finished:
        return "answer cut at the token limit"
    return judge(prompt, reply.text) if judge else ""


def _shortest(kept: Sequence[Draft], wanted: Wanted) -> str:
    """Which categories hold a balanced set back."""
    if wanted.kind == "task" or not wanted.equal:
        return ""
    have = Counter(draft.category for draft in kept)
    least = sorted(CATEGORIES, key=lambda category: have[category])[:3]
    return "; fewest in " + ", ".join(f"{category} ({have[category]})" for category in least)


def _row(wanted: Wanted, number: int, draft: Draft) -> CalibrationRow:
    label = f"task-{wanted.domain}" if wanted.kind == "task" else wanted.kind
    return CalibrationRow(
        id=f"{label}-calibration-{number:03}",
        kind=wanted.kind,
        domain=wanted.domain,
        category=draft.category,
        prompt=draft.prompt,
        response=draft.response,
        source=wanted.source,
        seed=wanted.seed,
        generator=wanted.generator,
        hashes=wanted.hashes,
    )
