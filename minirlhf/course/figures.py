"""The pictures of single notebooks. Curves of whole runs are in `minirlhf.evaluation.plots`.

Each function returns a `Picture`, a matplotlib figure that a notebook shows by itself, and touches
no global state. Lines differ by dash and marker, bars by hatching: no picture needs
its colours.
"""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.patches import Rectangle
from torch.nn.functional import softplus

from minirlhf.course.picture import Picture
from minirlhf.evaluation.plots import COLOURS, DASHES, INK, MARKERS, MUTED, RULE

HATCHES = ["", "///", "...", "xxx"]


def _style(i):
    return {"color": COLOURS[i], "linestyle": DASHES[i], "marker": MARKERS[i]}


def _axes(title, xlabel, ylabel, columns=1, width=6.4, height=3.2):
    figure = Picture(figsize=(width, height), dpi=80, facecolor="white", layout="constrained")
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for ax in axes:
        ax.set_xlabel(xlabel, fontsize=9, color=MUTED)
        ax.tick_params(labelsize=8, colors=MUTED)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(RULE)
    axes[0].set_ylabel(ylabel, fontsize=9, color=MUTED)
    figure.suptitle(title, fontsize=10, color=INK)
    return figure, axes


def _reference(ax, height, label):
    ax.axhline(height, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), label=label, zorder=1)


def _at_most(series):
    if len(series) > len(COLOURS):
        raise ValueError(f"at most {len(COLOURS)} in one picture, got {len(series)}")


def _legend(ax, **where):
    ax.legend(frameon=False, fontsize=8, **where)


def lines(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    title: str,
    xlabel: str,
    ylabel: str,
    reference: tuple[float, str] = (0.0, "0"),
) -> Picture:
    """Up to four curves over one axis, with a horizontal reference line.

    Args:   series: label -> one y for each x; axis labels with their units; reference: its
            height and its name.
    Raises: ValueError for more than four series, which nobody can tell apart.
    """
    _at_most(series)
    figure, (ax,) = _axes(title, xlabel, ylabel)
    _reference(ax, *reference)
    for i, (label, y) in enumerate(series.items()):
        marks = {"markevery": (i * len(x) // 32, max(1, len(x) // 8)), "markersize": 5}
        ax.plot(x, y, label=label, linewidth=1.6, **marks, **_style(i))
    _legend(ax, loc="center left", bbox_to_anchor=(1, 0.5))  # beside the curves, never on them
    return figure


def bars(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    title: str,
    ylabel: str,
    reference: tuple[float, str] = (0.0, "0"),
) -> Picture:
    """Grouped bars with a reference line; each bar carries its number.

    Args:   labels: one per group; series: name -> one height for each group.
    Raises: ValueError for more than four series.
    """
    _at_most(series)
    figure, (ax,) = _axes(title, "", ylabel)
    width = 0.8 / len(series)
    for i, (name, heights) in enumerate(series.items()):
        x = [k + (i - (len(series) - 1) / 2) * width for k in range(len(labels))]
        look = {"facecolor": "white", "edgecolor": COLOURS[i], "hatch": HATCHES[i]}
        drawn = ax.bar(x, heights, 0.9 * width, label=name, **look)
        ax.bar_label(drawn, fmt="%.3g", fontsize=8, padding=2)
    _reference(ax, *reference)
    ax.set_xticks(range(len(labels)), labels)
    ax.margins(y=0.15)
    if len(series) > 1 or reference[0]:
        _legend(ax)
    return figure


def pair_grid(ranks: Sequence[int], labels: Sequence[str]) -> Picture:
    """Every answer against every other: which comparisons a ranking holds.

    Args: ranks: 1 = best, equal = tied; labels: one letter per answer.
    """
    size = len(ranks)
    figure, (ax,) = _axes("Does the row beat the column?", "", "", width=3.6, height=3.4)
    for row in range(size):
        for column in range(size):
            wins = ranks[row] < ranks[column]
            tie = row != column and ranks[row] == ranks[column]
            edge = {"edgecolor": INK, "linewidth": 1.8} if wins else {"edgecolor": RULE}
            corner = (column - 0.47, row - 0.47)
            ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor="white", **edge))
            text = "a pair" if wins else "tie" if tie else ""
            ax.text(column, row, text, ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    ax.set_xticks(range(size), labels)
    ax.set_yticks(range(size), labels)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def margin_curve(margins: Mapping[str, float]) -> Picture:
    """The loss of one comparison as a function of its margin, with some pairs marked.

    Args:   margins: name of the pair -> score of the better minus score of the worse, RM units.
    Raises: ValueError for more than four pairs.
    """
    _at_most(margins)
    figure, (ax,) = _axes(
        "A clear comparison costs little, a wrong one a lot",
        "margin: score of the better minus score of the worse (RM units)",
        "loss (nats)",
    )
    x = torch.linspace(-4, 6, 200)
    ax.plot(x, softplus(-x), color=INK, linewidth=1.6)
    _reference(ax, 0.6931, "ln 2: equal scores")
    for i, (name, margin) in enumerate(margins.items()):
        loss = softplus(torch.tensor(-float(margin))).item()
        look = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 8, "linestyle": ""}
        ax.plot([margin], [loss], label=f"{name}: {loss:.3f}", **look)
    _legend(ax)
    return figure


def estimator_spread(samples: Mapping[str, torch.Tensor], exact: float, title: str) -> Picture:
    """Mean and standard deviation of up to four estimators, against the true value.

    Args:   samples: name -> one estimate per sample, nats; exact: the true KL, nats.
    Raises: ValueError for more than four estimators.
    """
    _at_most(samples)
    figure, (ax,) = _axes(title, "estimate from one sample: mean and one std each side (nats)", "")
    ax.axvline(exact, color=MUTED, linewidth=1, label=f"exact: {exact:.4g}")
    for row, values in enumerate(samples.values()):
        mean, std = values.mean().item(), values.std().item()
        ax.errorbar(
            mean, row, xerr=std, fmt=MARKERS[row], color=COLOURS[row], capsize=5, markersize=7
        )
        text = f"{mean:.4f} ± {std:.4f}"
        ax.annotate(text, (mean, row), (0, 9), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yticks(range(len(samples)), list(samples))
    ax.set_ylim(len(samples) - 0.4, -0.7)
    _legend(ax, loc="lower right")
    return figure


def clip_curves(clip_range: float = 0.2) -> Picture:
    """PPO's clipped objective of one token, for a good and for a bad action.

    Args: clip_range: the epsilon of the paper.
    """
    figure, axes = _axes(
        "What one token adds to the objective",
        "ratio: new probability / old probability",
        "objective (unit of the advantage)",
        columns=2,
        width=7.6,
    )
    ratio = torch.linspace(0, 2, 201)
    for ax, advantage in zip(axes, (1.0, -1.0), strict=True):
        plain = ratio * advantage
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range) * advantage
        ax.axvspan(1 - clip_range, 1 + clip_range, color="0.94")
        _reference(ax, 0.0, None)
        ax.plot(ratio, plain, ":", color=COLOURS[1], linewidth=2.2, label="not clipped")
        ax.plot(ratio, torch.minimum(plain, clipped), color=COLOURS[0], label="PPO")
        ax.plot([1], [advantage], "o", color=INK, markersize=5, label="first minibatch")
        ax.set_title(f"advantage {advantage:+g}", fontsize=9)
        _legend(ax)
    return figure
