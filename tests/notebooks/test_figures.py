"""Figures: they draw, name their units, and refuse what nobody could read."""

import sys

import pytest
import torch
from matplotlib.figure import Figure

from minirlhf.course import figures

WAVE = torch.sin(torch.arange(10.0))
EXAMPLES = {
    "lines": lambda: figures.lines(range(10), {"a": WAVE, "b": -WAVE}, "t", "step", "unit"),
    "bars": lambda: figures.bars(["x", "y"], {"a": [1, -2], "b": [0.5, 3]}, "t", "unit"),
    "pair_grid": lambda: figures.pair_grid((3, 3, 2, 1), "ABCD"),
    "margin_curve": lambda: figures.margin_curve({"D > C": 1.2, "D > A": 4.0}),
    "estimator_spread": lambda: figures.estimator_spread({"k1": WAVE}, 0.1, "t"),
    "clip_curves": lambda: figures.clip_curves(0.2),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_figure_draws_without_pyplot(name, tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    figure = EXAMPLES[name]()
    figure.savefig(tmp_path / "figure.png")
    assert isinstance(figure, Figure)
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_series_differ_in_more_than_colour():
    four = {name: WAVE for name in "abcd"}
    ax = figures.lines(range(10), four, "t", "step", "unit").axes[0]
    curves = [line for line in ax.lines if line.get_label() in four]
    assert len({(line.get_linestyle(), line.get_marker()) for line in curves}) == 4
    bars = figures.bars(["x"], {name: [1.0] for name in "abcd"}, "t", "unit").axes[0].patches
    assert len({bar.get_hatch() for bar in bars}) == 4


def test_the_pair_grid_marks_each_pair_once():
    texts = [text.get_text() for text in figures.pair_grid((3, 3, 2, 1), "ABCD").axes[0].texts]
    assert texts.count("a pair") == 5
    assert texts.count("tie") == 2


@pytest.mark.parametrize(
    "draw",
    [
        lambda five: figures.lines(range(10), five, "t", "x", "y"),
        lambda five: figures.bars(range(10), five, "t", "y"),
        lambda five: figures.margin_curve({name: 1.0 for name in five}),
        lambda five: figures.estimator_spread(five, 0.0, "t"),
    ],
)
def test_five_series_are_refused(draw):
    with pytest.raises(ValueError, match="at most 4"):
        draw({name: WAVE for name in "abcde"})
