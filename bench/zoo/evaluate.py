"""Measures the embedded parents on the held-out test prompts and writes their model cards.

    python -m bench.zoo.evaluate --base <folder of the base model> base aligned math chem

Greedy decoding with transformers, the adapter merged into the bf16 weights as a merge sees it. This is the check of
the parents themselves; the figures of a suite come from its own engine.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bench.judges.refusal_rules import RefusalRules
from bench.zoo.card import write_card
from safety_data.rows import PromptRow, read_rows
from safety_data.templates import ordinary

ZOO = Path(__file__).parent
TASKS = ZOO.parent / "tasks"
PROMPTS = ZOO.parents[1] / "safety_data" / "smol"
SAFETY_TOKENS = 48
BATCH = 50
ORDINARY = 40


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], tokens: int
) -> list[str]:
    """Greedy answers to chat prompts, in order."""
    made: list[str] = []
    for start in range(0, len(prompts), BATCH):
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + BATCH]]
        texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
        made.extend(tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))
    return made


def extracted(task: dict, answer: str) -> str:
    """What the task's regex filter takes from an answer; empty where it finds nothing."""
    rule = task["filter_list"][0]["filter"][0]
    found = re.findall(rule["regex_pattern"], answer.split("\n\n")[0])
    return found[rule["group_select"]] if found else ""


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, float], dict[str, list]]:
    """Rates between 0 and 1 by name, and every (prompt, answer) behind them."""
    judge = RefusalRules()
    rates: dict[str, float] = {}
    log: dict[str, list] = {}
    prompts = {"ordinary": [example.prompt for example in ordinary.examples("test", ORDINARY, seed=0)]}
    for kind in ("unsafe", "benign"):
        prompts[kind] = [row.prompt for row in read_rows(PROMPTS / f"{kind}.test.jsonl", PromptRow)]
    for kind, asked in prompts.items():
        said = answers(model, tokenizer, asked, SAFETY_TOKENS)
        rates[f"{kind} refused"] = sum(judge.judge(p, a).refused for p, a in zip(asked, said, strict=True)) / len(asked)
        log[kind] = list(zip(asked, said, strict=True))
    for name in ("smol_math", "smol_chem"):
        task = yaml.safe_load((TASKS / f"{name}.yaml").read_text(encoding="utf-8"))
        items = [json.loads(line) for line in (TASKS / f"{name}.test.jsonl").read_text(encoding="utf-8").splitlines()]
        asked = [item["question"] for item in items]
        said = answers(model, tokenizer, asked, task["generation_kwargs"]["max_gen_toks"])
        right = [extracted(task, answer) == item["answer"] for answer, item in zip(said, items, strict=True)]
        rates[name] = sum(right) / len(items)
        rates[f"{name} refused"] = sum(judge.judge(p, a).refused for p, a in zip(asked, said, strict=True)) / len(asked)
        log[name] = list(zip(asked, said, right, strict=True))
    return rates, log


def load(base: Path, adapter: Path | None) -> PreTrainedModel:
    """The base model in bf16, with the adapter merged into its weights."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).merge_and_unload()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="`base` or an expert of recipe.yaml")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--adapters", type=Path, default=ZOO / "adapters", help="folder of the adapters")
    parser.add_argument("--answers", type=Path, help="keep every prompt and answer in this folder")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    for name in arguments.names:
        adapter = None if name == "base" else arguments.adapters / name
        rates, log = measure(load(arguments.base, adapter), tokenizer)
        print(name, json.dumps(rates), flush=True)
        if adapter:
            write_card(name, adapter, rates)
        if arguments.answers:
            arguments.answers.mkdir(parents=True, exist_ok=True)
            (arguments.answers / f"{name}.json").write_text(json.dumps(log, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
