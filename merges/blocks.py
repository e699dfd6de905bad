"""Elementwise work on large tensors in blocks that stay in the processor's cache.

A chain of operations on whole tensors reads and writes memory once an operation, and holds every intermediate result;
in blocks it reads each input and writes each output once, and holds almost nothing. The values are the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 2**18  # elements of a block


def blockwise(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function(*tensors)` for one that treats every element by itself: [n, block] of each tensor -> [block].

    tensors: [n, *shape] each, of one shape -> [*shape].
    """
    shape, flat = tensors[0].shape[1:], [tensor.reshape(len(tensor), -1) for tensor in tensors]
    blocks = zip(*(rows.split(BLOCK, dim=1) for rows in flat), strict=True)
    return torch.cat([function(*block) for block in blocks]).view(shape)
