"""Run a merger over whole models, one tensor at a time, as a stream of (name, tensor).

    stream = merge(find("ties"), {"math": math, "chem": chem}, base, coefficients, groups, seed=0)
    for name, tensor in stream: ...

A model is a mapping from tensor name to tensor that reads lazily; none is ever held whole. Arithmetic is float32, the
result is cast once.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from merges.errors import MergeError
from merges.registry import Merger
from merges.space import Coefficients, Value, uniform

Model = Mapping[str, Tensor]
Weights = Iterable[tuple[str, Tensor]]


def merge(
    merger: Merger,
    models: Mapping[str, Model],
    base: Model | None,
    coefficients: Coefficients,
    groups: Mapping[str, str],
    *,
    seed: int,
    dtype: torch.dtype = torch.bfloat16,
) -> Iterator[tuple[str, Tensor]]:
    """Merge `models` (by name) tensor by tensor.

    `groups` maps every tensor name to its layer group, `coefficients` each group to the values in force there. `base`
    is where task vectors start; mergers of form "deltas" need it. Raises MergeError naming the tensor where shapes do
    not fit or a value is not finite.
    """
    if merger.form == "deltas" and base is None:
        raise MergeError(f"{merger.name} merges task vectors and needs a base model; give one parent the role base")
    reference = base if base is not None else next(iter(models.values()))
    for name in reference:
        try:
            origin, tensors = reference[name], _read(name, reference, models)
            if origin.is_floating_point():
                call = _call(merger, coefficients[groups[name]], list(models), name, seed)
                merged = _merge_one(merger, call, tensors, origin).to(dtype)
            else:
                merged = origin
        except MergeError as error:
            raise MergeError(f"{merger.name}, tensor {name}: {error}") from error
        yield name, merged


def _merge_one(merger: Merger, call: Callable[[Tensor], Tensor], tensors: dict[str, Tensor], origin: Tensor) -> Tensor:
    # Adapters leave most tensors alone, and merging copies of one tensor is that tensor: skip the work, exactly.
    if all(torch.equal(tensor, origin) for tensor in tensors.values()):
        return origin
    stacked, base = torch.stack([tensor.float() for tensor in tensors.values()]), origin.float()
    if merger.form == "deltas":
        stacked -= base
    # A method that elects or selects can lose a NaN on its way, so the input is checked as well as the output.
    if not _finite(stacked):
        guilty = [name for name, tensor in {**tensors, "the base": origin}.items() if not _finite(tensor.float())]
        raise MergeError(f"{' and '.join(guilty)} holds NaN or infinity; repair that checkpoint")
    merged = call(stacked)
    if merged.shape != origin.shape:
        raise MergeError(f"it returned shape {list(merged.shape)} for {list(origin.shape)}")
    if not _finite(merged):
        raise MergeError("the result is not finite; choose other coefficients")
    return base + merged if merger.form == "deltas" else merged


def _finite(tensor: Tensor) -> bool:
    """A sum is finite only where every element is; should the sum itself overflow, look at each."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _call(
    merger: Merger, values: Mapping[str, Value], models: list[str], tensor: str, seed: int
) -> Callable[[Tensor], Tensor]:
    """The merger's function with its coefficients bound: per-model values as tensors, generators freshly seeded."""
    arguments = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in values.items()}
    if merger.random:
        arguments["rngs"] = tuple(_generator(seed, model, tensor) for model in models)
    return lambda stacked: merger.function(stacked, **arguments)


def _generator(seed: int, model: str, tensor: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\0{model}\0{tensor}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _read(name: str, reference: Model, models: Mapping[str, Model]) -> dict[str, Tensor]:
    shape, tensors = reference[name].shape, {}
    for model, source in models.items():
        if name not in source:
            raise MergeError(f"{model} has no such tensor; merge models of one architecture")
        tensors[model] = source[name]
        if tensors[model].shape != shape:
            raise MergeError(f"{model} has shape {list(tensors[model].shape)}, the base {list(shape)}")
    return tensors


@dataclass
class Context:
    """What a whole-model merger is given.

    `loss` measures any stream of weights, or a model, on the calibration rows (mean response-token cross-entropy in
    nats, weighted as the suite says). `note` keeps a chosen coefficient for the record.
    """

    models: Mapping[str, Model]
    base: Model | None
    measure: Callable[[Weights], float]
    dtype: torch.dtype = torch.bfloat16
    notes: dict[str, Value] = field(default_factory=dict)

    def loss(self, model: str) -> float:
        """The calibration loss of one of the models."""
        weights = self.models[model]
        return self.measure((name, weights[name].to(self.dtype)) for name in weights)

    def note(self, name: str, value: Value) -> None:
        self.notes[name] = value

    def each_tensor(self, function: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Apply function([n_models, *shape]) -> [*shape] to every tensor of the models."""
        step = Merger("whole-model merge", "", "", "tensors", function, {}, {}, random=False)
        names = next(iter(self.models.values()))
        groups = dict.fromkeys(names, "all")
        return merge(step, self.models, None, uniform(step, ["all"], [], {}), groups, seed=0, dtype=self.dtype)


def differing(models: Mapping[str, Model], base: Model | None, groups: Mapping[str, str]) -> set[tuple[str, str]]:
    """The (group, model) pairs in which the model differs from the base anywhere; all pairs where there is no base."""
    if base is None:
        return {(group, model) for group in groups.values() for model in models}
    found: set[tuple[str, str]] = set()
    for name, group in groups.items():
        for model, source in models.items():
            if (group, model) not in found and not torch.equal(source[name], base[name]):
                found.add((group, model))
    return found
