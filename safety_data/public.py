"""Public prompt sets: what each is called, where it comes from, under which licence, and which columns it has.

    prompts("xstest", "benign", file=Path("xstest_prompts.csv"))
    prompts("beavertails", "unsafe", revision="<commit of the hub's copy>")

Nothing is shipped, and nothing downloaded unless a suite asks for it by a commit of the hub. A file that the authors
publish elsewhere (a CSV in their repository) is read the same way: each set lists the columns of both. Rows keep their
order; a prompt that comes twice counts once. A row's id says which set and which row it is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safety_data.rows import DataError, PromptRow

Kind = Literal["unsafe", "benign"]
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class PublicSet:
    """A data set as it is published.

    `columns`: the columns that are read, each with the names it goes by; None among them: it may be absent. `read`:
    (kind, category, prompt) of a row, or None for a row that is no prompt of either kind; it is given columns by our
    names.
    """

    title: str
    paper: str
    licence: str
    hub: str
    config: str | None
    split: str
    columns: Mapping[str, tuple[str | None, ...]]
    read: Callable[[Mapping[str, Any]], tuple[Kind, str, str] | None]


def _always(kind: Kind) -> Callable[[Mapping[str, Any]], tuple[Kind, str, str]]:
    return lambda row: (kind, str(row.get("category") or ""), str(row["prompt"]))


def _beavertails(row: Mapping[str, Any]) -> tuple[Kind, str, str] | None:
    """Prompts have no label of their own: those count whose answer people called unsafe, under its first category."""
    harms = [name for name, present in dict(row["category"]).items() if present]
    return ("unsafe", harms[0], str(row["prompt"])) if harms and not row["is_safe"] else None


def _harmbench(row: Mapping[str, Any]) -> tuple[Kind, str, str] | None:
    """Behaviours that stand alone; those that need a context, and copyrighted texts, are left out."""
    return _always("unsafe")(row) if row.get("form", "standard") == "standard" else None


def _xstest(row: Mapping[str, Any]) -> tuple[Kind, str, str]:
    """Contrast prompts are the unsafe ones: `contrast_homonyms` beside `homonyms`."""
    category = str(row["category"])
    return "unsafe" if category.startswith("contrast_") else "benign", category, str(row["prompt"])


def _sorry_bench(row: Mapping[str, Any]) -> tuple[Kind, str, str] | None:
    """The base prompts; the twenty linguistic variations of each are left out."""
    return ("unsafe", str(row["category"]), str(row["prompt"][0])) if row["style"] == "base" else None


def _wildguard(row: Mapping[str, Any]) -> tuple[Kind, str, str] | None:
    """People's label of the prompt decides; a few rows have none."""
    kinds: dict[str, Kind] = {"harmful": "unsafe", "unharmful": "benign"}
    kind = kinds.get(str(row["label"]))
    return (kind, str(row["category"]), str(row["prompt"])) if kind else None


PUBLIC: dict[str, PublicSet] = {
    "beavertails": PublicSet(
        "BeaverTails, 30k test",
        "arXiv:2307.04657",
        "CC-BY-NC-4.0",
        "PKU-Alignment/BeaverTails",
        None,
        "30k_test",
        {"prompt": ("prompt",), "category": ("category",), "is_safe": ("is_safe",)},
        _beavertails,
    ),
    "xstest": PublicSet(
        "XSTest",
        "arXiv:2308.01263",
        "CC-BY-4.0",
        "Paul/XSTest",
        None,
        "train",
        {"prompt": ("prompt",), "category": ("type",)},
        _xstest,
    ),
    "harmbench": PublicSet(
        "HarmBench, standard behaviours",
        "arXiv:2402.04249",
        "MIT",
        "walledai/HarmBench",
        "standard",
        "train",
        {
            "prompt": ("Behavior", "prompt"),
            "category": ("SemanticCategory", "category"),
            "form": ("FunctionalCategory", None),
        },
        _harmbench,
    ),
    "strongreject": PublicSet(
        "StrongREJECT",
        "arXiv:2402.10260",
        "MIT",
        "walledai/StrongREJECT",
        None,
        "train",
        {"prompt": ("forbidden_prompt", "prompt"), "category": ("category",)},
        _always("unsafe"),
    ),
    "advbench": PublicSet(
        "AdvBench, harmful behaviours",
        "arXiv:2307.15043",
        "MIT",
        "walledai/AdvBench",
        None,
        "train",
        {"prompt": ("goal", "prompt")},
        _always("unsafe"),
    ),
    "do_not_answer": PublicSet(
        "Do-Not-Answer",
        "arXiv:2308.13387",
        "CC-BY-NC-SA-4.0",
        "LibrAI/do-not-answer",
        None,
        "train",
        {"prompt": ("question",), "category": ("types_of_harm",)},
        _always("unsafe"),
    ),
    "sorry_bench": PublicSet(
        "SORRY-Bench",
        "arXiv:2406.14598",
        "SORRY-Bench agreement, gated",
        "sorry-bench/sorry-bench-202503",
        None,
        "train",
        {"prompt": ("turns",), "category": ("category",), "style": ("prompt_style",)},
        _sorry_bench,
    ),
    "wildguardtest": PublicSet(
        "WildGuardTest",
        "arXiv:2406.18495",
        "ODC-BY, gated",
        "allenai/wildguardmix",
        "wildguardtest",
        "test",
        {"prompt": ("prompt",), "category": ("subcategory",), "label": ("prompt_harm_label",)},
        _wildguard,
    ),
    "or_bench": PublicSet(
        "OR-Bench, hard 1k",
        "arXiv:2405.20947",
        "CC-BY-4.0",
        "bench-llm/or-bench",
        "or-bench-hard-1k",
        "train",
        {"prompt": ("prompt",), "category": ("category",)},
        _always("benign"),
    ),
    "or_bench_toxic": PublicSet(
        "OR-Bench, toxic",
        "arXiv:2405.20947",
        "CC-BY-4.0",
        "bench-llm/or-bench",
        "or-bench-toxic",
        "train",
        {"prompt": ("prompt",), "category": ("category",)},
        _always("unsafe"),
    ),
}
"""Name in a suite file -> data set."""


def prompts(name: str, kind: Kind, *, file: Path | None = None, revision: str | None = None) -> list[PromptRow]:
    """The prompts of a kind in a public set, from a local copy or from the hub at a commit.

    Raises DataError naming the set, the column or the remedy where it cannot be had or holds none of that kind.
    """
    source = PUBLIC[name]
    where = str(file) if file is not None else f"{source.hub} at {revision}"
    table = _from_file(file) if file is not None else _from_hub(source, str(revision))
    found: dict[str, str] = {}
    for column, names in source.columns.items():
        present = [name for name in names if name in table.columns]
        if not present and None not in names:
            raise DataError(
                f"{where} is not {source.title}: it has no column {' or '.join(map(repr, names))}; it has "
                f"{', '.join(map(str, table.columns))}"
            )
        found |= {column: present[0]} if present else {}
    rows: dict[str, PromptRow] = {}
    for number, record in enumerate(table[list(found.values())].to_dict("records")):
        read = source.read({column: record[actual] for column, actual in found.items()})
        if read is None or read[0] != kind or not read[2].strip():
            continue
        _, category, prompt = read
        row = PromptRow(id=f"{name}-{number}", kind=kind, category=category, prompt=prompt, source=source.title)
        rows.setdefault(prompt, row)
    if not rows:
        raise DataError(f"{where} ({source.title}) holds no {kind} prompts")
    return list(rows.values())


def _from_file(file: Path) -> Any:
    from safety_data.tables import read_table

    return read_table(file, ())


def _from_hub(source: PublicSet, revision: str) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(source.hub, source.config, split=source.split, revision=revision).to_pandas()
    except Exception as error:  # of a dozen kinds, from the hub's client, its network and the readers below
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"cannot get {source.title} from the hub ({source.hub} at {revision}: {reason}); check the commit, your "
            "access (some sets are gated) and the network, or name a local `file`"
        ) from error
