"""Engines: where a model runs. `open_engine` makes the one that lives through a run."""

from pathlib import Path

from bench.engines.base import Engine
from bench.errors import BenchError
from bench.suite import did_you_mean

ENGINES = ("vllm", "transformers")


def open_engine(
    name: str,
    folder: Path,
    *,
    dtype: str,
    max_length: int,
    seed: int,
    trust_remote_code: bool,
    memory: float | None = None,
) -> Engine:
    """Start an engine for the architecture, tokenizer and chat template in `folder`; weights come by `load_weights`.
    `memory` is the share of a GPU's memory that vLLM takes, where not its default; transformers takes what it needs.

    Raises BenchError for an unknown engine or one that is not installed. There is no fallback from one to the other:
    their answers differ in the last bits, so a table must not mix them.
    """
    check_engine(name)
    common = dict(dtype=dtype, max_length=max_length, seed=seed, trust_remote_code=trust_remote_code)
    if name == "vllm":
        from bench.engines.vllm import VllmEngine

        return VllmEngine(folder, **common, memory=memory)
    from bench.engines.transformers import TransformersEngine

    return TransformersEngine(folder, **common)


def check_engine(name: str) -> None:
    """Raise BenchError when there is no engine of that name."""
    if name not in ENGINES:
        raise BenchError(f"unknown engine {name!r}{did_you_mean(name, ENGINES)}")
