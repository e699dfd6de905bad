"""What an engine does: generate, score given answers, and take new weights in place.

Prompts and answers are token ids, so that both engines see the same input: `chat_ids` is the only place where text
becomes a chat prompt.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import BenchError

Tokens = list[int]


@dataclass(frozen=True)
class LogLikelihood:
    """The log-probability (nats) of a continuation, and whether greedy decoding would have written it."""

    total: float
    is_greedy: bool


class Engine(ABC):
    """A live model. One engine lives through a run; candidates swap weights in place."""

    name: str
    folder: Path  # configuration, tokenizer and chat template
    tokenizer: Any  # a transformers tokenizer with the aligned parent's chat template
    max_length: int  # tokens, prompt and answer together

    @abstractmethod
    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace all weights by a stream of (checkpoint name, tensor) and forget every cache.

        Raises BenchError where the stream lacks a tensor; an exception inside the stream comes through, and the
        engine then needs another `load_weights` before use.
        """

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Tokens],
        max_tokens: int,
        stop: Sequence[str] = (),
        *,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[str]:
        """Answers of at most `max_tokens` tokens, in the order of the prompts, cut before any `stop` string.

        Greedy by default. With a temperature above 0 tokens are drawn, the same ones for the same prompts and seed;
        equal prompts get answers of their own. Raises BenchError for a temperature without a seed.
        """

    @abstractmethod
    def loglikelihood(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[LogLikelihood]:
        """log p(continuation | context) for each (context, continuation); neither may be empty."""

    def forget(self) -> None:  # noqa: B027 - an engine without caches has nothing to do
        """Drop what is cached of earlier prompts, so that answers do not depend, in the last bits, on what ran before.
        A stage of a cell begins with it: taken up in a new process, it must come out the same."""

    @staticmethod
    def check_sampling(temperature: float, seed: int | None) -> None:
        """Raise BenchError where tokens would be drawn and nothing says which."""
        if temperature > 0 and seed is None:
            raise BenchError("a temperature above 0 needs a seed, or the answers could not be had again")

    def response_loss(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[float]:
        """Mean cross-entropy (nats a token) of each response given its prompt; prompt tokens do not count."""
        scores = self.loglikelihood(pairs)
        return [-score.total / len(response) for score, (_, response) in zip(scores, pairs, strict=True)]

    def chat_ids(self, prompt: str) -> Tokens:
        """A user's message as the token ids of a chat prompt, ready for the assistant's answer."""
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=True, return_dict=False
        )

    def response_ids(self, response: str) -> Tokens:
        """An assistant's answer as token ids, closed by the end-of-turn token: ending is part of the answer."""
        return [*self.tokenizer(response, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
