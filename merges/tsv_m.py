"""TSV-Merge: the strongest singular directions of each task matrix, freed of interference with the others'.

δ_i = U_i diag(σ_i) V_iᵀ, of each the first 1/n of the directions;  U = [U_1 ... U_n], V likewise
θ = θ_b + λ U_⊥ diag(w σ) V_⊥ᵀ, U_⊥ the orthogonal matrix nearest to U, w_i on task i's σ;  vectors, scalars: mean(w δ)

The paper has no weights w (they are 1). Since tasks no longer interfere, moving one task's weight leaves the others be.
"""

import torch
from torch import Tensor

from merges.iso_c import svd
from merges.iso_cts import orthogonal
from merges.registry import Held, PerModel, at_once, merger, param


@merger(title="TSV-Merge", paper="arXiv:2412.00081")
def tsv_m(
    deltas: Tensor,
    *,
    weight: PerModel = param(1.0, low=0, high=2),
    lam: float = param(1.0, low=0, high=2),
    held: Held = at_once,
) -> Tensor:
    """Compress each task matrix, then whiten the directions.

    deltas: [n_models, *shape] -> [*shape]; tensors of more than two dimensions count as matrices [first, rest]. weight:
    of each model's directions. lam: scale of the merged task vector.
    """
    if deltas.dim() < 3 or not deltas.any():
        return lam * torch.tensordot(weight / len(deltas), deltas, dims=1)
    u, s, vh, task, _ = held(whitened, deltas)
    return lam * (u * (weight[task] * s) @ vh).view(deltas.shape[1:])


def whitened(deltas: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """U_⊥ [rows, r], σ [r], V_⊥ᵀ [r, columns]; of each direction the number of its model and its place there, the
    strongest first, [r] both."""
    matrices = deltas.flatten(2)
    keep = max(1, min(matrices.shape[1:]) // len(matrices))
    parts = {model: svd(matrix) for model, matrix in enumerate(matrices) if matrix.any()}
    u = torch.cat([u[:, :keep] for u, _, _ in parts.values()], dim=1)
    s = torch.cat([s[:keep] for _, s, _ in parts.values()])
    vh = torch.cat([vh[:keep] for _, _, vh in parts.values()])
    places = [(model, place) for model, (_, s, _) in parts.items() for place in range(len(s[:keep]))]
    task, rank = torch.tensor(places, device=deltas.device).unbind(1)
    return orthogonal(u), s, orthogonal(vh), task, rank
