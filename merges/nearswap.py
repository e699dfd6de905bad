"""NearSwap: go to the other model where it is near, and stay where it is far.

θ = (1 − s) a + s b,   s = min(1, t / |a − b|), element by element

From the first model on, each further one is folded in.
"""

from torch import Tensor

from merges.registry import merger, param


@merger(title="NearSwap", paper="alchemonaut 2024", ordered=True)
def nearswap(tensors: Tensor, *, t: float = param(0.0001, low=0, high=1)) -> Tensor:
    """Swap what is near.

    tensors: [n_models, *shape] -> [*shape]. t: a change of this size or smaller is taken whole, a larger one is cut to
    this size. The first model is the one that is changed; the order matters.
    """
    merged = tensors[0]
    for tensor in tensors[1:]:
        change = tensor - merged
        merged = merged + change.clamp(-t, t)
    return merged
