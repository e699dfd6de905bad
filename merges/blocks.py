"""Elementwise work on large tensors in blocks that stay in the processor's cache.

A chain of operations on whole tensors reads and writes memory once an operation, and holds every intermediate result;
in blocks it reads each input and writes each output once, and holds almost nothing. The values are the same.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 2**16  # elements of a block: a few rows of it, and what is made of them, fit into 1 MiB


def blockwise(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function(*tensors)` for one that treats every element by itself: [n, block] of each tensor -> [block].

    tensors: [n, *shape] each, of one shape -> [*shape].
    """
    shape, flat = tensors[0].shape[1:], [tensor.reshape(len(tensor), -1) for tensor in tensors]
    blocks = (function(*block) for block in zip(*(rows.split(BLOCK, dim=1) for rows in flat), strict=True))
    first = next(blocks)
    if first.requires_grad:
        return torch.cat([first, *blocks]).view(shape)
    merged = torch.empty(shape, dtype=first.dtype, device=first.device)
    for part, block in zip(merged.view(-1).split(BLOCK), itertools.chain([first], blocks), strict=True):
        part.copy_(block)
    return merged
