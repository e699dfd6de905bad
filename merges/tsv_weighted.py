"""TSV-Merge with a weight for every singular direction: each task gives up the directions that cost the others most.

δ_i = U_i diag(σ_i) V_iᵀ;  θ = θ_b + U_⊥ diag(w σ) V_⊥ᵀ, w_ij on task i's j-th direction (`merges.tsv_m`)

All weights at 1 are TSV-Merge itself (arXiv:2412.00081). That choosing among singular directions merges better than
choosing among tasks was shown by AdaRank (arXiv:2503.22178), whose choices are masks found by an entropy; here they are
weights, and a tuner chooses them on calibration rows.
"""

import torch
from torch import Tensor

from merges.registry import DIRECTIONS, Held, PerDirection, at_once, merger, param
from merges.tsv_m import whitened


@merger(title="TSV-Merge, weighted by direction", paper="arXiv:2412.00081")
def tsv_weighted(deltas: Tensor, *, weight: PerDirection = param(1.0, low=0, high=2), held: Held = at_once) -> Tensor:
    """Whiten the singular directions of all tasks, then weigh each.

    deltas: [n_models, *shape] -> [*shape]; tensors of more than two dimensions count as matrices [first, rest]. weight:
    of each model's strongest directions, the last of all weaker ones; vectors and scalars take a model's mean.
    """
    if deltas.dim() < 3 or not deltas.any():
        return torch.tensordot(weight.mean(1) / len(deltas), deltas, dims=1)
    u, s, vh, task, rank = held(whitened, deltas)
    return (u * (weight[task, rank.clamp_max(DIRECTIONS - 1)] * s) @ vh).view(deltas.shape[1:])
