"""Figures of the study: plain numbers and intervals in, `matplotlib.figure.Figure` out.

The look is that of `plots`. A system keeps its colour, dash and marker in every figure; intervals
are thin bars; what was not measured (None, NaN) is left out, and an interval without ends is a
point without a bar.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from minirlhf.evaluation.calibration import Bin
from minirlhf.evaluation.overoptimisation import Fit
from minirlhf.evaluation.plots import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    MUTED,
    PANEL_INCHES,
    in_order,
    is_number,
    name_lines,
    quiet,
)
from minirlhf.evaluation.statistics import Interval

Value = Interval | float | None
Values = Sequence[Value]

LOOKS = [
    {"color": colour, "linestyle": dash, "marker": marker}
    for colour, dash, marker in zip(
        (*COLOURS, INK), (*DASHES, (0, (7, 1.5, 1, 1.5, 1, 1.5))), (*MARKERS, "v"), strict=True
    )
]
SYSTEM_LOOKS = {"PPO": 0, "PPO-ptx": 1, "SFT": 2, "prompted base": 3, "base": 4}
REFERENCE = {"color": MUTED, "linewidth": 0.8, "linestyle": (0, (2, 2)), "zorder": 1}
DODGE = 0.012  # of the axis: how far markers of two series at one place stand apart


class Quantity(NamedTuple):
    """One panel: each series has a value for every place on the axis. `reference`: (height,
    name); `best`: "min" or "max" marks where each series is best."""

    title: str
    unit: str
    series: Mapping[str, Values]
    reference: tuple[float, str] | None = None
    best: str | None = None


class Curve(NamedTuple):
    """Scores at distances from SFT, and the form fitted to them, if any."""

    distances: Sequence[float]
    scores: Values
    fit: Fit | None = None


def win_rates_by_size(sizes: Sequence[float], rates: Mapping[str, Values], opponent: str) -> Figure:
    """Share of comparisons won against one opponent, by model size, one line per system.

    The paper's figure 1, whose opponent is the largest SFT model.

    Args:    sizes (n,), parameters; rates: system -> n shares; opponent, in words.
    Raises:  ValueError where lengths differ, nothing is to be drawn, or there are more than five
             systems.
    """
    figure, (axes,) = _panels(1, width=1.6, height=1.3)
    quiet(axes, f"Win rate against {opponent}", "share won, ties half, 95 % interval")
    axes.set_xscale("log")
    _size_axis(axes, sizes)
    names = _draw_series(axes, sizes, {name: rates[name] for name in in_order(rates)})
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(ylim=(0, 1), yticks=[0, 0.25, 0.5, 0.75, 1])
    _finish(axes, names, (0.5, "even"))
    return figure


def score_against_kl(panels: Mapping[str, Mapping[str, Curve]], unit: str) -> Figure:
    """Gold and proxy score against distance from SFT: points, fitted forms, and their maxima.

    A fitted line ends where its points do. A ring marks its maximum, if that was reached.

    Args:    panels: title (a reward model, say) -> name of a curve ("PPO, gold") -> Curve;
             unit of the scores.
    Raises:  ValueError as in win_rates_by_size.
    """
    figure, grid = _panels(len(panels), height=1.25, sharey=True)
    all_names = []
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        quiet(axes, title, unit)
        axes.set_xlabel("distance from SFT, √KL (√nats per response)", fontsize=8, color=MUTED)
        names = []
        for name, look in looks_of(curves).items():
            curve = curves[name]
            marks = look if curve.fit is None else look | {"linestyle": "none"}
            drawn = _draw_points(axes, curve.distances, curve.scores, marks, name)
            if drawn:
                end = drawn[-1] if curve.fit is None else _draw_fit(axes, curve.fit, look)
                names.append((end, name, look["color"]))
        all_names.append(names)
    for axes, names in zip(grid, all_names, strict=True):  # heights are settled only now: shared
        _finish(axes, names, (0.0, "SFT"))
    return figure


def coefficient_sweep(
    coefficients: Sequence[float],
    quantities: Sequence[Quantity],
    xlabel: str,
    default: float | None = None,
) -> Figure:
    """Quantities against a coefficient on a log axis; 0 stands left of it, behind a break.

    Args:    coefficients (n,), rising, >= 0; quantities: one panel each, n values per series;
             xlabel: the coefficient's name and unit; default: the one that the study uses.
    Raises:  ValueError where lengths differ, coefficients do not rise, or nothing is to be drawn.
    """
    levels = np.asarray(coefficients, dtype=float)
    if len(levels) < 2 or (levels < 0).any() or (np.diff(levels) <= 0).any() or levels[-1] == 0:
        raise ValueError("coefficients must be two or more, from 0 up, each above the last")
    places = levels.copy()
    zero = levels[0] == 0
    if zero:
        places[0] = levels[1] / (levels[2] / levels[1] if len(levels) > 2 else 10)
    figure, grid = _panels(len(quantities))
    for axes, quantity in zip(grid, quantities, strict=True):
        axes.set_xscale("log")
        _draw_quantity(axes, places, quantity, apart=1 if zero else 0)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(places, [f"{level:g}" for level in levels])
        axes.set_xlabel(xlabel, fontsize=8, color=MUTED)
        if zero:
            axes.text(math.sqrt(places[0] * places[1]), 0, "//", color=MUTED, fontsize=9,
                      transform=axes.get_xaxis_transform(), ha="center", va="center")  # fmt: skip
        if default is not None:
            place = places[int(np.argmin(np.abs(levels - default)))]
            axes.axvline(place, **REFERENCE)
            axes.text(place, 1, " default", transform=axes.get_xaxis_transform(), fontsize=7,
                      color=MUTED, va="top")  # fmt: skip
    return figure


def calibration_diagram(models: Mapping[str, Sequence[Bin]]) -> Figure:
    """How often labelers agree, against how sure the reward model is; below, where pairs lie.

    Args:    models: name -> bins as from `reliability_bins`; at most five.
    Raises:  ValueError where nothing is to be drawn.
    """
    models = {name: bins for name, bins in models.items() if bins}
    if not models:
        raise ValueError("there are no bins to draw")
    figure = Figure(figsize=(1.25 * PANEL_INCHES[0], 1.75 * PANEL_INCHES[1]), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    quiet(upper, "Agreement with labelers", "share of pairs, 95 % interval")
    quiet(lower, "", "share of all pairs")
    upper.plot([0.5, 1], [0.5, 1], **REFERENCE)
    names = [(1.0, "calibrated", MUTED)]
    for name, look in looks_of(models).items():
        bins = models[name]
        places, total = [one.confidence for one in bins], sum(one.pairs for one in bins)
        heights = _draw_points(upper, places, [one.agreement for one in bins], look, name)
        parts = [one.pairs / total for one in bins]
        lower.plot(places, parts, markersize=4, linewidth=1.2, **look)
        names.append((heights[-1], name, look["color"]))
    for axes in (upper, lower):
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(5 if axes is upper else 3))
    lower.set_xlabel("the reward model's probability for its favourite", fontsize=8, color=MUTED)
    lower.set_ylim(bottom=0)
    name_lines(upper, names)
    return figure


def sft_epochs(
    epochs: Sequence[float], losses: Mapping[str, Values], scores: Mapping[str, Values]
) -> Figure:
    """Validation loss and reward-model score over SFT epochs; rings mark the best of each.

    Args:    epochs (n,); losses: name -> n values, nats per token; scores: name -> n, RM units.
    Raises:  ValueError as in win_rates_by_size.
    """
    figure, grid = _panels(2)
    panels = (
        Quantity("Validation loss", "nats per response token", losses, best="min"),
        Quantity("Reward-model score", "RM units", scores, best="max"),
    )
    for axes, quantity in zip(grid, panels, strict=True):
        _draw_quantity(axes, epochs, quantity)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("epochs of SFT", fontsize=8, color=MUTED)
    return figure


def _panels(
    count: int, width: float = 1.0, height: float = 1.0, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, three a row; width and height in PANEL_INCHES."""
    if not count:
        raise ValueError("there is nothing to draw")
    columns = min(3, count)
    rows = -(-count // columns)
    size = (PANEL_INCHES[0] * width * columns, PANEL_INCHES[1] * height * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    for axes in grid[:count]:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    return figure, list(grid[:count])


def looks_of(names: Sequence[str] | Mapping) -> dict[str, dict]:
    """Colour, dash and marker for each name: a system keeps its own, others take what is left."""
    if len(names) > len(LOOKS):
        raise ValueError(f"at most {len(LOOKS)} series can be told apart, got {len(names)}")
    taken = {SYSTEM_LOOKS[name] for name in names if name in SYSTEM_LOOKS}
    left = iter([i for i in range(len(LOOKS)) if i not in taken])
    return {n: LOOKS[SYSTEM_LOOKS[n] if n in SYSTEM_LOOKS else next(left)] for n in names}


def measured(value: Value | Sequence) -> Interval | None:
    """The value as an Interval, its ends NaN where unknown; None where it was not measured."""
    if not isinstance(value, (tuple, list)):
        value = (value, None, None)
    estimate, low, high = (float(v) if is_number(v) else math.nan for v in value)
    return Interval(estimate, low, high) if math.isfinite(estimate) else None


def _draw_points(
    axes: Axes, places: Sequence[float], values: Values, look: Mapping, name: str, apart: int = 0
) -> list[float]:
    """Markers with bars, joined by a line but for the first `apart`; returns heights drawn."""
    if len(places) != len(values):
        raise ValueError(f"{name!r} has {len(values)} values for {len(places)} places")
    pairs = [(x, measured(v)) for x, v in zip(places, values, strict=True)]
    parts = [[(x, v) for x, v in some if v is not None] for some in (pairs[:apart], pairs[apart:])]
    found = parts[0] + parts[1]
    for part in parts:
        if part:
            axes.plot([x for x, _ in part], [v.estimate for _, v in part], markersize=4.6,
                      linewidth=1.5, **look)  # fmt: skip
    bars = [(x, v.low, v.high) for x, v in found if math.isfinite(v.low + v.high)]
    if bars:
        axes.vlines(*zip(*bars, strict=True), color=look["color"], linewidth=1)
    return [v.estimate for _, v in found]


def _draw_fit(axes: Axes, fit: Fit, look: Mapping) -> float:
    """The fitted curve as far as it was measured, a ring at its maximum; returns its end."""
    distances = np.linspace(0, fit.measured_to, 200)
    heights = fit.at(distances)
    axes.plot(distances, heights, color=look["color"], linestyle=look["linestyle"], linewidth=1.5)
    if 0 < fit.peak.estimate <= fit.measured_to:
        _ring(axes, fit.peak.estimate, float(fit.at([fit.peak.estimate])[0]), look)
    return float(heights[-1])


def _ring(axes: Axes, x: float, y: float, look: Mapping) -> None:
    axes.plot([x], [y], marker="o", markersize=11, markerfacecolor="none", markeredgewidth=1,
              linestyle="none", color=look["color"])  # fmt: skip


def _draw_quantity(axes: Axes, places: Sequence[float], quantity: Quantity, apart: int = 0) -> None:
    """One panel's series with their names, reference and rings at the best values."""
    quiet(axes, quantity.title, quantity.unit)
    names = _draw_series(axes, places, quantity.series, apart, quantity.best)
    _finish(axes, names, quantity.reference)


def _draw_series(
    axes: Axes,
    places: Sequence[float],
    series: Mapping[str, Values],
    apart: int = 0,
    best: str | None = None,
) -> list[tuple[float, str, str]]:
    """Series side by side; returns (height, name, colour) for the names at their ends."""
    names, looks = [], looks_of(series)
    for i, (name, values) in enumerate(series.items()):
        own = _dodged(axes, places, i - (len(series) - 1) / 2)
        heights = _draw_points(axes, own, values, looks[name], name, apart)
        if not heights:
            continue
        names.append((heights[-1], name, looks[name]["color"]))
        if best:
            x = [x for x, v in zip(own, values, strict=True) if measured(v) is not None]
            place = int(np.argmin(heights) if best == "min" else np.argmax(heights))
            _ring(axes, x[place], heights[place], looks[name])
    return names


def _dodged(axes: Axes, places: Sequence[float], steps: float) -> np.ndarray:
    """Places moved `steps` times DODGE of their range to the right, so that bars do not overlap."""
    places = np.asarray(places, dtype=float)
    if axes.get_xscale() == "log":
        return places * (places.max() / places.min()) ** (DODGE * steps)
    return places + (places.max() - places.min()) * DODGE * steps


def _finish(axes: Axes, names: list, reference: tuple[float, str] | None) -> None:
    """The reference line, and every name at the end of its line."""
    if not names:
        raise ValueError(f"there is nothing to draw in {axes.get_title(loc='left')!r}")
    if reference is not None:
        axes.axhline(reference[0], **REFERENCE)
        names = [*names, (*reference, MUTED)]
    name_lines(axes, names)


def _size_axis(axes: Axes, sizes: Sequence[float]) -> None:
    labels = [f"{n / 1e6:.3g}M" if n >= 1e6 else f"{n / 1e3:.0f}k" for n in sizes]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sizes, labels)
    axes.set_xlim(min(sizes) / 1.2, max(sizes) * 1.2)  # a single size, too, needs a width
    axes.set_xlabel("parameters", fontsize=8, color=MUTED)
