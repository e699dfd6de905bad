"""The vLLM engine: one in-process `LLM`, weights streamed into it in place.

A swap goes through vLLM's layer-wise reload. On CPU that alone is silently wrong for models with tied embeddings: the
output head keeps a packed copy of the old embedding, so the worker packs it again. `tests/test_engines.py` compares a
swap with a fresh engine, token for token.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.engines.base import Engine, LogLikelihood, Tokens
from bench.errors import BenchError, EngineLost

try:
    from vllm import LLM, SamplingParams
except ImportError as error:
    raise BenchError(
        f"the engine vllm is not installed ({error}); run `make setup` (or pip install 'mergesafe[cpu]', "
        "'mergesafe[gpu]'), or ask for ENGINE=transformers"
    ) from error


class WeightSwap:
    """Mixed into vLLM's worker: `swap_weights` is called there, next to the model."""

    def swap_weights(self, weights: Iterator[tuple[str, Tensor]]) -> set[str]:
        """Reload from a stream; return the names of layers and parameters that were not filled."""
        from vllm.config import set_current_vllm_config
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        model = self.model_runner.get_model()
        with set_current_vllm_config(self.vllm_config), torch.inference_mode():
            initialize_layerwise_reload(model)
            try:
                loaded = model.load_weights(weights)
                # A fused layer counts as loaded once one of its parts is: look at how much it got. Vocabularies are
                # padded, so theirs is never all of it.
                partly = {
                    name
                    for name, layer in model.named_modules()
                    if not isinstance(layer, VocabParallelEmbedding)
                    and (info := get_layerwise_info(layer)).can_load()
                    and 0 < info.load_numel < info.load_numel_total
                }
            finally:  # whatever happened in the stream, the layers must be usable for the next one
                finalize_layerwise_reload(model, self.vllm_config.model_config)
            head = getattr(model, "lm_head", None)
            if head is not None and hasattr(head, "quant_method"):
                head.quant_method.process_weights_after_loading(head)
        return partly | {name for name, _ in model.named_parameters()} - set(loaded)


class VllmEngine(Engine):
    """Greedy generation and prompt log-probabilities from one vLLM engine."""

    name = "vllm"

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str,
        max_length: int,
        seed: int,
        trust_remote_code: bool,
        memory: float | None = None,
    ) -> None:
        self.folder, self.max_length = folder, max_length
        try:
            self._llm = LLM(
                str(folder),
                dtype=dtype,
                max_model_len=max_length,
                seed=seed,
                trust_remote_code=trust_remote_code,
                load_format="dummy",  # weights always come by load_weights
                enforce_eager=not torch.cuda.is_available(),
                worker_extension_cls=f"{WeightSwap.__module__}.{WeightSwap.__qualname__}",
                disable_log_stats=True,
                **({} if memory is None else {"gpu_memory_utilization": memory}),
            )
        except (ValueError, OSError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise BenchError(f"vLLM cannot start on {folder}: {reason}") from error
        self.tokenizer: Any = self._llm.get_tokenizer()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        missing = set().union(*self._llm.collective_rpc("swap_weights", args=(iter(weights),)))
        if missing:
            raise BenchError(f"the weights lack {min(missing)}, which the model's configuration asks for")
        self.forget()

    def forget(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise EngineLost("vLLM did not reset its prefix cache; answers would mix old and new weights")

    def generate(
        self,
        prompts: Sequence[Tokens],
        max_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[str]:
        self.check_sampling(temperature, seed)
        common = dict(temperature=temperature, max_tokens=max_tokens, stop=list(stop) or None)
        # A seed of its own for every prompt: with one for all, equal prompts would get equal answers.
        sampling = [
            SamplingParams(**common, seed=seed + number if temperature > 0 else None) for number in range(len(prompts))
        ]
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]

    def loglikelihood(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[LogLikelihood]:
        sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        inputs = [{"prompt_token_ids": context + continuation} for context, continuation in pairs]
        outputs = self._llm.generate(inputs, sampling, use_tqdm=False)
        return [
            _sum(output.prompt_logprobs[len(context) :], continuation)
            for output, (context, continuation) in zip(outputs, pairs, strict=True)
        ]


def _sum(positions: Sequence[Any], continuation: Tokens) -> LogLikelihood:
    chosen = [position[token] for position, token in zip(positions, continuation, strict=True)]
    return LogLikelihood(sum(c.logprob for c in chosen), all(c.rank == 1 for c in chosen))
