"""What every registered merger must satisfy, whatever it does."""

import zlib

import pytest
import torch

from merges.apply import Context, Plan, merge
from merges.errors import MergeError
from merges.registry import load_all
from merges.space import layer_groups, uniform

MERGERS = load_all()
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


class FakeLearner:
    """Gradients and inputs drawn by the names of parent and tensor, so that no order can change them."""

    def gradients(self, model, name, rows):
        for row in range(3):
            yield {tensor: draw(model[tensor].shape, name, rows, row, tensor) for tensor in model}

    def inputs(self, model, name, rows):
        for batch in range(2):
            layers = [tensor for tensor in model if "proj" in tensor]
            yield {tensor: draw((5, model[tensor].shape[1]), name, rows, batch, tensor) for tensor in layers}


def draw(shape, *key):
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(repr(key).encode())))


def loss(weights):
    return float(dict(weights)["model.embed_tokens.weight"].float().abs().mean())


def merged(merger, experts, base, aligned, seed=0, dtype=torch.float32, **options):
    """The merged model. `aligned` is used by the mergers that have to know it: of form "context" as one of the models,
    the others apart."""
    values = merger.check_options(options)
    if merger.form == "context":
        models = {"aligned": aligned} | experts
        return dict(merger.function(Context(models, base, "aligned", loss, FakeLearner(), dtype), **values))
    groups = layer_groups(base, 1)
    coefficients = uniform(merger, groups.values(), list(experts), values)
    plan = Plan(merger, experts, base, groups, seed, dtype, aligned if merger.safety else None)
    return dict(merge(plan, coefficients))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_names_shapes_and_dtype_are_the_reference_models(merger, dtype):
    base = model(0, dtype)
    result = merged(merger, {"a": model(1, dtype), "b": model(2, dtype)}, base, model(9, dtype), dtype=dtype)
    assert list(result) == list(base)
    assert {name: tuple(tensor.shape) for name, tensor in result.items()} == SHAPES
    assert {tensor.dtype for tensor in result.values()} == {dtype}
    assert all(torch.isfinite(tensor).all() for tensor in result.values())


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_any_number_of_experts_merges(merger, n):
    assert merged(merger, {str(index): model(index) for index in range(1, n + 1)}, model(0), model(9))


def test_merging_copies_of_one_model_returns_it(merger):
    base = model(0)
    result = merged(merger, {"a": base, "b": dict(base)}, base, dict(base))
    assert all(torch.equal(result[name], base[name]) for name in base)


def test_experts_that_are_the_base_leave_every_tensor_finite(merger):
    base = model(0)
    result = merged(merger, {"a": base, "b": dict(base)}, base, model(9))
    assert all(torch.isfinite(tensor).all() for tensor in result.values())


def test_a_base_is_not_needed_where_whole_models_are_merged(merger):
    if merger.form != "context":
        pytest.skip("given tensors or task vectors")
    aligned, experts = model(9), {"a": model(1), "b": model(2)}
    result = merged(merger, experts, None, aligned)
    assert list(result) == list(aligned) and all(torch.isfinite(tensor).all() for tensor in result.values())


def test_the_same_seed_gives_the_same_bytes_and_another_only_where_random(merger):
    experts, base, aligned = {"a": model(1), "b": model(2)}, model(0), model(9)
    first, again, other = (merged(merger, experts, base, aligned, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in base)
    assert all(torch.equal(first[name], other[name]) for name in base) != merger.random


def test_the_order_of_tensors_changes_nothing(merger):
    experts, base, aligned = {"a": model(1), "b": model(2)}, model(0), model(9)
    turned = [{name: given[name] for name in reversed(SHAPES)} for given in (base, aligned)]
    first, second = merged(merger, experts, base, aligned), merged(merger, experts, *turned)
    assert list(second) == list(reversed(first))
    assert all(torch.equal(first[name], second[name]) for name in base)


def test_the_order_of_models_changes_nothing_unless_it_is_declared(merger):
    if merger.name == "slerp":
        pytest.skip("slerp of two models is symmetric, its fold over more is declared to depend on their order")
    experts, base, aligned = {"a": model(1), "b": model(2), "c": model(3)}, model(0), model(9)
    first = merged(merger, experts, base, aligned)
    second = merged(merger, dict(reversed(experts.items())), base, aligned)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in base)


def test_a_nan_in_a_parent_is_named_with_its_tensor(merger):
    broken = model(1)
    broken["model.norm.weight"][3] = float("nan")
    with pytest.raises(MergeError, match=r"model\.norm\.weight: a holds NaN"):
        merged(merger, {"a": broken, "b": model(2)}, model(0), model(9))


def test_a_parent_of_another_shape_is_named_with_its_tensor(merger):
    other = model(1) | {"model.norm.weight": torch.zeros(9)}
    with pytest.raises(MergeError, match=r"model\.norm\.weight: b has shape \[9\]"):
        merged(merger, {"a": model(1), "b": other}, model(0), model(9))


def test_every_bound_is_legal_and_just_outside_is_an_error(merger):
    for name, bounds in merger.parameters.items():
        for value in (bounds.low, bounds.high):
            merger.check_options({name: value})
        for value in (bounds.low - 0.01, bounds.high + 0.01):
            with pytest.raises(MergeError, match="must lie in"):
                merger.check_options({name: value})


def test_every_bound_merges_to_finite_tensors(merger):
    experts, base, aligned = {"a": model(1), "b": model(2)}, model(0), model(9)
    for name, bounds in merger.parameters.items():
        for value in (bounds.low, bounds.high):
            if name == "weight" and value == 0 and merger.form == "tensors":
                continue  # a mean of nothing: an error of its own
            result = merged(merger, experts, base, aligned, **{name: value})
            assert all(torch.isfinite(tensor).all() for tensor in result.values()), (name, value)


def test_an_unknown_option_names_the_nearest(merger):
    known = next(iter(merger.check_options({})))
    with pytest.raises(MergeError, match=f"did you mean '{known}'"):
        merger.check_options({f"{known}s": 1.0})
