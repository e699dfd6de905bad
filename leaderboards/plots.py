"""Two figures of one fingerprint's rows: skill against harm (`frontier`), and skill per domain (`skill`)."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from leaderboards.frame import ARMS, domains_of, is_parent
from leaderboards.labels import Clutter, place_labels
from leaderboards.look import (
    GREY,
    INK,
    PARENT_MARKERS,
    Look,
    bar_fill,
    heading,
    looks,
    marker_fill,
    new_figure,
    png,
)
from leaderboards.text import display_name, plain

NO_SKILL = "no domain skill in these records"


def frontier(rows: pd.DataFrame) -> bytes:
    """PNG of skill (mean over domains) against the harmful-output rate, in percent: up is skilled, left is safe.

    An arrow leads a method from one arm to the next; thin lines are 95 % intervals."""
    with new_figure(8.2, 5.6) as figure:
        axes = figure.add_axes((0.085, 0.105, 0.895, 0.735))
        shown = rows[rows["skill_mean"].notna()]
        top = 100 * shown["skill_mean_hi"].max() if len(shown) else 100
        # Labels are placed in pixels, so the limits are final before anything is drawn.
        axes.set(xlim=(-3, 104), ylim=(-0.04 * top, min(104, 1.12 * top)))
        axes.set_xlabel("harmful-output rate, % of unsafe prompts   (left is safer)")
        axes.set_ylabel("skill, % mean over domains   (up is more skilled)")
        axes.grid(True)
        clutter = Clutter(axes)
        parents = is_parent(shown)
        labels = _draw_parents(axes, clutter, shown[parents]) + _draw_merges(axes, clutter, shown[~parents])
        place_labels(axes, labels, clutter)
        if not len(shown):
            axes.text(0.5, 0.5, NO_SKILL, transform=axes.transAxes, ha="center", color=GREY)
        heading(figure, rows, "skill against harm", f"{rows.iloc[0]['n_unsafe']} unsafe prompts; 95 % intervals")
        figure.text(0.085, 0.865, "↖ skilled and safe", color=INK, weight="bold", size=10, va="center")
        keys = [_key(arm) for arm in ARMS if (shown["arm"] == arm).any()]
        if keys:
            figure.legend(handles=keys, loc="center right", bbox_to_anchor=(0.99, 0.865), ncols=3, frameon=False)
        return png(figure)


def _draw_parents(axes: Axes, clutter: Clutter, rows: pd.DataFrame) -> list[tuple[str, float, float]]:
    labels = []
    for point in _points(rows):
        _draw_point(axes, clutter, point, Look(INK, PARENT_MARKERS.get(point["role"], "8")))
        role = _role(point["method"], point["role"])
        name = plain(display_name(point["method"]), 24) + (f" ({role})" if role else "")
        labels.append((name, point["x"], point["y"]))
    return labels


def _draw_merges(axes: Axes, clutter: Clutter, rows: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Every run's points in the order of its arms, and one label a method, at the last arm of its last seed."""
    look_of, labels = looks(rows), []
    for method, group in rows.groupby("method", sort=False):
        for _, run in group.groupby("seed"):
            points = _points(run)
            for before, after in pairwise(points):
                _draw_arrow(axes, clutter, before, after, look_of[method].colour)
            for point in points:
                _draw_point(axes, clutter, point, look_of[method])
        labels.append((plain(str(method), 24), points[-1]["x"], points[-1]["y"]))
    return labels


def _points(rows: pd.DataFrame) -> list[dict]:
    """Rows as points in percent: x is the harmful-output rate, y is mean skill, each with its interval."""
    scaled = {"x": "harmful_rate", "x_lo": "harmful_lo", "x_hi": "harmful_hi"}
    scaled |= {"y": "skill_mean", "y_lo": "skill_mean_lo", "y_hi": "skill_mean_hi"}
    points = pd.DataFrame({name: 100 * rows[column] for name, column in scaled.items()})
    return points.join(rows[["method", "arm", "role"]]).to_dict("records")


def _draw_point(axes: Axes, clutter: Clutter, point: Mapping, look: Look) -> None:
    x, y, colour = point["x"], point["y"], look.colour
    axes.hlines(y, point["x_lo"], point["x_hi"], color=colour, lw=0.8, alpha=0.45, zorder=2)
    axes.vlines(x, point["y_lo"], point["y_hi"], color=colour, lw=0.8, alpha=0.45, zorder=2)
    size = 11 if look.marker == "*" else 8  # a star fills little of its box
    axes.plot(
        x, y, look.marker, ms=size, color=colour, zorder=4, clip_on=False, **marker_fill(colour, point["arm"])
    )  # fmt: skip
    clutter.add_marker(x, y)
    clutter.add_line(point["x_lo"], y, point["x_hi"], y, weight=0.3)
    clutter.add_line(x, point["y_lo"], x, point["y_hi"], weight=0.3)


def _draw_arrow(axes: Axes, clutter: Clutter, before: Mapping, after: Mapping, colour: str) -> None:
    start, end = (before["x"], before["y"]), (after["x"], after["y"])
    pixels = axes.transData.transform([start, end])
    # Between touching markers an arrow would be a speck.
    if np.linalg.norm(pixels[1] - pixels[0]) * 72 / axes.figure.dpi < 18:
        return
    head = "-|>,head_width=0.22,head_length=0.45"
    arrow = {"arrowstyle": head, "color": colour, "lw": 1.1, "alpha": 0.75, "shrinkA": 6, "shrinkB": 6}
    axes.annotate("", end, start, arrowprops=arrow, zorder=3)
    clutter.add_line(*start, *end, weight=0.6)


def _key(arm: str) -> Line2D:
    return Line2D([], [], ls="", marker="o", ms=7, color=GREY, label=arm, **marker_fill(GREY, arm))


def skill(rows: pd.DataFrame) -> bytes:
    """PNG of skill per domain in percent with 95 % intervals: one panel a domain, one bar a row of the table.

    A dashed line marks the best expert."""
    domains = domains_of(rows)
    notes = "95 % intervals" + ("; dashed: the best expert" if (rows["role"] == "expert").any() else "")
    across = min(3, max(1, len(domains)))
    down = -(-len(domains) // across) or 1
    places = _bar_places(rows)
    # Inches: the figure grows with its bars and names, so that both keep their size.
    left = 1.15 + 0.085 * max(len(_name(method)) for method in rows["method"])
    left += 0.45 if rows["seed"].nunique() > 1 else 0
    deep = 0.19 * (places[-1] + 1.4)
    width, height = left + 0.15 + across * 2.6, 1.3 + down * deep + (down - 1) * 0.6
    with new_figure(width, height) as figure:
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        figure.subplots_adjust(left / width, 0.35 / height, 1 - 0.15 / width, 1 - 0.95 / height, 0.09, 0.6 / deep)
        for axes in grid.flat[len(domains) :]:
            axes.set_axis_off()
        for axes, domain in zip(grid.flat, domains, strict=False):
            _draw_domain(axes, rows, places, domain)
        for axes in grid[:, 0] if domains else []:
            _name_bars(axes, rows, places, names_at=0.15 - left)
        heading(figure, rows, "skill per domain, %", notes if domains else NO_SKILL)
        return png(figure)


def _bar_places(rows: pd.DataFrame) -> list[float]:
    """Where each row's bar lies, top to bottom, in bar heights: a gap sets methods apart, parents stay together."""
    starts = _starts_method(rows) & ~is_parent(rows)
    return list(np.arange(len(rows)) + 0.5 * starts.cumsum())


def _starts_method(rows: pd.DataFrame) -> pd.Series:
    return rows["method"] != rows["method"].shift()


def _name(method: str) -> str:
    return plain(display_name(method), 22)


def _role(parent: str, role: str) -> str:
    """A parent's role, unless its name says it."""
    return "" if role in parent else role


def _draw_domain(axes: Axes, rows: pd.DataFrame, places: list[float], domain: str) -> None:
    axes.set_title(f"{plain(domain, 24)}, {rows[f'items_{domain}'].max():.0f} items", loc="left", size=10, color=INK)
    axes.set(xlim=(0, 112), ylim=(places[-1] + 0.7, -0.7), xticks=range(0, 101, 25), yticks=places)
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.spines["left"].set_visible(False)
    best = 100 * rows.loc[rows["role"] == "expert", f"skill_{domain}"].max()
    if pd.notna(best):
        axes.axvline(best, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=1)
    look_of = looks(rows)
    values = 100 * rows[[f"skill_{domain}", f"skill_{domain}_lo", f"skill_{domain}_hi"]]
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    for place, (value, lo, hi), method, arm in zip(places, values.to_numpy(), rows["method"], rows["arm"], strict=True):
        if pd.isna(value):
            continue
        colour = look_of[method].colour if method in look_of else GREY
        axes.barh(place, value, 0.78, color=bar_fill(colour, arm), edgecolor=colour, lw=0.9, zorder=2)
        axes.hlines(place, lo, hi, color=INK, lw=1, zorder=3)
        axes.annotate(f"{value:.0f}", (hi, place), (4, 0), textcoords="offset points", va="center", size=8, bbox=behind)


def _name_bars(axes: Axes, rows: pd.DataFrame, places: list[float], names_at: float) -> None:
    """Arms beside the axes; methods, each named once, `names_at` inches from them."""
    named = rows[["method", "arm", "role", "seed"]].itertuples(index=False)
    seed_of = ", seed {}".format if rows["seed"].nunique() > 1 else lambda seed: ""
    labels = [arm + seed_of(seed) if arm else _role(method, role) for method, arm, role, seed in named]
    axes.set_yticks(places, labels=labels)
    axes.tick_params(axis="y", labelleft=True)
    for place, method in zip(np.array(places)[_starts_method(rows)], rows["method"][_starts_method(rows)], strict=True):
        text = axes.annotate(_name(method), (0, place), (72 * names_at, 0), ("axes fraction", "data"), "offset points")
        text.set(va="center_baseline", weight="bold", color=INK, annotation_clip=False)
