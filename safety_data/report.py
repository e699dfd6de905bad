"""The account of a data build: what was produced, parsed, kept, and rejected for which reason; and the data card.

    read_report(folder).accounts[0].rejected    # {"judged compliance": 12, "repeated": 3}

Both lie beside the rows, as `calibration.json` and `calibration.md`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from safety_data.rows import DataError

REPORT, CARD = "calibration.json", "calibration.md"
UNPARSABLE = "unparsable"


@dataclass(frozen=True)
class Account:
    """Where everything a generator produced for one file has gone. Raises ValueError where it does not add up."""

    name: str  # a domain, or safety
    asked: int
    produced: int
    kept: int
    spare: int  # good, and more than was asked for
    rejected: dict[str, int] = field(default_factory=dict)  # by reason

    def __post_init__(self) -> None:
        gone = self.kept + self.spare + sum(self.rejected.values())
        if gone != self.produced:
            raise ValueError(f"{self.name}: {self.produced} drafts were produced and {gone} are accounted for")

    @property
    def parsed(self) -> int:
        """How much of what was produced could be parsed."""
        return self.produced - self.rejected.get(UNPARSABLE, 0)

    @property
    def reasons(self) -> str:
        """`12 judged compliance, 3 repeated`, the commonest first."""
        ordered = sorted(self.rejected.items(), key=lambda item: -item[1])
        return ", ".join(f"{count} {reason}" for reason, count in ordered) or "none"

    def __str__(self) -> str:
        return (
            f"{self.name}: asked for {self.asked} rows and kept {self.kept} (produced {self.produced}, parsed "
            f"{self.parsed}, rejected: {self.reasons})"
        )


@dataclass(frozen=True)
class Report:
    """A data build: how it was made, of what, and the account of each file."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    suite: str
    generator: str
    answers: str  # own or fixed
    seed: int
    max_tokens: int  # of an answer
    judge: str
    writer: str | None  # the parent that wrote unsafe prompts; None for the phrase lists
    answered: dict[str, str]  # which parent answered, by file name without its ending; empty for fixed answers
    parents: dict[str, str]  # SHA-256 of the parents involved
    compared: dict[str, int]  # test prompts that no row overlaps with, by where they are used
    unchecked: list[str]  # tasks of the suite whose test items are not on disk
    files: dict[str, str]  # SHA-256 of the files of rows
    accounts: list[Account]


_FORM = TypeAdapter(Report)


def write_report(folder: Path, report: Report) -> None:
    """Write the report and the data card made from it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).write_bytes(_FORM.dump_json(report, indent=2) + b"\n")
    (folder / CARD).write_text(card(report), encoding="utf-8")


def read_report(folder: Path) -> Report:
    """The report in a folder. Raises DataError when there is none or it is of another form."""
    path = folder / REPORT
    try:
        return _FORM.validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"there is no report {path}; `python -m bench data build` writes one") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}; build the data again") from error


CARD_TEXT = """\
# Data card: calibration rows of the suite `{report.suite}`

Written by `python -m bench data build`; do not edit. Synthetic prompt-response pairs whose loss a tuner minimises:
`safety` pairs unsafe prompts with refusals, `benign` harmless but alarming ones with answers, and the other files a
domain's questions with worked answers. Rows are
`CalibrationRow` of `safety_data/rows.py`, one JSON object a line.

| file | rows | produced | parsed | spare | rejected | answered by |
|---|---|---|---|---|---|---|
{accounts}

## How it was made

* Generator `{report.generator}`, seed {report.seed}. {prompts}
* {answers}
* No prompt comes twice, and none overlaps with a test prompt exactly, after normalising, or in a run of eight words.
  Compared with: {compared}.{unchecked}
{parents}
## Use and limits

For choosing merging coefficients, and for nothing a person reads. Prompts are English, single-turn, category-level
requests; no response describes how harm is done. Refusals show one model's way of refusing. Answers of an expert are
its own and not corrected: some are wrong. No annotators were involved.
"""


def card(report: Report) -> str:
    """The data card as Markdown."""
    own = report.answers == "own"
    return CARD_TEXT.format(
        report=report,
        accounts="\n".join(
            f"| `{a.name}.calibration.jsonl` | {a.kept} | {a.produced} | {a.parsed} | {a.spare} | {a.reasons} "
            f"| {report.answered.get(a.name, 'phrase lists')} |"
            for a in report.accounts
        ),
        prompts=(
            "Prompts come from the phrase lists in `safety_data/templates`, split `calibration`."
            if report.writer is None
            else f"Unsafe prompts were drafted by `{report.writer}` for categories drawn uniformly, domain questions "
            "by its expert, shown three calibration examples; temperature 0.8, parsed strictly."
        ),
        answers=(
            f"Responses are the named parents' own greedy answers of fewer than {report.max_tokens} tokens; of the "
            f"aligned parent's, those that the judge `{report.judge}` calls refusals."
            if own
            else "Responses are the phrase lists' fixed strings, not answers of a model."
        ),
        compared=", ".join(f"{name} ({count})" for name, count in report.compared.items()),
        unchecked=f" Not on disk, so not compared with: {', '.join(report.unchecked)}." if report.unchecked else "",
        parents="".join(
            [
                "\n| parent | SHA-256 |\n|---|---|\n",
                *(f"| {name} | `{sha}` |\n" for name, sha in report.parents.items()),
            ]
        )
        if report.parents
        else "",
    )
