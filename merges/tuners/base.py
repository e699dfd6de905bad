"""What a tuner is: a function of a space of coefficients and a loss."""

from collections.abc import Callable
from typing import Protocol

from merges.space import Coefficients, Space

Objective = Callable[[Coefficients], float]  # the loss to minimise: one merge and one pass over the calibration rows


class Tuner(Protocol):
    """Chooses coefficients. Its keyword arguments with defaults are its options, set in a suite."""

    __name__: str

    def __call__(self, space: Space, objective: Objective, seed: int, **options: float) -> Coefficients: ...
