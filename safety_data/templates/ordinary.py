"""Everyday questions with short real answers, from `ordinary.yaml`."""

import random

from safety_data.templates import Example, Split, read_yaml, sentence


def examples(split: Split, count: int, seed: int) -> list[Example]:
    """`count` questions in random order; each comes again only when all have been used."""
    rng = random.Random(f"ordinary {split} {seed}")
    templates: list[str] = read_yaml("phrases.yaml")["templates"][split]
    answers: dict[str, str] = read_yaml("ordinary.yaml")[split]
    made: list[Example] = []
    turn = 0
    while len(made) < count:
        prompts = [sentence(topic, templates, number + turn) for number, topic in enumerate(answers)]
        rows = [Example(*row, group="ordinary") for row in zip(prompts, answers.values(), strict=True)]
        made.extend(rng.sample(rows, len(rows)))
        turn += 1
    return made[:count]
