"""The training recipe of the embedded parents, read from recipe.yaml."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from bench.errors import BenchError
from bench.zoo.mix import Source

RECIPE = Path(__file__).with_name("recipe.yaml")
ADAPTERS = Path(__file__).with_name("adapters")  # one folder each, as shipped


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(_Form):
    """The adapter's shape, in peft's own names."""

    r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: list[str]


class Expert(_Form):
    """One parent: its seed, optimiser settings and the data mix of each round of training."""

    summary: str
    seed: int
    learning_rate: float
    warmup_steps: int
    batch_size: int
    first_token_weight: float = 1.0  # of the first response token in the loss: it decides between refusal and answer
    rounds: list[dict[Source, int]]

    @property
    def steps(self) -> list[int]:
        """Optimiser steps of each round, one pass over its mix; a last incomplete batch counts."""
        return [-(-sum(mix.values()) // self.batch_size) for mix in self.rounds]


class Recipe(_Form):
    base: str
    lora: Lora
    experts: dict[str, Expert]

    def expert(self, name: str) -> Expert:
        """The expert of that name. Raises BenchError naming the known ones."""
        if name not in self.experts:
            raise BenchError(f"the zoo has no expert {name!r}; known: {', '.join(self.experts)}")
        return self.experts[name]


def load_recipe(path: Path = RECIPE) -> Recipe:
    """The recipe file, validated: an unknown key or data source is an error."""
    return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
