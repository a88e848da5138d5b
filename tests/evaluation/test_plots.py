"""Figures say what they show: units, reference lines, names, and differences beyond colour."""

import itertools
import json
import math

import pytest
from matplotlib.figure import Figure

from minirlhf.evaluation import plots
from minirlhf.evaluation.statistics import wilson_interval


def read_rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def metrics(full_run):
    return read_rows(full_run / "metrics.jsonl")


@pytest.fixture
def results(full_run):
    return json.loads((full_run / "results.json").read_text(encoding="utf-8"))


def axes_titled(figure, title):
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def reference_height(axes):
    return [line.get_ydata()[0] for line in axes.get_lines() if list(line.get_xdata()) == [0, 1]]


@pytest.mark.parametrize("stage", plots.PANELS)
def test_every_panel_has_unit_reference_names_and_few_series(metrics, stage):
    figure = plots.training_curves(metrics, stage)
    assert isinstance(figure, Figure)
    drawn = [axes for axes in figure.axes if axes.axison]
    assert len(drawn) == len(plots.PANELS[stage])
    for axes, panel in zip(drawn, plots.PANELS[stage], strict=True):
        assert axes.get_ylabel() == panel.unit and axes.get_xlabel() == "update"
        assert len(panel.lines) <= 4 and len(reference_height(axes)) == 1
        curves = [line for line in axes.get_lines() if line.get_marker() not in ("", "None")]
        assert len(curves) == len(panel.lines)
        for look in ("get_marker", "get_linestyle"):
            looks = {str(getattr(line, look)()) for line in curves}
            assert len(looks) == len(curves), "two curves that only colour tells apart"
        names = {text.get_text() for text in axes.texts}
        assert {line.label for line in panel.lines} < names


def test_reference_lines_of_the_reward_model(metrics):
    figure = plots.training_curves(metrics, "reward")
    assert reference_height(axes_titled(figure, "Ranking loss")) == [math.log(2)]
    assert reference_height(axes_titled(figure, "Pair accuracy")) == [0.5]


def test_kl_is_in_nats_per_response_and_length_in_tokens(metrics):
    figure = plots.training_curves(metrics, "ppo")
    assert axes_titled(figure, "KL from SFT").get_ylabel() == "nats per response"
    assert axes_titled(figure, "Response length").get_ylabel() == "tokens"


def test_a_curve_holds_the_logged_numbers():
    metrics = [{"stage": "ppo", "step": s, "scores": v} for s, v in ((1, -0.5), (2, 0.25), (3, 1))]
    metrics += [{"stage": "ppo", "step": 4, "scores": math.nan}, {"stage": "sft", "step": 9}]
    (axes,) = plots.training_curves(metrics, "ppo").axes
    curve = axes.get_lines()[0]
    assert list(curve.get_xdata()) == [1, 2, 3] and list(curve.get_ydata()) == [-0.5, 0.25, 1]
    assert reference_height(axes) == [-0.5]  # where the run started
    assert {text.get_text() for text in axes.texts} == {"PPO", "start"}


def test_a_stage_run_again_shows_its_last_pass():
    passes = [(1, 5.0), (2, 4.0), (3, 3.0), (1, 9.0), (2, 8.0)]
    metrics = [{"stage": "sft", "step": step, "train_loss": v} for step, v in passes]
    curve = plots.training_curves(metrics, "sft").axes[0].get_lines()[0]
    assert list(curve.get_xdata()) == [1, 2] and list(curve.get_ydata()) == [9.0, 8.0]


def test_a_long_run_shows_every_update_and_its_moving_mean():
    values = [float(i % 2) for i in range(100)]
    metrics = [{"stage": "ppo", "step": i, "entropy": v} for i, v in enumerate(values)]
    raw, mean = plots.training_curves(metrics, "ppo").axes[0].get_lines()[:2]
    assert list(raw.get_ydata()) == values
    # A window of 5 over 0, 1, 0, 1, ...: two ones around a 0, three around a 1; at the edge
    # only 0, 1, 0 are there, and nothing is invented.
    assert list(mean.get_ydata()[[50, 51, 0]]) == pytest.approx([2 / 5, 3 / 5, 1 / 3])


@pytest.mark.parametrize("end", [2.0, 0.0], ids=["at the top", "at the bottom"])
def test_names_do_not_touch_nor_leave(end):
    rows = [{"step": 0, "scores": 1.0}, {"step": 1, "scores": end}]
    metrics = [row | {"stage": stage} for stage in ("ppo", "ppo-ptx") for row in rows]
    (axes,) = plots.training_curves(metrics, "ppo").axes
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert len(heights) == 3 and heights[0] >= 0 and heights[-1] <= 1
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 0.1 - 1e-9


def test_bars_show_the_gold_score_and_its_interval(results):
    (axes,) = plots.system_bars(results).axes
    for bar, name in zip(axes.patches, plots.SYSTEMS, strict=True):
        assert bar.get_width() == results["systems"][name]["gold"]
    whiskers = [list(line.get_xdata()) for line in axes.get_lines()[:5]]
    rows = [results["systems"][name] for name in plots.SYSTEMS]
    assert whiskers == [[row["gold_low"], row["gold_high"]] for row in rows]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(plots.SYSTEMS)


def test_verdict_shares_carry_wilson_intervals(results):
    figure = plots.verdict_shares(results)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "On topic", "True", "Complete", "Polite", "Ended"]  # fmt: skip
    share = results["systems"]["base"]["true"]
    (low, high) = figure.axes[1].get_lines()[0].get_xdata()
    assert (low, high) == pytest.approx(wilson_interval(share * 12, 12)[1:], abs=1e-12)


def test_missing_numbers_are_left_out_not_drawn_as_zero(results):
    results["systems"]["PPO"]["gold"] = None
    (axes,) = plots.system_bars(results).axes
    assert len(axes.patches) == 4
    assert "PPO" not in [label.get_text() for label in axes.get_yticklabels()]


def test_systems_keep_the_order_of_the_paper():
    assert plots.in_order({"PPO": 1, "mine": 1, "base": 1}) == ["base", "PPO", "mine"]


def test_nothing_to_draw_is_an_error_in_words():
    with pytest.raises(ValueError, match="no values of stage 'ppo'"):
        plots.training_curves([], "ppo")
    with pytest.raises(ValueError, match="stage must be one of sft, reward, ppo, got 'dpo'"):
        plots.training_curves([], "dpo")
    with pytest.raises(ValueError, match="no values for 'gold score'"):
        plots.system_bars({"systems": {"PPO": {"gold": None}}})
    with pytest.raises(ValueError, match="no verdicts"):
        plots.verdict_shares({"systems": {}})


def test_the_scaling_curve_stands_on_its_rows():
    rows = [
        {"parameters": 3e5, "loss": 0.8, "bare": (0.1, 0.05, 0.2), "prompted": (0.3, 0.2, 0.4)},
        {"parameters": 4e6, "loss": 0.6, "bare": (0.4, 0.3, 0.5), "prompted": (0.8, 0.7, 0.9)},
    ]
    figure = plots.scaling_curve(rows)
    loss, truth = figure.axes
    assert list(loss.get_lines()[0].get_ydata()) == [0.8, 0.6]
    assert loss.get_ylabel() == "nats per token" and loss.get_xscale() == "log"
    assert [label.get_text() for label in loss.get_xticklabels()] == ["0.3 M", "4.0 M"]
    assert {text.get_text() for text in truth.texts} == {"prompted", "bare"}
    ends = [line.get_ydata().tolist() for line in truth.get_lines()]
    assert [0.3, 0.8] in ends and [0.2, 0.7] in [pytest.approx(e) for e in ends]
    assert len({line.get_linestyle() for line in truth.get_lines()[::3]}) > 1
