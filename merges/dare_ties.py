"""DARE with TIES: drop elements of each task vector at random, rescale the rest, then elect signs.

m_i ~ Bernoulli(density),  δ_i' = m_i δ_i / density,  then the sign election and disjoint mean of TIES
"""

import torch
from torch import Tensor

from merges.errors import MergeError
from merges.registry import Held, PerModel, Rngs, at_once, merger, param
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
    held: Held = at_once,
) -> Tensor:
    """Drop at random and rescale, elect sign, disjoint mean.

    deltas: [n_models, *shape] -> [*shape]. weight, lam: as in TIES. density: probability that an element is kept.
    rescale: "density" divides by it, as in the paper; "l1" restores each task vector's L1 norm. rngs: drawn per
    (seed, model, tensor), so order and parallelism never change the result.
    """
    if rescale not in ("density", "l1"):
        raise MergeError(f"dare_ties: rescale must be 'density' or 'l1', got {rescale!r}")
    masks = held(drawn, rngs, deltas, density)
    dropped = torch.stack([drop(d, mask, density, rescale) for d, mask in zip(deltas, masks, strict=True)])
    return lam * disjoint_mean(dropped, weight)


def drawn(rngs: Rngs, deltas: Tensor, density: float) -> list[Tensor]:
    """Which elements of each task vector stay: bool, [*shape] each. Drawn on the CPU: every device sees the same."""
    return [(torch.rand(d.shape, generator=rng) < density).to(d.device) for d, rng in zip(deltas, rngs, strict=True)]


def drop(delta: Tensor, kept: Tensor, density: float, rescale: str) -> Tensor:
    """Zero what is not kept and rescale the rest."""
    left = delta * kept
    if rescale == "density":
        return left / density
    total = left.abs().sum()
    return left * (delta.abs().sum() / total) if total > 0 else left
