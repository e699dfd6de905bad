"""Directions of tensors as points of a sphere, described by the angles between them alone.

Every mean of directions lies in their span. So it is found as n coefficients from the n x n matrix of inner products,
in float64, and only then are the tensors themselves added up, once.
"""

import torch
from torch import Tensor


def gram(tensors: Tensor) -> Tensor:
    """Inner products of the flattened tensors: [n, *shape] -> [n, n], float64."""
    flat = tensors.flatten(1)
    # Summed in blocks: float32 sums of millions of products would cost the angle its last digits.
    blocks = [block @ block.T for block in flat.split(2**16, dim=1)]
    return torch.stack(blocks).double().sum(0)


def combine(coefficients: Tensor, tensors: Tensor) -> Tensor:
    """Σ c_i θ_i. [n], [n, *shape] -> [*shape]"""
    return torch.tensordot(coefficients.to(tensors), tensors, dims=1)
