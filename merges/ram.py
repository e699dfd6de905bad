"""Reinforced Agent Merging: average what several models changed, keep what only one did.

c = Σ [ |δ_i| > ε ],   θ = θ_b + Σ g_i δ_i [ |δ_i| > ε ] / max(c, 1)
g_i = 1 + r · min(ρ_i, α) where c = 1, else 1,   ρ_i = shared / unique elements of model i

With r > 0 what a model alone changed is raised by how much of its work is shared and therefore averaged away (RAM+).
"""

import torch
from torch import Tensor

from merges.registry import merger, param


@merger(title="RAM", paper="arXiv:2601.13572")
def ram(
    deltas: Tensor,
    *,
    r: float = param(0.0, low=0, high=1),
    alpha: float = param(0.2, low=0, high=1),
    epsilon: float = 1e-5,
) -> Tensor:
    """Tell shared changes from unique ones.

    deltas: [n_models, *shape] -> [*shape]. epsilon: a change of at most this is none. r: how much unique changes are
    raised (0: RAM; 0.1: RAM+). alpha: where the raise stops.
    """
    changed = deltas.abs() > epsilon
    count = changed.sum(0)
    shared = (changed & (count > 1)).flatten(1).sum(1)
    unique = (changed & (count == 1)).flatten(1).sum(1)
    raised = 1 + r * torch.clamp(shared / unique.clamp_min(1), max=alpha)
    each = raised.view(-1, *[1] * (deltas.dim() - 1))
    gain = torch.where(count == 1, each, 1.0)
    return (gain * deltas * changed).sum(0) / count.clamp_min(1)
