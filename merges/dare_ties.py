"""DARE with TIES: drop elements of each task vector at random, rescale the rest, then elect signs.

m_i ~ Bernoulli(density),  δ_i' = m_i δ_i / density,  then the sign election and disjoint mean of TIES
"""

import torch
from torch import Tensor

from merges.blocks import blockwise
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
    normalize: bool = True,
    rescale: str = "density",
    held: Held = at_once,
) -> Tensor:
    """Drop at random and rescale, elect sign, disjoint mean.

    deltas: [n_models, *shape] -> [*shape]. weight, lam, normalize: as in TIES. density: probability that an element
    is kept. rescale: "density" divides by it, as in the paper; "l1" restores each task vector's L1 norm. rngs: drawn
    per (seed, model, tensor), so order and parallelism never change the result.
    """
    masks = held(drawn, rngs, deltas, density)
    scale = scales(deltas, masks, density, rescale)
    return blockwise(lambda block, kept: lam * disjoint_mean(block * kept * scale, weight, normalize), deltas, masks)


def drawn(rngs: Rngs, deltas: Tensor, density: float) -> Tensor:
    """Which elements stay: bool, [n_models, *shape]. Drawn on the CPU, so that every device sees the same."""
    masks = [torch.rand(delta.shape, generator=rng) < density for delta, rng in zip(deltas, rngs, strict=True)]
    return torch.stack(masks).to(deltas.device)


def scales(deltas: Tensor, masks: Tensor, density: float, rescale: str) -> Tensor:
    """What each task vector is multiplied by to make up for what was dropped. [n_models, 1]

    Raises MergeError for a way of rescaling that is not known.
    """
    if rescale not in ("density", "l1"):
        raise MergeError(f"rescale must be 'density' or 'l1', got {rescale!r}")
    if rescale == "density":
        return torch.full((len(deltas), 1), 1 / density).to(deltas)
    return l1_scales(deltas, masks)


def l1_scales(deltas: Tensor, masks: Tensor) -> Tensor:
    """What restores each task vector's L1 norm after dropping; 1 where nothing is left. [n_models, 1]"""
    sums = [(delta.abs().sum(), delta[mask].abs().sum()) for delta, mask in zip(deltas, masks, strict=True)]
    return torch.stack([before / after if after > 0 else torch.ones_like(after) for before, after in sums])[:, None]
