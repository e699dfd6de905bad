"""Model Stock: how far to go from the base towards the mean, from the angle between the task vectors.

θ = θ_b + t · mean(δ),   t = n c / (1 + (n − 1) c),   c the mean cosine between pairs of δ

Where 1 + (n − 1) c is zero the task vectors cancel and there is no estimate: the tensor stays the base's.
"""

import itertools

import torch
from torch import Tensor

from merges.registry import merger

SMALL = 1e-6  # below this a product of norms, or a denominator, counts as zero


@merger(title="Model Stock", paper="arXiv:2403.19522")
def model_stock(deltas: Tensor, *, filter_wise: bool = False) -> Tensor:
    """Interpolate between base and mean by the geometry of the task vectors.

    deltas: [n_models, *shape] -> [*shape]. filter_wise: an angle for each row instead of one for the tensor. Of one
    model the result is that model.
    """
    if len(deltas) == 1:
        return deltas[0]
    count, rows = len(deltas), deltas.flatten(1)
    if filter_wise:
        rows = deltas.reshape(count, -1, deltas.shape[-1])
    norms = rows.norm(dim=-1)
    pairs = [
        ((rows[i] * rows[j]).sum(-1) / (norms[i] * norms[j]).clamp_min(SMALL)).clamp(-1, 1)
        for i, j in itertools.combinations(range(count), 2)
    ]
    cosine = torch.stack(pairs).mean(0).unsqueeze(-1)
    below = 1 + (count - 1) * cosine
    share = torch.where(below.abs() < SMALL, 0.0, count * cosine / torch.where(below.abs() < SMALL, 1.0, below))
    return (share * rows.mean(0)).reshape(deltas.shape[1:])
