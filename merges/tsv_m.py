"""TSV-Merge: the strongest singular directions of each task matrix, freed of interference with the others'.

δ_i = U_i diag(σ_i) V_iᵀ, of each the first 1/n of the directions;  U = [U_1 ... U_n], V likewise
θ = θ_b + λ U_⊥ diag(σ) V_⊥ᵀ, U_⊥ the orthogonal matrix nearest to U;  vectors and scalars: mean(δ)
"""

import torch
from torch import Tensor

from merges.iso_c import svd
from merges.iso_cts import orthogonal
from merges.registry import merger, param


@merger(title="TSV-Merge", paper="arXiv:2412.00081")
def tsv_m(deltas: Tensor, *, lam: float = param(1.0, low=0, high=2)) -> Tensor:
    """Compress each task matrix, then whiten the directions.

    deltas: [n_models, *shape] -> [*shape]; tensors of more than two dimensions count as matrices [first, rest]. lam:
    scale of the merged task vector.
    """
    if deltas.dim() < 3 or not deltas.any():
        return lam * deltas.mean(0)
    matrices = deltas.flatten(2)
    keep = max(1, min(matrices.shape[1:]) // len(matrices))
    parts = [svd(matrix) for matrix in matrices if matrix.any()]
    u = torch.cat([u[:, :keep] for u, _, _ in parts], dim=1)
    s = torch.cat([s[:keep] for _, s, _ in parts])
    vh = torch.cat([vh[:keep] for _, _, vh in parts])
    return lam * (orthogonal(u) * s @ orthogonal(vh)).view(deltas.shape[1:])
