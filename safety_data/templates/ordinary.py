"""Everyday questions with short real answers, from `ordinary.yaml`."""

import random

from safety_data.templates import Example, Split, read_yaml


def examples(split: Split, count: int, seed: int) -> list[Example]:
    """`count` questions in random order; each comes again only when all have been used."""
    rng = random.Random(f"ordinary {split} {seed}")
    answers: dict[str, str] = read_yaml("ordinary.yaml")[split]
    rows = [Example(prompt, response, group="ordinary") for prompt, response in answers.items()]
    made: list[Example] = []
    while len(made) < count:
        made.extend(rng.sample(rows, len(rows)))
    return made[:count]
