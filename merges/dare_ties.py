"""DARE with TIES: drop elements of each task vector at random, rescale the rest, then elect signs.

m_i ~ Bernoulli(density),  δ_i' = m_i δ_i / density,  then the sign election and disjoint mean of TIES
"""

import torch
from torch import Tensor

from merges.errors import MergeError
from merges.registry import PerModel, Rngs, merger, param
from merges.ties import disjoint_mean


@merger(title="DARE-TIES", paper="arXiv:2311.03099")
def dare_ties(
    deltas: Tensor,
    *,
    rngs: Rngs,
    weight: PerModel = param(1.0, low=0, high=1.5),
    density: float = param(0.5, low=0.01, high=1, smooth=False),
    lam: float = param(1.0, low=0, high=2),
    rescale: str = "density",
) -> Tensor:
    """Drop at random and rescale, elect sign, disjoint mean.

    deltas: [n_models, *shape] -> [*shape]. weight, lam: as in TIES. density: probability that an element is kept.
    rescale: "density" divides by it, as in the paper; "l1" restores each task vector's L1 norm. rngs: drawn per
    (seed, model, tensor), so order and parallelism never change the result.
    """
    dropped = torch.stack([drop(d, density, rescale, rng) for d, rng in zip(deltas, rngs, strict=True)])
    return lam * disjoint_mean(dropped, weight)


def drop(delta: Tensor, density: float, rescale: str, rng: torch.Generator) -> Tensor:
    """Keep each element with probability `density` and rescale what is left. The draw itself is on the CPU, so that
    every device sees the same mask."""
    if rescale not in ("density", "l1"):
        raise MergeError(f"dare_ties: rescale must be 'density' or 'l1', got {rescale!r}")
    keep = torch.rand(delta.shape, generator=rng).to(delta.device) < density
    kept = torch.where(keep, delta, 0.0)
    if rescale == "density":
        return kept / density
    left = kept.abs().sum()
    return kept * (delta.abs().sum() / left) if left > 0 else kept
