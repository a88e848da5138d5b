"""Figures of the study with a row per system or per change: a dot, its interval, its number.

What was not measured is left out, and an interval without ends is a dot without a bar.
"""

import math
from collections.abc import Mapping, Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from minirlhf.evaluation.plots import INK, MUTED, PANEL_INCHES, in_order, quiet
from minirlhf.evaluation.statistics import Interval
from minirlhf.evaluation.study_plots import LOOKS, REFERENCE, Value, looks_of, measured

TITLE_WIDTH = 24  # letters over a small panel


def shares_by_condition(
    shares: Mapping[str, Mapping[str, Value]], unit: str = "share of answers, 95 % interval"
) -> Figure:
    """Several systems' shares, one small panel per condition, the systems from top to bottom.

    Args:    shares: condition -> system -> share.
    Raises:  ValueError where nothing is to be drawn.
    """
    drawn = [(title, _present(values)) for title, values in shares.items()]
    drawn = [(title, values) for title, values in drawn if values]
    if not drawn:
        raise ValueError("there are no shares to draw")
    systems = in_order(dict.fromkeys(name for _, values in drawn for name in values))
    looks = looks_of(systems)
    columns = min(4, len(drawn))
    rows = -(-len(drawn) // columns)
    size = (1.2 + 1.75 * columns, rows * (0.9 + 0.24 * len(systems)))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for i, axes in enumerate(grid.ravel()):
        if i >= len(drawn):
            axes.set_axis_off()
            continue
        title, values = drawn[i]
        _row_axes(axes, fill(title, TITLE_WIDTH), systems)
        axes.set(xlim=(-0.03, 1.25), xticks=[0, 0.5, 1])
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for row, name in enumerate(systems):
            if name in values:
                right = _draw_dot(axes, row, values[name], looks[name])
                axes.text(right + 0.05, row, f"{values[name].estimate:.0%}", va="center",
                          fontsize=8, color=INK)  # fmt: skip
        if i % columns:
            axes.set_yticklabels([])
    figure.supxlabel(unit, fontsize=8, color=MUTED)
    return figure


def forest(
    differences: Mapping[str, Value], title: str, unit: str, default: str = "default"
) -> Figure:
    """What each change does to the default: difference with interval, from top to bottom.

    A filled marker: the interval excludes 0. An open one: it does not.

    Args:    differences: change -> value(change) - value(default); title; unit.
    Raises:  ValueError where nothing is to be drawn.
    """
    return _row_figure(_present(differences), title, f"{unit}; dashed: {default}", 2)


def rating_dots(ratings: Mapping[str, Value], anchor: str, unit: str = "Elo points") -> Figure:
    """Ratings of all systems, the strongest on top; a dashed line marks who has 0 points.

    Args:    ratings: system -> Elo points, as from `elo_ratings`; anchor: what 0 is, in words.
    Raises:  ValueError where nothing is to be drawn.
    """
    rows = sorted(_present(ratings).items(), key=lambda item: -item[1].estimate)
    return _row_figure(dict(rows), "Rating", f"{unit}; dashed: {anchor}", 0)


def _present(values: Mapping[str, Value]) -> dict[str, Interval]:
    found = ((name, measured(value)) for name, value in values.items())
    return {name: value for name, value in found if value is not None}


def _row_axes(axes: Axes, title: str, rows: Sequence[str]) -> None:
    """Names down the left side, the first on top."""
    quiet(axes, title, "")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=INK)


def _draw_dot(axes: Axes, row: int, value: Interval, look: Mapping, filled: bool = True) -> float:
    """One row's marker and bar; returns how far right they go."""
    known = math.isfinite(value.low + value.high)
    if known:
        axes.hlines(row, value.low, value.high, color=look["color"], linewidth=1.3)
    axes.plot([value.estimate], [row], linestyle="none", marker=look["marker"], markersize=5.5,
              color=look["color"], markerfacecolor=look["color"] if filled else "none")  # fmt: skip
    return max(value.high, value.estimate) if known else value.estimate


def _row_figure(rows: Mapping[str, Interval], title: str, xlabel: str, decimals: int) -> Figure:
    """A dot and a bar per row around 0, the numbers to the right."""
    if not rows:
        raise ValueError(f"there is nothing to draw in {title!r}")
    figure = Figure(figsize=(1.75 * PANEL_INCHES[0], 0.9 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    _row_axes(axes, title, list(rows))
    axes.axvline(0, **REFERENCE)
    for row, value in enumerate(rows.values()):
        _draw_dot(axes, row, value, LOOKS[0], filled=value.excludes(0))
        text = f"{value.estimate:+.{decimals}f}"
        if math.isfinite(value.low + value.high):
            text += f" [{value.low:+.{decimals}f}, {value.high:+.{decimals}f}]"
        axes.text(1.02, row, text.replace("-", "−"), transform=axes.get_yaxis_transform(),
                  va="center", fontsize=8, color=MUTED)  # fmt: skip
    axes.set_xlabel(xlabel, fontsize=8, color=MUTED)
    return figure
