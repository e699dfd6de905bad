"""Merging techniques as their source describes them, read and not run: no page needs torch.

    read_methods()["ties"].parameters[1]    Parameter("density", 0.2, 0.01, 1, each="merge", smooth=False)

Plug-ins from outside are not found here; a page then has what their records say.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leaderboards.frame import PARENT, SWEEP

MERGES = Path(__file__).parents[2] / "merges"
EACH = {"PerModel": "model", "PerDirection": "direction of a model"}
GIVEN = {"deltas": "task vectors", "tensors": "weights", "context": "whole models and calibration rows"}


@dataclass(frozen=True)
class Parameter:
    """A coefficient and its bounds, as `merges.registry.param` declares it. each: what has a value of its own."""

    name: str
    default: float
    low: float
    high: float
    each: str = "merge"
    smooth: bool = True


@dataclass(frozen=True)
class Method:
    """A technique: `about` is its file's docstring, equations and all; `usage` that of its function."""

    name: str
    title: str
    paper: str
    form: str
    safety: bool
    needs: str
    about: str
    usage: str
    parameters: tuple[Parameter, ...]
    options: dict[str, object]

    @property
    def given(self) -> str:
        """What the technique looks at."""
        return GIVEN[self.form] + (" and the aligned parent's own task vector" if self.safety else "")

    @property
    def family(self) -> str:
        """Techniques that treat safety apart, need whole models, or combine task vectors or weights."""
        if self.safety or self.needs == "safety rows":
            return "safety-aware"
        return {"deltas": "task vectors", "tensors": "weights", "context": "whole models"}[self.form]


def family(method: str, known: dict[str, Method]) -> str:
    """The family of a record's method; parents, ratios of a sweep and plug-ins have one each."""
    if method in known:
        return known[method].family
    kinds = {PARENT: "parent", SWEEP: "scalar ratio"}
    return next((kind for prefix, kind in kinds.items() if method.startswith(prefix)), "plug-in")


def read_methods(folder: Path = MERGES) -> dict[str, Method]:
    """Every technique of a folder by name. Only literals in a signature are understood, which all of ours are."""
    found = (method for path in sorted(folder.glob("*.py")) for method in _methods(path))
    return {method.name: method for method in found}


def _methods(path: Path) -> Iterator[Method]:
    module = ast.parse(path.read_text(encoding="utf-8"))
    for function in module.body:
        for decorator in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "merger":
                yield _method(module, function, _keywords(decorator))


def _method(module: ast.Module, function: ast.FunctionDef, given: dict[str, object]) -> Method:
    arguments, parameters, options = function.args, [], {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if isinstance(default, ast.Call):
            start = ast.literal_eval(default.args[0])
            each = EACH.get(getattr(argument.annotation, "id", ""), "merge")
            parameters.append(Parameter(argument.arg, start, **_keywords(default), each=each))
        elif isinstance(default, (ast.Constant, ast.UnaryOp)):
            options[argument.arg] = ast.literal_eval(default)
    positional = [argument.arg for argument in arguments.args]
    return Method(
        name=function.name,
        title=str(given["title"]),
        paper=str(given.get("paper", "")),
        form=positional[0],
        safety="safety" in positional[1:],
        needs=str(given.get("needs", "")),
        about=inspect.cleandoc(ast.get_docstring(module) or ""),
        usage=inspect.cleandoc(ast.get_docstring(function) or ""),
        parameters=tuple(parameters),
        options=options,
    )


def _keywords(call: ast.Call) -> dict:
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
