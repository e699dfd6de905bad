"""What the figures share: colours, markers, fills, a clean canvas, a heading, PNG and SVG bytes.

A method keeps its colour (Okabe and Ito's, safe for colour-blind readers) and marker in every figure; arms differ in
fill, so the figures read in grey too.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib.style
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from leaderboards.frame import ARMS, is_parent, is_sweep
from leaderboards.text import plain

INK, GREY = "#222222", "#6b6b6b"
# Okabe and Ito 2008, without black (the parents') and yellow (too faint on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "<", ">", "p", "h", "d")
PARENT_MARKERS = {"base": "X", "aligned": "P", "expert": "*"}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    # Names are untrusted: a dollar sign must not start a formula.
    "text.parse_math": False,
    # Ids inside an SVG are hashes over this instead of random ones: equal figures, equal bytes.
    "svg.hashsalt": "mergesafe",
}


class Picture(NamedTuple):
    """A figure as the bytes of two files."""

    png: bytes
    svg: bytes

    def files(self, stem: str) -> dict[str, bytes]:
        """The files by their names."""
        return {f"{stem}.png": self.png, f"{stem}.svg": self.svg}


class Look(NamedTuple):
    """How a method is drawn in every figure."""

    colour: str
    marker: str


def looks(rows: pd.DataFrame) -> dict[str, Look]:
    """The look of every merging method of one fingerprint, by its place in the table."""
    methods = dict.fromkeys(rows.loc[~is_parent(rows) & ~is_sweep(rows), "method"])
    return {name: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(methods)}


def marker_fill(colour: str, arm: str) -> dict[str, str]:
    """Line2D options that make a marker open in arm `none`, half full in `task` and full otherwise."""
    style = {"none": "none", "task": "left"}.get(arm, "full")
    return {"fillstyle": style, "mfc": "white" if style == "none" else colour, "mfcalt": "white", "mew": 1.2}


def arm_keys(arms: Iterable[str]) -> list[Line2D]:
    """A legend of the arms that are there."""
    there, style = set(arms), {"ls": "", "marker": "o", "ms": 7, "color": GREY}
    return [Line2D([], [], **style, label=arm, **marker_fill(GREY, arm)) for arm in ARMS if arm in there]


def bar_fill(colour: str, arm: str) -> tuple[float, ...]:
    """White, a light tint or the colour itself: a bar's version of `marker_fill`."""
    share = {"none": 0.0, "task": 0.4}.get(arm, 1.0)
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of the given inches in our style, whatever matplotlibrc the user has; pyplot never hears of it."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), dpi=160)
        FigureCanvasAgg(figure)
        yield figure


def heading(figure: Figure, rows: pd.DataFrame, title: str, notes: str) -> None:
    """Title and conditions, at a fixed distance from the top whatever the figure's height."""
    width, height = figure.get_size_inches()
    first = rows.iloc[0]
    title, notes = f"{plain(first['suite'])}: {title}", f"conditions {plain(first['fingerprint'][:8])}; {notes}"
    figure.text(0.15 / width, 1 - 0.16 / height, title, size=12, weight="bold", color=INK, va="top")
    figure.text(0.15 / width, 1 - 0.42 / height, notes, size=8, color=GREY, va="top")


def rendered(figure: Figure) -> Picture:
    """The figure in both forms; equal figures give equal bytes. Text in an SVG is outlines: it needs no font."""
    png, svg = io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return Picture(png.getvalue(), svg.getvalue())
