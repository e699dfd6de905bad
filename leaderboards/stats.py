"""Intervals and paired tests. Rates and scores are in [0, 1]; every interval is at the given confidence.

| question | answer |
|---|---|
| how sure is a rate, or a mean of scores in [0, 1]? | Wilson's score interval |
| how sure is the mean over domains? | the domains' intervals combined (MOVER) |
| do two arms differ on the same yes/no prompts? | exact McNemar test, Holm over the methods of a table |
| by how much do two arms differ on the same items? | paired bootstrap, stratified by domain, seeded |
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


class Estimate(NamedTuple):
    """A value with the ends of its interval."""

    value: float
    lo: float
    hi: float


class PairedTest(NamedTuple):
    """Prompts whose outcome changed from yes to no (`lost`) and from no to yes (`gained`), and the two-sided p."""

    lost: int
    gained: int
    p: float


def wilson(count: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for `count` successes in `n` trials (Wilson 1927, 10.1080/01621459.1927.10502953).

    `count` may be a sum of scores in [0, 1]: their variance is at most that of yes/no outcomes with the same mean, so
    the interval is then conservative. Unlike a bootstrap it keeps its width at 0 and n. Raises ValueError outside
    0 <= count <= n."""
    if not 0 <= count <= n or n < 1:
        raise ValueError(f"a count lies between 0 and n >= 1, not {count} of {n}")
    lo, hi = proportion_confint(count, n, alpha=1 - confidence, method="wilson")
    # At 0 and n one end is the rate itself; rounding must not put it on the other side.
    return min(float(lo), count / n), max(float(hi), count / n)


def score_estimate(scores: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The mean of n >= 1 scores in [0, 1] with Wilson's interval."""
    total = float(np.clip(np.sum(scores), 0, len(scores)))
    return Estimate(total / len(scores), *wilson(total, len(scores), confidence))


def mean_estimate(parts: Sequence[Estimate]) -> Estimate:
    """The unweighted mean of independent estimates: distances to the ends add in quadrature.

    MOVER, Zou and Donner 2008 (10.1002/sim.3095); for two rates it is Newcombe's hybrid score interval. No parts give
    NaN."""
    if not parts:
        return Estimate(*[float("nan")] * 3)
    value, lo, hi = np.array(parts).T
    mean = float(value.mean())
    below, above = np.linalg.norm(value - lo) / len(parts), np.linalg.norm(hi - value) / len(parts)
    return Estimate(mean, max(0.0, mean - float(below)), min(1.0, mean + float(above)))


def paired_exact(before: Sequence[bool], after: Sequence[bool]) -> PairedTest:
    """Exact McNemar test of two yes/no outcomes of the same prompts, in the same order (10.1007/BF02295996).

    Under the null a changed prompt changes either way with probability 1/2; no changed prompt gives p = 1."""
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"paired outcomes need equal lengths, not {first.size} and {second.size}")
    lost, gained = int((first & ~second).sum()), int((~first & second).sum())
    return PairedTest(lost, gained, binomtest(lost, lost + gained).pvalue if lost + gained else 1.0)


def paired_change(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Mean over strata (domains) of the mean change per item, with the percentile interval of a paired bootstrap.

    before, after: scores per stratum, the same items in the same order. Items are resampled within their stratum.
    Where no item changed the interval has no width. Same seed, same interval."""
    rng = np.random.default_rng(seed)
    means, draws = [], []
    for first, second in zip(before, after, strict=True):
        changes = np.subtract(second, first, dtype=float)
        # Drawing how often each distinct change occurs is the same as drawing items, and far cheaper: -1, 0 and 1.
        values, counts = np.unique(changes, return_counts=True)
        means.append(changes.mean())
        draws.append(rng.multinomial(changes.size, counts / changes.size, size=resamples) @ values / changes.size)
    if not means:
        return Estimate(*[float("nan")] * 3)
    tail = (1 - confidence) / 2
    lo, hi = np.quantile(np.mean(draws, axis=0), [tail, 1 - tail])
    return Estimate(float(np.mean(means)), float(lo), float(hi))


def holm(pvalues: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down procedure, in the order given."""
    return [float(p) for p in multipletests(pvalues, method="holm")[1]] if len(pvalues) else []
