"""DELLA-Merging: MagPrune drops elements of each task vector at random, small ones more often; then TIES' election.

p = density − ε + 2ε · rank / (N_row − 1)   by the rank of |δ| within a row, the smallest 0;  m ~ Bernoulli(p)
δ_i' = m δ_i / p,  then the sign election and disjoint mean of TIES

A vector is one row; rows of one element are kept.
"""

import torch
from torch import Tensor

from merges.blocks import blockwise
from merges.dare_ties import l1_scales
from merges.errors import MergeError
from merges.registry import Held, PerModel, Rngs, at_once, merger, param
from merges.ties import disjoint_mean


@merger(title="DELLA", paper="arXiv:2406.11617")
def della(
    deltas: Tensor,
    *,
    rngs: Rngs,
    weight: PerModel = param(1.0, low=0, high=1.5),
    density: float = param(0.5, low=0.01, high=1, smooth=False),
    epsilon: float = param(0.15, low=0, high=0.5, smooth=False),
    lam: float = param(1.0, low=0, high=2),
    normalize: bool = True,
    rescale: str = "probability",
    held: Held = at_once,
) -> Tensor:
    """Drop by rank and rescale, elect sign, disjoint mean.

    deltas: [n_models, *shape] -> [*shape]. weight, lam, normalize: as in TIES. density: mean probability that an
    element is kept. epsilon: how far the probability of the smallest lies below the mean, and that of the largest
    above it; where it would leave [0, 1] it is cut there. rescale: "probability" divides each element by its own, as
    in the paper; "l1" restores each task vector's L1 norm.
    """
    inverse = held(kept, rngs, deltas, density, epsilon)
    scale = scales(deltas, inverse, rescale)
    return blockwise(
        lambda block, inverse: lam * disjoint_mean(magprune(block, inverse, scale), weight, normalize), deltas, inverse
    )


def kept(rngs: Rngs, deltas: Tensor, density: float, epsilon: float) -> Tensor:
    """1 / p where an element is kept, else 0: [n_models, *shape]. Drawn on the CPU: every device sees the same."""
    return torch.stack([_kept(delta, rng, density, epsilon) for delta, rng in zip(deltas, rngs, strict=True)])


def scales(deltas: Tensor, inverse: Tensor, rescale: str) -> Tensor | None:
    """For "l1" what each task vector is multiplied by to have its old L1 norm, [n_models, 1]; else None.

    Raises MergeError for a way of rescaling that is not known.
    """
    if rescale not in ("probability", "l1"):
        raise MergeError(f"rescale must be 'probability' or 'l1', got {rescale!r}")
    return None if rescale == "probability" else l1_scales(deltas, inverse > 0)


def magprune(deltas: Tensor, inverse: Tensor, scale: Tensor | None) -> Tensor:
    """What is kept of each task vector, rescaled: each element by 1 / p, or all of a task vector by its scale.

    [n_models, elements] twice -> [n_models, elements]
    """
    return deltas * inverse if scale is None else deltas * (inverse > 0) * scale


def _kept(delta: Tensor, rng: torch.Generator, density: float, epsilon: float) -> Tensor:
    rows = delta.abs().view(-1, delta.shape[-1])
    length = rows.shape[1]
    if density >= 1 or length <= 1:
        return torch.ones_like(delta)
    share = torch.arange(length, dtype=torch.float32) / (length - 1)
    probability = (density - epsilon + 2 * epsilon * share).clamp(0, 1)
    # Draws belong to ranks, so the row need not be put back in order before it is drawn.
    drawn = torch.rand(rows.shape, generator=rng) < probability
    inverse = torch.where(drawn, 1 / probability.clamp_min(torch.finfo(torch.float32).tiny), 0.0).to(delta.device)
    return torch.empty_like(rows).scatter_(1, rows.argsort(dim=1), inverse).view(delta.shape)
