"""What every registered tensor-level merger must satisfy, whatever it does."""

import pytest
import torch

from merges.apply import merge
from merges.errors import MergeError
from merges.registry import load_all
from merges.space import layer_groups, uniform

MERGERS = {name: merger for name, merger in load_all().items() if merger.form != "context"}
SHAPES = {
    "model.embed_tokens.weight": (16, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.1.mlp.up_proj.weight": (1, 8),
    "model.norm.weight": (8,),
    "scale": (),
    "nothing": (0, 4),
}

pytestmark = pytest.mark.parametrize("merger", MERGERS.values(), ids=MERGERS.keys())


def model(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}


def merged(merger, models, base, seed=0, dtype=torch.float32, **options):
    groups = layer_groups(base, 1)
    coefficients = uniform(merger, groups.values(), list(models), merger.check_options(options))
    return dict(merge(merger, models, base, coefficients, groups, seed=seed, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_names_shapes_and_dtype_are_the_reference_models(merger, dtype):
    base = model(0, dtype)
    result = merged(merger, {"a": model(1, dtype), "b": model(2, dtype)}, base, dtype=dtype)
    assert list(result) == list(base)
    assert {name: tuple(tensor.shape) for name, tensor in result.items()} == SHAPES
    assert {tensor.dtype for tensor in result.values()} == {dtype}
    assert all(torch.isfinite(tensor).all() for tensor in result.values())


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_any_number_of_models_merges(merger, n):
    assert merged(merger, {str(index): model(index) for index in range(1, n + 1)}, model(0))


def test_merging_copies_of_one_model_returns_it(merger):
    base = model(0)
    result = merged(merger, {"a": base, "b": dict(base)}, base)
    assert all(torch.equal(result[name], base[name]) for name in base)


def test_the_same_seed_gives_the_same_bytes_and_another_only_where_random(merger):
    models, base = {"a": model(1), "b": model(2)}, model(0)
    first, again, other = (merged(merger, models, base, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in base)
    assert all(torch.equal(first[name], other[name]) for name in base) != merger.random


def test_the_order_of_tensors_changes_nothing(merger):
    models, base = {"a": model(1), "b": model(2)}, model(0)
    backwards = {name: base[name] for name in reversed(base)}
    first, second = merged(merger, models, base), merged(merger, models, backwards)
    assert all(torch.equal(first[name], second[name]) for name in base)


def test_the_order_of_models_changes_nothing_unless_it_is_declared(merger):
    if merger.name == "slerp":
        pytest.skip("slerp of two models is symmetric, its fold over more is declared to depend on their order")
    models, base = {"a": model(1), "b": model(2), "c": model(3)}, model(0)
    first, second = merged(merger, models, base), merged(merger, dict(reversed(models.items())), base)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in base)


def test_a_nan_in_a_parent_is_named_with_its_tensor(merger):
    broken = model(1)
    broken["model.norm.weight"][3] = float("nan")
    with pytest.raises(MergeError, match=r"model\.norm\.weight: a holds NaN"):
        merged(merger, {"a": broken, "b": model(2)}, model(0))


def test_a_parent_of_another_shape_is_named_with_its_tensor(merger):
    other = model(1) | {"model.norm.weight": torch.zeros(9)}
    with pytest.raises(MergeError, match=r"model\.norm\.weight: b has shape \[9\]"):
        merged(merger, {"a": model(1), "b": other}, model(0))


def test_every_bound_is_legal_and_just_outside_is_an_error(merger):
    for name, bounds in merger.parameters.items():
        for value in (bounds.low, bounds.high):
            merger.check_options({name: value})
        for value in (bounds.low - 0.01, bounds.high + 0.01):
            with pytest.raises(MergeError, match="must lie in"):
                merger.check_options({name: value})


def test_an_unknown_option_names_the_nearest(merger):
    with pytest.raises(MergeError, match="did you mean 'weight'"):
        merger.check_options({"weigth": 1.0})
