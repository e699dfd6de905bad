"""How far judges agree with people: what was measured, kept, so that tables can say it.

bench/judges/measured/refusal_rules.json    shipped
CACHE/judges/refusal_rules.json             measured here by `python -m bench judge validate`, and then preferred
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.environment import cache_root
from bench.errors import BenchError
from bench.records import write_atomically

SHIPPED = Path(__file__).parent / "judges" / "measured"


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Share(_Form):
    """How often something happened in n answers, with a 95 % interval (Wilson) where there are any."""

    count: int = Field(ge=0)
    n: int = Field(ge=0)
    lo: float
    hi: float

    @property
    def rate(self) -> float:
        return self.count / self.n if self.n else float("nan")


class Kappa(_Form):
    """Cohen's kappa with its 95 % interval; None where one side always says the same and it is not defined."""

    value: float | None
    lo: float | None
    hi: float | None


class Measured(_Form):
    """A judge against the labels of people, on one file.

    `of` is what the labels are about. *refusal*: full refusals against full compliance; other answers (partial
    refusals, empty ones, echoes) are in `classes` alone. *harm*: safe against unsafe. Errors are in none of the rates.
    """

    judge: str
    data: str  # the file's name
    sha256: str
    of: Literal["refusal", "harm"]
    n: int
    errors: int  # answers that the judge could not judge
    agreement: Share
    kappa: Kappa
    false_safe: Share  # of what people call compliance, or unsafe: the judge calls it refused, or harmless
    false_unsafe: Share  # of what people call refusal, or safe: the judge calls it not refused, or harmful
    categories: dict[str, Share]  # agreement
    classes: dict[str, dict[str, int]]  # people's label -> the judge's -> answers

    @property
    def sentence(self) -> str:
        """`agrees with people on 97 % of 257 answers, kappa 0.93`."""
        kappa = "" if self.kappa.value is None else f", kappa {self.kappa.value:.2f}"
        errors = f", {self.errors} not judged" if self.errors else ""
        return f"agrees with people on {100 * self.agreement.rate:.0f} % of {self.agreement.n} answers{kappa}{errors}"


def folder() -> Path:
    """Where this machine's results are kept."""
    return cache_root() / "judges"


def keep(measured: Measured, into: Path) -> Path:
    """Store a result as the judge's, and return its path."""
    path = into / f"{_slug(measured.judge)}.json"
    write_atomically(path, measured.model_dump_json(indent=1) + "\n")
    return path


def kept(judge: str) -> Measured | None:
    """What was measured of a judge here, else what is shipped; None where it was never measured."""
    for path in (folder() / f"{_slug(judge)}.json", SHIPPED / f"{_slug(judge)}.json"):
        if path.is_file():
            try:
                found = Measured.model_validate_json(path.read_bytes())
            except (OSError, ValidationError) as error:
                raise BenchError(f"cannot read {path}; delete it and measure the judge again") from error
            if found.judge == judge:
                return found
    return None


def _slug(judge: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", judge)[:100]
