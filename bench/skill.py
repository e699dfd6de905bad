"""Domain skill: lm-eval tasks on the live engine.

Tasks found in the suite's `include` folder are read from there (YAML + JSONL, no hub); any other name is lm-eval's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager

from bench.engines.base import Engine, Tokens
from bench.errors import BenchError
from bench.records import ItemOutcome, Skill
from bench.suite import DomainSpec, SkillSpec, did_you_mean

SEED = 1234  # lm-eval's own default for what it draws (few-shot examples): equal for all cells, whatever their seed


def measure_skill(engine: Engine, spec: SkillSpec) -> tuple[dict[str, Skill], list[ItemOutcome]]:
    """Score the engine's present weights on every domain, with the chat template and greedy decoding."""
    skill, items = {}, []
    for domain, task in spec.domains.items():
        skill[domain], outcomes = _run_task(engine, domain, task, spec.include)
        items += outcomes
    return skill, items


def find_task(name: str, include: Path | None) -> str | dict[str, Any]:
    """What lm-eval needs to load a task: its config with absolute data files, or its name in lm-eval's own index.

    Raises BenchError when neither the folder nor lm-eval knows it.
    """
    local = task_files(include)
    if name in local:
        config = yaml.safe_load(local[name].read_text(encoding="utf-8"))
        for path in data_files(local[name]):
            if not path.is_file():
                raise BenchError(f"the task {name} wants the data file {path}, which is not there")
        kwargs = config.get("dataset_kwargs", {})
        if files := kwargs.get("data_files"):
            kwargs["data_files"] = {split: str((local[name].parent / file).resolve()) for split, file in files.items()}
        return config
    known = _task_manager().task_index
    if name not in known:
        raise BenchError(f"unknown lm-eval task {name!r}{did_you_mean(name, [*local, *known])[:200]}")
    return name


def task_questions(name: str, include: Path | None) -> list[str]:
    """The questions of a task's test items (of all tasks, where the name is a group's), as a model is asked them.

    Raises BenchError for an unknown task, and where its data is not on disk: nothing is downloaded.
    """
    task = find_task(name, include)
    with _offline():
        try:
            loaded = _task_manager(defaults=isinstance(task, str)).load([task])["tasks"].values()
        except (OSError, ValueError) as error:  # what `datasets` raises for data that is neither cached nor local
            raise BenchError(f"the data of the task {name} is not on disk ({error})") from error
    return [_question(one.doc_to_text(doc), doc) for one in loaded for doc in one.eval_docs]


def _question(text: Any, doc: dict[str, Any]) -> str:
    """What a model is asked; some tasks (winogrande) give the number of a choice there, then all of the item's text."""
    return text if isinstance(text, str) else " ".join(value for value in doc.values() if isinstance(value, str))


@contextmanager
def _offline() -> Iterator[None]:
    """Both libraries read their switch from the environment when they are imported, long before we know."""
    switches = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    before = [getattr(module, name) for module, name in switches]
    try:
        for module, name in switches:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)


def task_files(include: Path | None) -> dict[str, Path]:
    """The task files of a suite's `include` folder by task name."""
    if include is None:
        return {}
    if not include.is_dir():
        raise BenchError(f"skill.include: there is no folder {include}")
    found = {}
    for path in sorted(include.glob("*.yaml")):
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise BenchError(f"cannot read the task file {path}: {' '.join(str(error).split())}") from error
        if isinstance(config, dict) and "task" in config:
            found[str(config["task"])] = path
    return found


def data_files(task_file: Path) -> list[Path]:
    """The local data files that a task file names."""
    files = yaml.safe_load(task_file.read_text(encoding="utf-8")).get("dataset_kwargs", {}).get("data_files", {})
    return [(task_file.parent / file).resolve() for file in files.values()]


@cache
def _task_manager(defaults: bool = True) -> TaskManager:
    return TaskManager(include_defaults=defaults)


def _run_task(engine: Engine, domain: str, spec: DomainSpec, include: Path | None) -> tuple[Skill, list[ItemOutcome]]:
    task = find_task(spec.task, include)
    results = simple_evaluate(
        model=_LiveModel(engine),
        tasks=[task],
        task_manager=_task_manager(defaults=isinstance(task, str)),
        limit=spec.limit,
        apply_chat_template=True,
        bootstrap_iters=0,
        log_samples=True,
        random_seed=SEED,
        numpy_random_seed=SEED,
        torch_random_seed=SEED,
        fewshot_random_seed=SEED,
    )
    measured = results["results"][spec.task]
    keys = [key for key in measured if key == spec.metric or key.startswith(f"{spec.metric},")]
    if not keys:
        metrics = sorted({key.split(",")[0] for key in measured if "," in key and "stderr" not in key})
        raise BenchError(f"the task {spec.task} has no metric {spec.metric!r}{did_you_mean(spec.metric, metrics)}")
    metric, _, chosen = keys[0].partition(",")
    items = [
        ItemOutcome(
            domain=domain,
            id=f"{name}/{sample['doc_id']}",
            response=_shown(sample["resps"]),
            target=str(sample["target"]),
            score=float(sample[metric]),
        )
        for name, samples in results["samples"].items()
        for sample in samples
        if sample["filter"] == chosen
    ]
    return Skill(task=spec.task, metric=keys[0], value=float(measured[keys[0]]), n=len(items)), items


def _shown(responses: Any) -> str:
    """The one generated answer, or the log-likelihoods of the choices, as text."""
    first = responses[0][0] if len(responses) == 1 else None
    return first if isinstance(first, str) else str(responses)


class _LiveModel(TemplateLM):
    """lm-eval's view of an engine. Prompts too long for it lose their beginning, as in lm-eval's own models."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self.tokenizer = engine.tokenizer

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        return "aligned-parent"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> Tokens:
        # The chat template has already written the special tokens.
        return self.tokenizer(string, add_special_tokens=bool(add_special_tokens))["input_ids"]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        answers: dict[int, str] = {}
        arguments = [request.args for request in requests]
        kinds = {(tuple(gen.get("until", ())), int(gen.get("max_gen_toks", 256))) for _, gen in arguments}
        for until, length in sorted(kinds):
            members = [
                index
                for index, (_, gen) in enumerate(arguments)
                if (tuple(gen.get("until", ())), int(gen.get("max_gen_toks", 256))) == (until, length)
            ]
            prompts = [self.tok_encode(arguments[index][0])[-(self._engine.max_length - length) :] for index in members]
            stop = [text for text in until if text]
            answers.update(zip(members, self._engine.generate(prompts, length, stop), strict=True))
        return [answers[index] for index in range(len(requests))]

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        room = self._engine.max_length - 1  # vLLM wants to write one token after the prompt
        pairs = [(context[-(room - len(continuation)) :], continuation) for _, context, continuation in requests]
        return [(score.total, score.is_greedy) for score in self._engine.loglikelihood(pairs)]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise BenchError("perplexity tasks (loglikelihood_rolling) are not supported; choose another lm-eval task")
