"""Figures of a run: plain data in, `matplotlib.figure.Figure` out.

Never pyplot: its global state loses a student's own figures when a run draws from a thread.
Every line differs in colour, dash and marker and carries its name at its end, so that a figure
reads without colour. The few colours below are the whole palette; the report swaps them for its
own in the dark.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minirlhf.engine.metrics import METRICS
from minirlhf.evaluation.statistics import wilson_interval

INK, MUTED, RULE = "#1c2230", "#5d6675", "#d9d6cc"
GOLD, BLUE = "#e3b341", "#8fb1d3"  # bars: pale enough for an ink whisker on top
COLOURS = ("#2b5a8a", "#b4531a", "#2f7d6b", "#7a4b8f")
DASHES, MARKERS = ("-", (0, (4, 1.5)), (0, (1, 1.2)), "-."), ("o", "s", "^", "D")
SYSTEMS = ("base", "prompted base", "SFT", "PPO", "PPO-ptx")
CRITERIA = {
    "helpful": "helpful",
    "on_topic": "on topic",
    "true": "true",
    "complete": "complete",
    "polite": "polite",
    "harmless": "harmless",
    "ended": "ended",
}
PANEL_INCHES = (3.7, 2.5)
SMOOTH_FROM = 40  # more updates than this are drawn faint, with a moving mean on top


class Line(NamedTuple):
    """One curve: the stage and metric it comes from, and the name written at its end."""

    stage: str
    metric: str
    label: str


class Panel(NamedTuple):
    """One small plot. `reference`: (height, name), or a name for the first value (= at the
    start); `note`: one sentence on how to read it."""

    title: str
    lines: tuple[Line, ...]
    reference: tuple[float, str] | str
    note: str

    @property
    def unit(self) -> str:
        return METRICS[self.lines[0].metric].unit


def _split(stage: str, metric: str) -> tuple[Line, ...]:
    return Line(stage, metric, "train"), Line(stage, f"valid_{metric}", "valid")


def _both(metric: str) -> tuple[Line, ...]:
    return Line("ppo", metric, "PPO"), Line("ppo-ptx", metric, "PPO-ptx")


_LOSSES = (Line("sft", "train_loss", "train"), Line("sft", "valid_loss", "valid"))
PANELS: dict[str, tuple[Panel, ...]] = {
    "sft": (
        Panel("Loss", _LOSSES, "start", "On the response only. Valid rising while train falls: "
              "the demonstrations are being learned by heart."),
        Panel("Reward-model score", (Line("sft", "valid_score", "valid"),), (0.0, "demos"),
              "The paper keeps the checkpoint with the best score, not the best loss. 0 is the "
              "mean of the demonstrations."),
    ),
    "reward": (
        Panel("Ranking loss", _split("reward", "ranking_loss"), (math.log(2), "ln 2"),
              "ln 2 = 0.693 is what a tossed coin gets."),
        Panel("Pair accuracy", _split("reward", "pair_accuracy"), (0.5, "chance"),
              "Pairs that the model puts in the labeler's order."),
    ),
    "ppo": (
        Panel("Score", _both("scores"), "start",
              "What PPO is paid for, before the price of KL. The start is SFT."),
        Panel("KL from SFT", _both("ref_kl"), (0.0, "SFT"),
              "How far the policy has walked for its score."),
        Panel("Response length", _both("response_length"), "start",
              "Length is the easiest thing to fool a reward model with."),
        Panel("Answers without an end", _both("missing_eos"), "start",
              "Responses cut off at the length limit, with no end of sequence."),
        Panel("Entropy", _both("entropy"), "start",
              "Falling to 0 means one answer for everything."),
        Panel("Policy loss", _both("policy_loss"), (0.0, "0"),
              "Stays near 0 when all is well; it does not measure progress."),
        Panel("Value loss", _both("value_loss"), "start",
              "Falls as the critic learns to foresee the score."),
        Panel("Clip fraction", _both("clip_fraction"), (0.0, "0"),
              "Tokens where the clip holds the update back."),
        Panel("Loss on pretraining text", _both("ptx_loss"), "start",
              "What PPO-ptx keeps from rising: the alignment tax."),
    ),
}  # fmt: skip


def panels_with_data(metrics: Sequence[Mapping], stage: str) -> list[Panel]:
    """The stage's panels for which `metrics` holds at least one finite value.

    Args:    metrics: rows {"stage", "step", metric: value, ...} as in metrics.jsonl;
             stage: "sft", "reward" or "ppo" (which covers "ppo-ptx").
    Raises:  ValueError for an unknown stage.
    """
    if stage not in PANELS:
        raise ValueError(f"stage must be one of {', '.join(PANELS)}, got {stage!r}")
    return [p for p in PANELS[stage] if any(points(metrics, *line[:2])[0] for line in p.lines)]


def training_curves(metrics: Sequence[Mapping], stage: str) -> Figure:
    """All curves of one stage in one figure; "ppo" lays PPO and PPO-ptx over each other.

    Args:    as in panels_with_data.
    Returns: Figure, up to three panels a row.
    Raises:  ValueError for an unknown stage or where there is nothing to draw.
    """
    panels = panels_with_data(metrics, stage)
    if not panels:
        raise ValueError(f"the metrics hold no values of stage {stage!r}")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        draw_panel(axes, metrics, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


def panel_figure(metrics: Sequence[Mapping], panel: Panel) -> Figure:
    """One panel as a figure of its own, with margins that line up between panels."""
    figure = Figure(figsize=PANEL_INCHES)
    draw_panel(figure.add_axes((0.11, 0.17, 0.7, 0.62)), metrics, panel)
    return figure


def draw_panel(axes: Axes, metrics: Sequence[Mapping], panel: Panel) -> None:
    """Draw a panel's curves, its reference line and their names on `axes`."""
    quiet(axes, panel.title, panel.unit)
    axes.set_xlabel("update", fontsize=8, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    names, start = [], None
    for i, line in enumerate(panel.lines):
        steps, values = points(metrics, line.stage, line.metric)
        if steps:
            start = values[0] if start is None else start
            names.append((_draw_line(axes, steps, values, i), line.label, COLOURS[i]))
    reference = panel.reference
    if isinstance(reference, str):
        reference = (start, reference)
    if names:
        axes.axhline(reference[0], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
        names.append((reference[0], reference[1], MUTED))
    name_lines(axes, names)


def system_bars(results: Mapping) -> Figure:
    """Gold score of each system with its interval; a dashed line marks SFT.

    Args:    results: as in results.json.
    Raises:  ValueError where no system has a gold score.
    """
    return _bar_figure(_gold_bars(results), "Gold score", GOLD, percent=False)


def verdict_bars(results: Mapping, criterion: str) -> Figure:
    """Share of answers that meet one criterion, per system, with Wilson intervals.

    Args:    results: as in results.json; criterion: a key of CRITERIA.
    Raises:  ValueError where no system has that share.
    """
    title = CRITERIA[criterion].capitalize()
    return _bar_figure(_verdict_rows(results, criterion), title, BLUE, percent=True)


def verdict_shares(results: Mapping) -> Figure:
    """All criteria of the gold judge side by side, systems from top to bottom.

    Raises:  ValueError where no system has a verdict.
    """
    rows = {name: _verdict_rows(results, name) for name in CRITERIA}
    rows = {name: bars for name, bars in rows.items() if bars}
    if not rows:
        raise ValueError("the results hold no verdicts")
    figure = Figure(figsize=(2.1 * len(rows) + 1, 2.2), layout="constrained")
    for axes, (name, bars) in zip(
        figure.subplots(1, len(rows), squeeze=False)[0], rows.items(), strict=True
    ):
        _draw_bars(axes, bars, CRITERIA[name].capitalize(), BLUE, percent=True)
        if axes.get_subplotspec().colspan.start:
            axes.set_yticklabels([])
    return figure


def scaling_curve(rows: Sequence[Mapping]) -> Figure:
    """What the ladder of base models has learned, by size: loss, and facts told truthfully.

    Args:    rows: as in ladder.json: `parameters`, `loss` (nats per token), and `bare` and
             `prompted` as (share, low, high).
    """
    figure = Figure(figsize=(2 * PANEL_INCHES[0], PANEL_INCHES[1]), layout="constrained")
    loss, truth = figure.subplots(1, 2)
    sizes = [row["parameters"] for row in rows]
    quiet(loss, "Loss on new documents", "nats per token")
    loss.plot(sizes, [row["loss"] for row in rows], color=COLOURS[0], marker=MARKERS[0])
    quiet(truth, "Facts told truthfully", "share, 95 % interval")
    truth.yaxis.set_major_formatter(PercentFormatter(1))
    truth.set_ylim(0, 1)
    for i, name in enumerate(("prompted", "bare")):
        shares, lows, highs = zip(*(row[name] for row in rows), strict=True)
        ends = [np.subtract(shares, lows), np.subtract(highs, shares)]
        style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}
        truth.errorbar(sizes, shares, yerr=ends, capsize=2, **style)
        truth.annotate(name, (sizes[-1], shares[-1]), (6, 6), textcoords="offset points",
                       fontsize=8, color=COLOURS[i], annotation_clip=False)  # fmt: skip
    for axes in (loss, truth):
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size / 1e6:.1f} M" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("parameters", fontsize=8, color=MUTED)
    return figure


def in_order(systems: Mapping) -> list[str]:
    """The systems' names, the known ones in the order of the paper's steps, then the others."""
    return [s for s in SYSTEMS if s in systems] + [s for s in systems if s not in SYSTEMS]


def is_number(value: object) -> bool:
    """True for a finite number; None, NaN, text and booleans are not values to show."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def points(metrics: Sequence[Mapping], stage: str, metric: str) -> tuple[list, list]:
    """Steps and values of one metric, without gaps and NaN.

    A stage that was run again has two passes in the log, the second from a low step; it counts.
    """
    rows = [row for row in metrics if row.get("stage") == stage and is_number(row.get("step"))]
    steps = [row["step"] for row in rows]
    again = max((i for i in range(1, len(steps)) if steps[i] <= steps[i - 1]), default=0)
    rows = [row for row in rows[again:] if is_number(row.get(metric))]
    return [row["step"] for row in rows], [row[metric] for row in rows]


def _draw_line(axes: Axes, steps: list[float], values: list[float], i: int) -> float:
    """Draw curve number i; returns the height at which its name belongs."""
    smooth = np.asarray(values, dtype=float)
    if len(values) > SMOOTH_FROM:
        axes.plot(steps, values, color=COLOURS[i], linewidth=0.7, alpha=0.35)
        smooth = _moving_mean(smooth, max(3, len(values) // 20))
    axes.plot(steps, smooth, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.6,
              marker=MARKERS[i], markersize=3.6, markevery=max(1, len(steps) // 6))  # fmt: skip
    return float(smooth[-1])


def _moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` values, over fewer at the ends, so no edge is invented."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def name_lines(axes: Axes, names: list[tuple[float, str, str]]) -> None:
    """Write each name right of the axes at its height, pushed apart where they would touch."""
    axes.margins(x=0.02, y=0.12)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    gap, names = 0.1, sorted(names, key=lambda item: item[0])
    places = [(height - low) / (high - low) for height, _, _ in names]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(places))):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= gap
    for place, (_, name, colour) in zip(places, names, strict=True):
        axes.text(1.025, place, name, transform=axes.transAxes, color=colour, fontsize=8,
                  va="center", fontweight="normal" if colour == MUTED else "bold")  # fmt: skip


def _gold_bars(results: Mapping) -> list[tuple[str, float, float, float]]:
    systems = results.get("systems", {})
    bars = [(name, *(systems[name].get(k) for k in ("gold", "gold_low", "gold_high")))
            for name in in_order(systems)]  # fmt: skip
    return [bar for bar in bars if is_number(bar[1])]


def _verdict_rows(results: Mapping, criterion: str) -> list[tuple[str, float, float, float]]:
    systems, count = results.get("systems", {}), results.get("prompts") or 0
    bars = []
    for name in in_order(systems):
        share = systems[name].get(criterion)
        if is_number(share):
            ends = wilson_interval(share * count, count)[1:] if count else (None, None)
            bars.append((name, share, *ends))
    return bars


def _bar_figure(bars: list, title: str, colour: str, percent: bool) -> Figure:
    if not bars:
        raise ValueError(f"the results hold no values for {title.lower()!r}")
    figure = Figure(figsize=(PANEL_INCHES[0], 0.55 + 0.29 * len(bars)))
    bottom = 0.26 / figure.get_figheight()
    axes = figure.add_axes((0.265, bottom, 0.6, 1 - bottom - 0.3 / figure.get_figheight()))
    _draw_bars(axes, bars, title, colour, percent)
    return figure


def _draw_bars(axes: Axes, bars: list, title: str, colour: str, percent: bool) -> None:
    quiet(axes, title, "")
    names = [name for name, *_ in bars]
    axes.barh(names, [value for _, value, *_ in bars], height=0.52, color=colour, zorder=2)
    for row, (_, value, low, high) in enumerate(bars):
        known = is_number(low) and is_number(high)
        if known:
            axes.plot([low, high], [row, row], color=INK, linewidth=1.1, marker="|",
                      markersize=4.5, zorder=3)  # fmt: skip
        text = f"{value:.0%}" if percent else f"{value:.2f}"
        axes.text((high if known else value) + 0.025, row, text, va="center", fontsize=8,
                  color=INK)  # fmt: skip
    reference = dict((name, value) for name, value, *_ in bars).get("SFT")
    if reference is not None:
        axes.axvline(reference, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    axes.set(xlim=(0, 1.12), xticks=[0, 0.5, 1])
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(axis="y", labelcolor=INK)
    if percent:
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def quiet(axes: Axes, title: str, unit: str) -> None:
    """The one style: no box, faint level lines, small grey numbers, the title in ink."""
    axes.set_facecolor("none")
    axes.figure.patch.set_facecolor("none")
    pad = 19 if unit else 8
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=pad)
    # The unit lies above its axis, not along it: level text reads faster.
    axes.set_ylabel(unit, fontsize=8, color=MUTED, rotation=0, ha="left", va="bottom")
    axes.yaxis.set_label_coords(0, 1.03)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
