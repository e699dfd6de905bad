"""SafeMERGE: blend the aligned model into the layers whose task vector leaves what alignment changed.

V = θ_aligned − θ_b,   C = V Vᵀ / ‖V‖_F,   δ_i' = a δ_i + b V where cos(C δ_i, δ_i) < τ, else δ_i
θ = θ_b + λ Σ w_i δ_i'

The test is that of Safe LoRA, on the same tensors. The paper has one fine-tuned model and blends it with a safe one; of
several, each is tested and blended by itself. A layer is a tensor, matched by name.
"""

import torch
from torch import Tensor

from merges.registry import Held, PerModel, at_once, merger, param
from merges.safe_lora import stray


@merger(title="SafeMERGE", paper="arXiv:2503.17239")
def safemerge(
    deltas: Tensor,
    safety: Tensor,
    *,
    weight: PerModel = param(1.0, low=0, high=1.5),
    lam: float = param(0.4, low=0, high=2),
    finetuned: float = param(0.8, low=0, high=1),
    safe: float = param(0.2, low=0, high=1),
    tau: float = param(0.35, low=0, high=1, smooth=False),
    held: Held = at_once,
) -> Tensor:
    """Blend what strays, then task arithmetic.

    deltas: [n_experts, *shape], safety: [*shape] -> [*shape]. weight, lam: as in Task Arithmetic. finetuned, safe: the
    shares a and b of the expert and of the aligned parent in a blend. tau: the cosine below which a layer is blended;
    at 0 none is.
    """
    astray = held(are_astray, deltas, safety, tau)
    # Blending is linear, so the blends need not be made one by one.
    own = torch.where(astray, finetuned, 1.0)
    merged = torch.tensordot(lam * weight * own, deltas, dims=1)
    return merged + lam * safe * (weight * astray).sum() * safety


def are_astray(deltas: Tensor, safety: Tensor, tau: float) -> Tensor:
    """Whether each task vector strays: bool, [n_experts]."""
    return stray(deltas, safety, tau)[1].flatten()
