"""RESTA: merge the experts by task arithmetic, then add the safety vector to restore what they forgot.

θ = θ_b + λ Σ w_i δ_i + β (θ_aligned − θ_unaligned)

The base stands for the unaligned model; the paper makes one by fine-tuning on harmful answers. Its variant with DARE is
left out: dropping at random is a technique of its own, and without it a result has no seed to depend on.
"""

import torch
from torch import Tensor

from merges.registry import PerModel, merger, param


@merger(title="RESTA", paper="arXiv:2402.11746")
def resta(
    deltas: Tensor,
    safety: Tensor,
    *,
    weight: PerModel = param(1.0, low=0, high=1.5),
    lam: float = param(0.4, low=0, high=2),
    beta: float = param(1.0, low=0, high=2),
) -> Tensor:
    """Task arithmetic plus the safety vector.

    deltas: [n_experts, *shape], safety: [*shape] -> [*shape]. weight, lam: as in Task Arithmetic. beta: scale of the
    safety vector; 1 adds the whole of what alignment changed.
    """
    return torch.tensordot(lam * weight, deltas, dims=1) + beta * safety
