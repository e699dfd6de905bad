"""Iso-C: make all directions of the merged task matrix equally strong.

Σ δ_i = U diag(σ) Vᵀ,   θ = θ_b + λ mean(σ) U Vᵀ   for matrices;  θ_b + λ mean(δ) for vectors and scalars

Directions without any strength are not made up: only the numerical rank of Σ δ_i counts (low-rank adapters sum to less
than full rank, and an SVD fills the rest with arbitrary directions).
"""

import torch
from torch import Tensor

from merges.registry import merger, param

SKETCH = 64  # columns of a random sketch


@merger(title="Iso-C", paper="arXiv:2502.04959")
def iso_c(deltas: Tensor, *, lam: float = param(1.0, low=0, high=3)) -> Tensor:
    """Flatten the spectrum of the sum.

    deltas: [n_models, *shape] -> [*shape]; tensors of more than two dimensions count as matrices [first, rest]. lam:
    scale of the merged task vector.
    """
    if deltas.dim() < 3 or not deltas.any():
        return lam * deltas.mean(0)
    u, s, vh = svd(deltas.sum(0).flatten(1))
    return lam * (s.mean() * u @ vh).view(deltas.shape[1:])


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [rows, r], singular values [r] and Vᵀ [r, columns] of a matrix of numerical rank r >= 1."""
    u, s, vh = _few_directions(matrix) or torch.linalg.svd(matrix, full_matrices=False)
    rank = max(1, int((s > s[0] * _negligible(matrix)).sum()))
    return u[:, :rank], s[:rank], vh[:rank]


def _negligible(matrix: Tensor) -> float:
    """Singular values below this share of the largest are rounding."""
    return max(matrix.shape) * torch.finfo(matrix.dtype).eps


def _few_directions(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """The same from a random sketch (Halko et al. 2011, arXiv:0909.4061), some thirty times as fast; None where it
    leaves out anything that counts. The task vectors of LoRA adapters have a rank of a few dozen at most."""
    if min(matrix.shape) <= 2 * SKETCH:
        return None
    probes = torch.randn(matrix.shape[1], SKETCH, generator=torch.Generator().manual_seed(0)).to(matrix)
    basis = torch.linalg.qr(matrix @ probes).Q
    u, s, vh = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    left = torch.linalg.matrix_norm(matrix - basis @ (basis.T @ matrix))
    return (basis @ u, s, vh) if left <= s[0] * _negligible(matrix) else None
