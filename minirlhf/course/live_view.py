"""What a live run shows: the panel in the notebook, and the picture that stays behind."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import anywidget
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minirlhf.course.picture import Picture
from minirlhf.engine.metrics import METRICS
from minirlhf.evaluation.plots import INK, MUTED, PANELS, Line, Panel, draw_panel, is_number

CURVES = ("scores", "ref_kl", "response_length", "clip_fraction")


class Control(NamedTuple):
    """A setting with a slider; `least` and `most` bound what Python may set as well."""

    label: str
    note: str
    least: float
    most: float


CONTROLS = {
    "kl_coef": Control("KL coefficient β", "RM units paid per nat away from SFT", 0.0, math.inf),
    "clip_range": Control("Clip range", "how far a ratio may leave 1", 0.001, 0.99),
}


class Change(NamedTuple):
    """A setting changed by hand: `update` is the first one made with the `new` value."""

    update: int
    name: str
    old: float
    new: float


class LivePanel(anywidget.AnyWidget):
    """The view. What stays is in `setup`; all else comes as messages, which no notebook saves."""

    _esm = Path(__file__).with_name("live.js")
    _css = Path(__file__).with_name("live.css")
    setup = traitlets.Dict().tag(sync=True)


def curve_panel(name: str) -> Panel:
    """Title, unit and reference of one metric's plot: the report's, or the registry's.

    Raises: ValueError for a metric that the registry does not know.
    """
    for panel in PANELS["ppo"]:
        if any(line.metric == name for line in panel.lines):
            return panel
    if name not in METRICS:
        raise ValueError(f"curves: {name!r} is not a metric (see minirlhf.engine.metrics)")
    return Panel(
        title=name.replace("_", " ").capitalize(),
        lines=(Line("ppo", name, "PPO"),),
        reference="start",
        note=METRICS[name].healthy,
    )


def controls(ppo: Any) -> dict[str, float]:
    """The settings that can be changed, with their values now: none that the run does without."""
    found = {name: getattr(ppo, name, None) for name in CONTROLS}
    return {name: float(value) for name, value in found.items() if value is not None}


def panel_setup(ppo: Any, first: int, last: int, curves: Sequence[str]) -> dict:
    """What the panel knows from the start: updates, sliders, plots."""
    # β has no natural upper end: five times its first value, at least ten times the paper's 0.02.
    # A clip range far above 0.5 clips next to nothing.
    most = float(f"{max(0.2, 5 * ppo.kl_coef):.2g}")
    sliders = [_slider("kl_coef", 0.0, most, 0.005 if most < 1 else most / 100)]
    if "clip_range" in controls(ppo):
        sliders.append(_slider("clip_range", 0.01, max(0.5, ppo.clip_range), 0.01))
    plots = []
    for name in curves:
        panel = curve_panel(name)
        reference = panel.reference
        if isinstance(reference, str):
            reference = (None, reference)  # the first value, which the panel will know
        metric = METRICS[name]
        note = f"{metric.formula}. Healthy: {metric.healthy}."
        plots.append({"title": panel.title, "unit": metric.unit, "note": note,
                      "reference": list(reference)})  # fmt: skip
    return {"first": first, "last": last, "sliders": sliders, "plots": plots}


def _slider(name: str, least: float, most: float, step: float) -> dict:
    control = CONTROLS[name]
    span = {"least": least, "most": most, "step": step}
    return {"name": name, "label": control.label, "note": control.note, **span}


def plain(value: Any) -> float | None:
    """A number as JSON can carry it: None where it is missing or not finite."""
    value = None if value is None else float(value)
    return value if is_number(value) else None


def live_figure(
    first: int,
    history: Sequence[Mapping[str, float]],
    changes: Sequence[Change],
    curves: Sequence[str],
) -> Figure:
    """The curves of a run, one plot each, the last value at each line's end.

    Args:    first: number of the update before the first one of `history`; changes: drawn as
             dotted lines with letters, which a line below the plots explains.
    Returns: Figure with a white ground, so that it reads in a dark notebook too.
    """
    rows = [{"stage": "ppo", "step": n, **stats} for n, stats in enumerate(history, first + 1)]
    columns, caption = min(2, len(curves)), _caption(changes)
    lines = math.ceil(len(curves) / columns)
    figure = Picture(figsize=(3.9 * columns, 2.5 * lines + 0.25 * bool(caption)), dpi=80)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, name in zip(grid, curves, strict=False):
        value = history[-1].get(name, math.nan)
        draw_panel(
            axes, rows, curve_panel(name)._replace(lines=(Line("ppo", name, f"{value:.3g}"),))
        )
        _mark(axes, changes, close=len(history) / 25)
    for axes in grid[len(curves) :]:
        axes.set_axis_off()
    figure.patch.set_facecolor("white")
    figure.supxlabel(caption, fontsize=8, color=MUTED)
    return figure


def _mark(axes: Axes, changes: Sequence[Change], close: float) -> None:
    """Dotted lines with letters; letters that would lie on each other are joined."""
    look = {"fontsize": 8, "color": INK, "ha": "center", "bbox": {"fc": "white", "ec": "none"}}
    label, last = None, -math.inf
    for letter, change in zip(ascii_lowercase, changes, strict=False):
        place = change.update - 0.5
        axes.axvline(place, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
        if place - last < close:
            label.set_text(label.get_text() + letter)
            continue
        label = axes.text(place, 0.03, letter, transform=axes.get_xaxis_transform(), **look)
        label.get_bbox_patch().set_boxstyle("square", pad=0.1)
        last = place


def _caption(changes: Sequence[Change]) -> str:
    return "    ".join(
        f"{letter}: {change.name} {change.old:g} → {change.new:g} from update {change.update}"
        for letter, change in zip(ascii_lowercase, changes, strict=False)
    )
