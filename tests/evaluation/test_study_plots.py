"""The study's figures: labels, units, what is left out, and looks that survive without colour.

All values here are made up.
"""

import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from minirlhf.evaluation import study_plots, study_rows
from minirlhf.evaluation.calibration import reliability_bins
from minirlhf.evaluation.overoptimisation import fit_form
from minirlhf.evaluation.plots import SYSTEMS
from minirlhf.evaluation.statistics import Interval
from minirlhf.evaluation.study_plots import Curve, Quantity

NAN = math.nan
SIZES = (3e5, 1e6, 4e6)


def around(values, half=0.05):
    return [Interval(v, v - half, v + half) for v in values]


@pytest.fixture
def rates():
    starts = dict(zip(SYSTEMS, (0.1, 0.2, 0.4, 0.6, 0.55), strict=True))
    return {name: around([v, v + 0.05, v + 0.1]) for name, v in starts.items()}


@pytest.fixture
def sweep():
    gold = {"PPO": around([0.5, 0.7, 0.6, 0.4]), "PPO-ptx": around([0.4, 0.6, 0.6, 0.4])}
    return [
        Quantity("Gold score", "0 to 1", gold, reference=(0.45, "SFT")),
        Quantity("Loss on held-out text", "nats per token", {"PPO": around([3, 2.6, 2.5, 2.4])}),
    ]


def every_figure(rates, sweep):
    d = np.linspace(0.3, 2.5, 8)
    scores = d * (1 - 0.3 * d)
    curves = {
        "gold": Curve(d, around(scores), fit_form(d, scores, "best-of-n")),
        "proxy": Curve(d, list(2 * scores)),
    }
    bins = reliability_bins(np.random.default_rng(0).normal(0.7, 1.5, size=300), np.zeros(300))
    return {
        "win rates": study_plots.win_rates_by_size(SIZES, rates, "the 4M SFT model"),
        "kl": study_plots.score_against_kl({"RM 300k": curves, "RM 1M": curves}, "gold points"),
        "sweep": study_plots.coefficient_sweep([0, 0.01, 0.1, 1], sweep, "kl_coef", default=0.1),
        "calibration": study_plots.calibration_diagram({"RM 300k": bins, "RM 1M": bins}),
        "epochs": study_plots.sft_epochs([1, 2, 3], {"1M": [2, 1.5, 1.7]}, {"1M": [0, 0.2, 0.5]}),
        "shares": study_rows.shares_by_condition({"True": {"SFT": 0.5}, "Toxic": {"PPO": 0.1}}),
        "forest": study_rows.forest({"no KL": Interval(-0.1, -0.2, -0.02)}, "Ablations", "gold"),
        "ratings": study_rows.rating_dots({"SFT": Interval(0, -5, 5), "PPO": 30.0}, "SFT"),
    }


def lines_with_marker(axes):
    """Series: what has a marker and is no ring."""
    marked = [line for line in axes.get_lines() if line.get_marker() not in ("", "None", None)]
    return [line for line in marked if line.get_markersize() < 10]


def heights_of_bars(axes):
    paths = [path for collection in axes.collections for path in collection.get_paths()]
    return [tuple(sorted(path.vertices[:, 1])) for path in paths]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_every_figure_can_be_drawn_and_says_what_it_shows(rates, sweep):
    for name, figure in every_figure(rates, sweep).items():
        FigureCanvasAgg(figure).draw()
        for axes in (axes for axes in figure.axes if axes.axison):
            assert axes.get_title(loc="left") or name == "calibration"
            unit = axes.get_ylabel() or axes.get_xlabel() or figure.get_supxlabel()
            assert unit, f"{name} has an axis without a unit"


def test_no_two_series_differ_by_colour_alone(rates, sweep):
    for name, figure in every_figure(rates, sweep).items():
        if name in ("shares", "forest", "ratings"):
            continue  # a row each, named at its side
        for axes in figure.axes:
            looks = {(line.get_color(), line.get_marker()) for line in lines_with_marker(axes)}
            assert len({marker for _, marker in looks}) == len(looks), name


def test_names_stand_inside_the_figure_and_apart(rates, sweep):
    for name, figure in every_figure(rates, sweep).items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        whole = figure.bbox
        boxes = [text.get_window_extent(canvas.get_renderer())
                 for axes in figure.axes for text in axes.texts if text.get_text()]  # fmt: skip
        for box in boxes:
            assert box.x1 <= whole.x1 + 1 and box.x0 >= whole.x0 - 1, name
            assert box.y1 <= whole.y1 + 1 and box.y0 >= whole.y0 - 1, name
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :]), name


def test_win_rates_stand_on_their_numbers(rates):
    (axes,) = study_plots.win_rates_by_size(SIZES, rates, "the 4M SFT model").axes
    assert axes.get_title(loc="left") == "Win rate against the 4M SFT model"
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "parameters"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["300k", "1M", "4M"]
    series = lines_with_marker(axes)
    assert [list(line.get_ydata()) for line in series] == [
        [v.estimate for v in rates[name]] for name in SYSTEMS
    ]
    assert (rates["SFT"][0].low, rates["SFT"][0].high) in heights_of_bars(axes)
    assert set(texts(axes)) == {*SYSTEMS, "even"}
    # Moved apart, but by less than a tenth of the way to the next size.
    assert np.allclose(np.log10(series[0].get_xdata()), np.log10(SIZES), atol=0.05)


def test_a_system_looks_the_same_everywhere(rates, sweep):
    few = {"SFT": rates["SFT"], "mine": rates["PPO"]}
    (axes,) = study_plots.win_rates_by_size(SIZES, few, "x").axes
    (full,) = study_plots.win_rates_by_size(SIZES, rates, "x").axes
    assert lines_with_marker(axes)[0].get_marker() == lines_with_marker(full)[2].get_marker()
    assert len({line.get_marker() for line in lines_with_marker(axes)}) == 2


def test_what_was_not_measured_is_left_out():
    rates = {"SFT": [None, Interval(0.5, NAN, NAN), 0.6], "PPO": [Interval(NAN, NAN, NAN)] * 3}
    (axes,) = study_plots.win_rates_by_size(SIZES, rates, "x").axes
    (line,) = lines_with_marker(axes)
    assert list(line.get_ydata()) == [0.5, 0.6]
    assert heights_of_bars(axes) == [] and set(texts(axes)) == {"SFT", "even"}
    with pytest.raises(ValueError, match="nothing to draw"):
        study_plots.win_rates_by_size(SIZES, {"PPO": [None, NAN, None]}, "x")


def test_intervals_out_of_a_json_file_are_read_too():
    (axes,) = study_plots.win_rates_by_size([1e6], {"SFT": [[0.5, 0.4, 0.6]]}, "x").axes
    assert heights_of_bars(axes) == [(0.4, 0.6)]


def test_fits_end_where_they_were_measured_and_ring_their_maximum():
    d = np.linspace(0.5, 3, 7)
    scores = d * (1 - 0.25 * d)  # highest at 2, there 1
    rising = d * (1 + 0.1 * d)
    panels = {"RM 1M": {
        "gold": Curve(d, list(scores), fit_form(d, scores, "best-of-n")),
        "proxy": Curve(d, list(rising), fit_form(d, rising, "best-of-n")),
    }}  # fmt: skip
    (axes,) = study_plots.score_against_kl(panels, "gold score").axes
    curves = [line for line in axes.get_lines() if len(line.get_xdata()) == 200]
    assert all(line.get_xdata()[-1] == 3 for line in curves) and len(curves) == 2
    rings = [line for line in axes.get_lines() if line.get_markersize() > 10]
    assert [(*r.get_xdata(), *r.get_ydata()) for r in rings] == [pytest.approx((2, 1))]
    assert "√KL" in axes.get_xlabel() and "nats" in axes.get_xlabel()
    assert axes.get_ylabel() == "gold score" and set(texts(axes)) == {"gold", "proxy", "SFT"}


def test_a_coefficient_of_zero_stands_apart_on_the_log_axis(sweep):
    figure = study_plots.coefficient_sweep([0, 0.01, 0.1, 1], sweep, "kl_coef", default=0.1)
    gold, loss = figure.axes
    labels = [label.get_text() for label in gold.get_xticklabels()]
    assert labels == ["0", "0.01", "0.1", "1"]
    assert list(gold.get_xticks()) == pytest.approx([0.001, 0.01, 0.1, 1])
    zero, rest = lines_with_marker(loss)
    assert list(zero.get_ydata()) == [3] and list(rest.get_ydata()) == [2.6, 2.5, 2.4]
    assert "//" in texts(gold) and " default" in texts(gold) and "SFT" in texts(gold)
    assert loss.get_ylabel() == "nats per token"
    plain = study_plots.coefficient_sweep([1, 2], [Quantity("t", "u", {"a": [1, 2]})], "x")
    assert "//" not in texts(plain.axes[0])


def test_the_best_epochs_are_ringed():
    losses, scores = {"1M": [2.0, 1.5, 1.7]}, {"1M": [0.0, None, 0.5]}
    loss, score = study_plots.sft_epochs([1, 2, 3], losses, scores).axes
    for axes, best in ((loss, (2, 1.5)), (score, (3, 0.5))):
        (ring,) = [line for line in axes.get_lines() if line.get_markersize() > 10]
        assert (*ring.get_xdata(), *ring.get_ydata()) == best
    assert loss.get_ylabel() == "nats per response token" and score.get_ylabel() == "RM units"
    assert loss.get_xlabel() == "epochs of SFT"


def test_calibration_lies_on_confidence_and_agreement():
    bins = reliability_bins([2.0, 1.0, 0.2, -0.3], [0.0] * 4, bins=2)
    upper, lower = study_plots.calibration_diagram({"RM": bins, "none": []}).axes
    (line,) = lines_with_marker(upper)
    assert list(line.get_xdata()) == [one.confidence for one in bins]
    assert list(line.get_ydata()) == [one.agreement.estimate for one in bins]
    assert heights_of_bars(upper) == [tuple(one.agreement[1:]) for one in bins]
    assert [0.5, 1] in [list(line.get_ydata()) for line in upper.get_lines()]
    assert sum(lines_with_marker(lower)[0].get_ydata()) == pytest.approx(1)


def test_a_long_title_is_broken_so_that_it_does_not_reach_the_next_panel():
    long = "truthful and informative, told to be true"
    (axes,) = study_rows.shares_by_condition({long: {"SFT": 0.5}}).axes
    lines = axes.get_title(loc="left").split("\n")
    assert " ".join(lines) == long and max(map(len, lines)) <= study_rows.TITLE_WIDTH


def test_shares_have_a_panel_per_condition_and_a_row_per_system():
    shares = {
        "respectful": {"PPO": Interval(0.05, 0.02, 0.1), "SFT": Interval(0.2, 0.1, 0.3)},
        "biased": {"SFT": Interval(0.4, 0.3, 0.5), "PPO": None},
        "none": {"SFT": None},
    }
    figure = study_rows.shares_by_condition(shares)
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["respectful", "biased"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["SFT", "PPO"]
    assert texts(first) == ["20%", "5%"] and texts(second) == ["40%"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["", ""]
    assert figure.get_supxlabel() == "share of answers, 95 % interval"
    bar = first.collections[0].get_paths()[0].vertices
    assert bar.tolist() == [[0.1, 0], [0.3, 0]]


def test_a_forest_fills_what_excludes_no_difference():
    differences = {
        "no KL": Interval(-0.1, -0.2, -0.02),
        "DPO": Interval(0.02, -0.04, 0.08),
        "GRPO": Interval(0.5, NAN, NAN),
        "not run": None,
    }
    (axes,) = study_rows.forest(differences, "Ablations", "gold score, PPO 1M").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no KL", "DPO", "GRPO"]
    marks = lines_with_marker(axes)
    assert [mark.get_xdata()[0] for mark in marks] == [-0.1, 0.02, 0.5]
    assert [mark.get_markerfacecolor() == "none" for mark in marks] == [False, True, True]
    assert texts(axes) == ["−0.10 [−0.20, −0.02]", "+0.02 [−0.04, +0.08]", "+0.50"]
    assert axes.get_xlabel() == "gold score, PPO 1M; dashed: default"
    assert [0, 0] in [list(line.get_xdata()) for line in axes.get_lines()]


def test_ratings_go_from_the_strongest_down():
    ratings = {"base": -300.0, "PPO": Interval(80, 60, 100), "SFT": 0.0}
    (axes,) = study_rows.rating_dots(ratings, "SFT").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["PPO", "SFT", "base"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert texts(axes)[0] == "+80 [+60, +100]"
    assert axes.get_xlabel() == "Elo points; dashed: SFT"


def test_bad_input_is_named(rates, sweep):
    many = {str(i): around([1, 2, 3]) for i in range(6)}
    calls = [
        (lambda: study_plots.win_rates_by_size(SIZES, many, "x"), "at most 5 series"),
        (lambda: study_plots.win_rates_by_size([1], rates, "x"), "3 values for 1 places"),
        (lambda: study_plots.score_against_kl({}, "x"), "nothing to draw"),
        (lambda: study_plots.coefficient_sweep([1, 1], sweep, "x"), "each above the last"),
        (lambda: study_plots.coefficient_sweep([-1, 1], sweep, "x"), "from 0 up"),
        (lambda: study_plots.calibration_diagram({"RM": []}), "no bins"),
        (lambda: study_rows.shares_by_condition({"True": {"SFT": None}}), "no shares"),
        (lambda: study_rows.forest({}, "Ablations", "x"), "nothing to draw in 'Ablations'"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=message):
            call()
