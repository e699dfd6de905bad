"""Figures of pooled rows: skill against harm (`frontier`), skill per domain (`skill`), and the effect of one setting
on three scores (`ablation`)."""

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from leaderboards.frame import ARMS, domains_of, is_parent, is_sweep, ratio_and_scale
from leaderboards.frontier import curve
from leaderboards.labels import Clutter, place_labels
from leaderboards.look import (
    GREY,
    INK,
    PARENT_MARKERS,
    Look,
    Picture,
    arm_keys,
    bar_fill,
    heading,
    looks,
    marker_fill,
    new_figure,
    rendered,
)
from leaderboards.text import display_name, plain

SWEPT = "#8f8f8f"
LINES = {"none": (0, (1, 1.5)), "task": (0, (4, 1.6)), "task+safety": "-"}
LEGEND_COLUMNS = 6
LABELS = 30  # characters that fit under a panel's axis side by side
NEAR = 0.1  # of the axis: closer, the labels of two settings overlap
SCORES = (  # of an ablation: title, column, columns of the interval's ends without _lo and _hi
    ("refusals, % of unsafe prompts", "refusal_rate", "refusal"),
    ("skill, % mean over domains", "skill_mean", "skill_mean"),
    ("over-refusal, % of benign prompts", "over_refusal_rate", "over_refusal"),
)
NO_SKILL = "no domain skill in these records"


def frontier(rows: pd.DataFrame) -> Picture:
    """Skill (mean over domains) against the harmful-output rate, in percent: up is skilled, left is safe.

    rows: of one fingerprint, one row per method x arm (`pooled`). An arrow leads a method from one arm to the next;
    thin lines are 95 % intervals. The ratios of a sweep are joined by a line, from the aligned parent on, and the area
    of what they and straight lines between them attain is grey."""
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
        parents, swept = is_parent(shown), is_sweep(shown)
        ratios = _draw_sweep(axes, clutter, shown)
        labels = _draw_parents(axes, clutter, shown[parents])
        labels += _draw_merges(axes, clutter, shown[~parents & ~swept])
        place_labels(axes, labels, clutter)
        place_labels(axes, ratios, clutter, small=True)
        if not len(shown):
            axes.text(0.5, 0.5, NO_SKILL, transform=axes.transAxes, ha="center", color=GREY)
        notes = f"{rows.iloc[0]['n_unsafe']} unsafe prompts; 95 % intervals"
        notes += "; grey: what one ratio for all weights attains" if swept.any() else ""
        heading(figure, rows, "skill against harm", notes)
        figure.text(0.085, 0.865, "↖ skilled and safe", color=INK, weight="bold", size=10, va="center")
        keys = arm_keys(shown.loc[~swept, "arm"])
        if swept.any():
            line = {"color": SWEPT, "lw": 1.6, "marker": "o", "ms": 3.6, "label": "one ratio for all (experts' share)"}
            keys.insert(0, Line2D([], [], **line))
        if keys:
            figure.legend(handles=keys, loc="center right", bbox_to_anchor=(0.99, 0.865), ncols=4, frameon=False)
        return rendered(figure)


def _draw_parents(axes: Axes, clutter: Clutter, rows: pd.DataFrame) -> list[tuple[str, float, float]]:
    labels = []
    for point in _points(rows):
        _draw_point(axes, clutter, point, Look(INK, PARENT_MARKERS.get(point["role"], "8")))
        role = _role(point["method"], point["role"])
        name = plain(display_name(point["method"]), 24) + (f" ({role})" if role else "")
        labels.append((name, point["x"], point["y"]))
    return labels


def _draw_sweep(axes: Axes, clutter: Clutter, rows: pd.DataFrame) -> list[tuple[str, float, float]]:
    """A line through the ratios of every scale, with a dot at each, and the area that one of them beats."""
    start = rows[rows["role"] == "aligned"][:1]
    swept = rows[is_sweep(rows)]
    if not len(swept):
        return []
    reach = pd.concat([start, swept])
    _shade(axes, 100 * reach["harmful_rate"].to_numpy(), 100 * reach["skill_mean"].to_numpy())
    lines: dict[float, list[tuple[float, float, float]]] = {}
    for point in _points(swept):
        ratio, scale = ratio_and_scale(point["method"])
        lines.setdefault(scale, []).append((ratio, point["x"], point["y"]))
    labels = []
    for scale, points in sorted(lines.items()):
        points = sorted(points)
        # At scale 1 the ratio 0 is the aligned parent itself.
        first = [(0, point["x"], point["y"]) for point in _points(start)] if scale == 1 and points[0][0] > 0 else []
        _, x, y = np.array(first + points).T
        axes.plot(x, y, color=SWEPT, lw=1.6, zorder=1.6, solid_joinstyle="round")
        axes.plot(x[len(first) :], y[len(first) :], "o", color=SWEPT, ms=3.6, zorder=1.7, clip_on=False)
        for ends in pairwise(zip(x, y, strict=True)):
            clutter.add_line(*ends[0], *ends[1], weight=1.0)
        suffix = "" if scale == 1 else f"×{scale:g}"
        labels += [(f"{ratio:g}{suffix}", x, y) for ratio, x, y in points]
    return labels


def _shade(axes: Axes, harm: np.ndarray, skill: np.ndarray) -> None:
    """Grey what a point, or a straight line between two neighbours on the front, beats: the lower right."""
    at = np.linspace(harm.min(), 100, 1000)
    axes.fill_between(at, axes.get_ylim()[0], curve(-at, -harm[None], skill[None]), color="#f3f3f3", lw=0, zorder=0.4)


def _draw_merges(axes: Axes, clutter: Clutter, rows: pd.DataFrame) -> list[tuple[str, float, float]]:
    """Every method's points in the order of its arms, and one label a method, at its last arm."""
    look_of, labels = looks(rows), []
    for method, group in rows.groupby("method", sort=False):
        points = _points(group)
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


def skill(rows: pd.DataFrame) -> Picture:
    """Skill per domain in percent with 95 % intervals: one panel a domain, one bar a row of `pooled`.

    A dashed line marks the best expert."""
    domains = domains_of(rows)
    notes = "95 % intervals" + ("; dashed: the best expert" if (rows["role"] == "expert").any() else "")
    across = min(3, max(1, len(domains)))
    down = -(-len(domains) // across) or 1
    places = _bar_places(rows)
    # Inches: the figure grows with its bars and names, so that both keep their size.
    left = 1.15 + 0.085 * max(len(_name(method)) for method in rows["method"])
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
        return rendered(figure)


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
    named = rows[["method", "arm", "role"]].itertuples(index=False)
    labels = [arm if arm else _role(method, role) for method, arm, role in named]
    axes.set_yticks(places, labels=labels)
    axes.tick_params(axis="y", labelleft=True)
    for place, method in zip(np.array(places)[_starts_method(rows)], rows["method"][_starts_method(rows)], strict=True):
        text = axes.annotate(_name(method), (0, place), (72 * names_at, 0), ("axes fraction", "data"), "offset points")
        text.set(va="center_baseline", weight="bold", color=INK, annotation_clip=False)


def ablation(
    points: Sequence[tuple[float | str, pd.DataFrame]],
    xlabel: str,
    arms: Collection[str] = ("task", "task+safety"),
) -> Picture:
    """Refusals, skill and over-refusal in percent against a setting, one line per method and arm.

    points: (value of the setting, rows of `pooled` measured under it), in the order to show. Numbers lie where they
    are, on a logarithmic axis where they span a factor of 5 or more; words lie side by side, and so do numbers that
    would come too close to each other. xlabel: what the setting is called. Vertical strokes are 95 % intervals; a
    dotted line is the safest or the most skilled parent. Raises ValueError where no row is in `arms`, and where a
    method x arm has several rows at one value: pool the seeds first.
    """
    values = [value for value, _ in points]
    shown = [_in_arms(rows, arms) for _, rows in points]
    every = pd.concat(shown, ignore_index=True) if shown else pd.DataFrame()
    if not len(every):
        raise ValueError(f"an ablation needs rows in arm {' or '.join(arms)}")
    places, look_of = _places(values), looks(every)
    labels = [_setting(value, LABELS // len(values)) for value in values]
    lines = sorted(
        set(zip(every["method"], every["arm"], strict=True)), key=lambda line: (line[0], ARMS.index(line[1]))
    )
    margin = 0.08 if len(values) > 3 else 0.25
    top = 1.0 + 0.21 * -(-len(look_of) // LEGEND_COLUMNS)  # inches for the heading and the legend
    bottom = 0.36 + 0.16 * max(label.count("\n") + 1 for label in labels)
    with new_figure(9.6, 2.43 + bottom + top) as figure:
        for axes, (title, column, ends) in zip(figure.subplots(1, 3), SCORES, strict=True):
            axes.set_title(title, loc="left", size=9.5, color=INK)
            highest = 100 * max(every[f"{ends}_hi"].max(), every[column].max())
            # Refusals may be anything from 0 to 100 %; the other two would be flat lines on that scale.
            limit = 104 if column == "refusal_rate" or pd.isna(highest) else max(20, min(104, 1.25 * highest))
            axes.set(xlabel=plain(xlabel), xlim=(-margin, 1 + margin), ylim=(-0.03 * limit, limit))
            axes.set_xticks(places, labels=labels)
            axes.grid(True, axis="y")
            parent = _yardstick(points, column)
            if parent is not None:
                axes.axhline(100 * parent[column], color=INK, lw=1, ls=(0, (1, 2)), zorder=1)
            for number, (method, arm) in enumerate(lines):
                # Side by side, or intervals would hide each other.
                aside = 0.06 * (number - (len(lines) - 1) / 2) / len(lines)
                there = [rows[(rows["method"] == method) & (rows["arm"] == arm)] for rows in shown]
                _draw_line(axes, np.array(places) + aside, there, (column, ends), look_of[method], arm)
        height = figure.get_figheight()
        figure.subplots_adjust(0.045, bottom / height, 0.99, 1 - top / height, 0.13)
        _explain(figure, points, xlabel, look_of, [arm for arm in ARMS if (every["arm"] == arm).any()])
        return rendered(figure)


def _in_arms(rows: pd.DataFrame, arms: Collection[str]) -> pd.DataFrame:
    chosen = rows[rows["arm"].isin(list(arms)) & ~is_sweep(rows) & ~is_parent(rows)]
    twice = chosen[chosen.duplicated(["method", "arm"])]
    if len(twice):
        name = plain(str(twice["method"].iloc[0]))
        raise ValueError(f"{name} has several rows in arm {twice['arm'].iloc[0]}; give one fingerprint's rows, pooled")
    return chosen


def _places(values: Sequence[float | str]) -> list[float]:
    """Where each value lies, from 0 to 1."""
    if len(values) < 2:
        return [0.5] * len(values)
    even = list(np.linspace(0, 1, len(values)))
    numbers = [float(value) for value in values if not isinstance(value, str)]
    if len(numbers) < len(values) or min(numbers) == max(numbers):
        return even
    if min(numbers) > 0 and max(numbers) >= 5 * min(numbers):
        numbers = [math.log(number) for number in numbers]
    places = [(number - min(numbers)) / (max(numbers) - min(numbers)) for number in numbers]
    return places if min(np.diff(sorted(places))) > NEAR else even


def _setting(value: float | str, width: int) -> str:
    """A setting as a label of lines of so many characters, where its words allow."""
    lines = textwrap.wrap(plain(value), width, break_long_words=False) if isinstance(value, str) else [f"{value:g}"]
    return "\n".join(lines)


def _draw_line(
    axes: Axes, places: np.ndarray, there: Sequence[pd.DataFrame], columns: tuple[str, str], look: Look, arm: str
) -> None:
    """One method in one arm; a value where it did not run is a gap in its marks, not in its line."""
    value, ends = columns
    found = [
        (x, *(100 * rows[[value, f"{ends}_lo", f"{ends}_hi"]].iloc[0]))
        for x, rows in zip(places, there, strict=True)
        if len(rows) and rows[value].notna().all()
    ]
    if not found:
        return
    x, y, lo, hi = np.array(found).T
    axes.vlines(x, lo, hi, color=look.colour, lw=1.0, alpha=0.55, zorder=2)
    axes.plot(
        x, y, ls=LINES.get(arm, "-"), marker=look.marker, ms=6.5, lw=1.5, color=look.colour, zorder=3, clip_on=False,
        **marker_fill(look.colour, arm),
    )  # fmt: skip


def _yardstick(points: Sequence[tuple[float | str, pd.DataFrame]], column: str) -> pd.Series | None:
    """The parent with the most skill, or, for both kinds of refusal, with the most refusals."""
    parents = pd.concat([rows[is_parent(rows)] for _, rows in points], ignore_index=True)
    by = "skill_mean" if column == "skill_mean" else "refusal_rate"
    return None if parents[by].isna().all() else parents.loc[parents[by].idxmax()]


def _explain(figure: Figure, points: Sequence, xlabel: str, look_of: Mapping[str, Look], arms: Sequence[str]) -> None:
    """Heading and legends of an ablation, above its panels."""
    width, height = figure.get_size_inches()
    suites = dict.fromkeys(plain(str(rows["suite"].iloc[0]), 24) for _, rows in points if len(rows))
    first = f"{next(iter(suites))}: " if len(suites) == 1 else ""
    title, notes = f"{first}effect of {plain(xlabel)}", "vertical strokes: 95 % intervals"
    parents = [_yardstick(points, column) for column in ("refusal_rate", "skill_mean")]
    named = [
        f"{plain(display_name(parent['method']), 24)} ({what})"
        for parent, what in zip(parents, ("both refusals", "skill"), strict=True)
        if parent is not None
    ]
    notes += f"; dotted: {', '.join(named)}" if named else ""
    figure.text(0.15 / width, 1 - 0.16 / height, title, size=12, weight="bold", color=INK, va="top")
    figure.text(0.15 / width, 1 - 0.42 / height, notes, size=8, color=GREY, va="top")
    methods = [
        Line2D([], [], ls="", marker=look.marker, ms=7, color=look.colour, label=plain(name, 22))
        for name, look in look_of.items()
    ]
    options = {"frameon": False, "handletextpad": 0.4, "columnspacing": 1.3, "borderaxespad": 0}
    at = {"loc": "upper left", "bbox_to_anchor": (0.013, 1 - 0.64 / height), "ncols": LEGEND_COLUMNS}
    figure.legend(handles=methods, **at, **options)
    keys = [Line2D([], [], ls=LINES[arm], marker="o", ms=7, lw=1.5, color=GREY, label=arm, **marker_fill(GREY, arm))
            for arm in arms]  # fmt: skip
    options["handlelength"] = 3
    figure.legend(handles=keys, loc="upper right", bbox_to_anchor=(0.99, 1 - 0.16 / height), ncols=3, **options)
