"""SCE: select the elements in which models differ most, weigh models by the size of their changes, erase minorities.

select     keep the k = floor(density · N') elements of largest variance over the models, N' those of any variance
calculate  α_i = mean(δ_i²) / Σ_j mean(δ_j²)
erase      m_i = [sign(δ_i) = s],   s = + where Σ δ_i >= 0, else −
θ = θ_b + λ Σ α_i δ_i m_i / Σ α_i m_i;  θ_b where none agree
"""

import torch
from torch import Tensor

from merges.ranks import at_ranks
from merges.registry import Held, at_once, merger, param


@merger(title="SCE", paper="arXiv:2408.07990")
def sce(
    deltas: Tensor,
    *,
    density: float = param(0.1, low=0, high=1, smooth=False),
    lam: float = param(1.0, low=0, high=2),
    held: Held = at_once,
) -> Tensor:
    """Select, calculate, erase.

    deltas: [n_models, *shape] -> [*shape]. density: share of the elements that is kept (0.1 in the paper); all of them
    at 1. lam: scale of the merged task vector.
    """
    return lam * held(_fused, deltas, density)


def _fused(deltas: Tensor, density: float) -> Tensor:
    if density < 1:
        deltas = deltas * _salient(deltas, density)
    sizes = deltas.flatten(1).square().mean(1)
    total = sizes.sum()
    share = sizes / total if total > 0 else torch.full_like(sizes, 1 / len(sizes))
    elected = torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
    agreeing = (deltas * elected).clamp_min_(0)
    weight = torch.tensordot(share, agreeing.sign(), dims=1)
    return elected * torch.tensordot(share, agreeing, dims=1) / torch.where(weight > 0, weight, 1.0)


def _salient(deltas: Tensor, density: float) -> Tensor:
    """Which elements are kept: bool, [*shape]. Ties with the last of them are kept too."""
    variance = deltas.var(0, unbiased=False)
    keep = int(density * int(variance.count_nonzero()))
    if not keep:
        return torch.zeros_like(variance, dtype=torch.bool)
    (least,) = at_ranks(variance.flatten(), [variance.numel() - keep])
    return variance >= least
