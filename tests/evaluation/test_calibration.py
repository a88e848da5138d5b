"""Calibration against scikit-learn, exact binomials and numbers worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve

from minirlhf.evaluation.calibration import (
    calibration_error,
    calibration_floor,
    reliability_bins,
)
from minirlhf.evaluation.statistics import wilson_interval


def logit(p):
    return math.log(p / (1 - p))


def made_up_pairs(count, stretch, seed=0):
    """Scores whose gaps are `stretch` times the true log odds."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.5, size=count)
    won = rng.random(count) < 1 / (1 + np.exp(-odds))
    gaps = stretch * np.where(won, odds, -odds)
    base = rng.normal(size=count)
    return base + gaps, base


def test_bins_agree_with_scikit_learn():
    chosen, rejected = made_up_pairs(500, stretch=2)
    sure = 1 / (1 + np.exp(-np.abs(chosen - rejected)))
    # Its bins run from 0 to 1, so 20 of them hold our 10 in their upper half.
    share, mean = calibration_curve(chosen > rejected, sure, n_bins=20)
    ours = reliability_bins(chosen, rejected)
    assert [one.confidence for one in ours] == pytest.approx(mean, abs=1e-12)
    assert [one.agreement.estimate for one in ours] == pytest.approx(share, abs=1e-12)
    assert sum(one.pairs for one in ours) == 500


def test_bins_by_hand():
    # Confidences 0.6 (right), 0.7 (wrong), 0.9 (right), 0.9 (right); two bins split at 0.75.
    gaps = [logit(0.6), -logit(0.7), logit(0.9), logit(0.9)]
    low, high = reliability_bins(gaps, [0.0] * 4, bins=2)
    assert (low.low, low.high, high.low, high.high) == pytest.approx((0.5, 0.75, 0.75, 1))
    assert (low.confidence, high.confidence) == pytest.approx((0.65, 0.9))
    assert low.agreement == wilson_interval(1, 2) and high.agreement == wilson_interval(2, 2)
    # (2 x |0.65 - 0.5| + 2 x |0.9 - 1|) / 4 = 0.125
    assert calibration_error([low, high]) == pytest.approx(0.125)


def test_edges_ties_and_empty_bins():
    # Equal scores: confidence 0.5, half right. A gap of 50: confidence 1, in the last bin.
    first, last = reliability_bins([1.0, 1.0, 50.0], [1.0, 1.0, 0.0], bins=10)
    assert (first.low, first.pairs, first.agreement.estimate) == (0.5, 2, 0.5)
    assert (last.high, last.pairs, last.agreement.estimate) == (1.0, 1, 1.0)
    edge = reliability_bins([logit(0.75)], [0.0], bins=2)  # log 3: exactly 0.75 in floats
    assert edge[0].low == 0.75


def test_only_gaps_matter():
    chosen, rejected = made_up_pairs(60, stretch=1)
    shifted = reliability_bins(chosen + 8, rejected + 8)
    for one, other in zip(shifted, reliability_bins(chosen, rejected), strict=True):
        assert one.pairs == other.pairs and one.confidence == pytest.approx(other.confidence)


def test_a_calibrated_model_is_at_the_floor_and_a_boastful_one_above():
    honest, boastful = made_up_pairs(4000, 1), made_up_pairs(4000, 3)
    floor = calibration_floor(*honest)
    assert calibration_error(reliability_bins(*honest)) == pytest.approx(floor, abs=0.012)
    assert calibration_error(reliability_bins(*boastful)) > 5 * calibration_floor(*boastful)


def test_the_floor_of_one_bin_is_the_binomials_mean_deviation():
    pairs, sure = 25, 0.8
    right = np.arange(pairs + 1)
    expected = (stats.binom(pairs, sure).pmf(right) * np.abs(right / pairs - sure)).sum()
    ours = calibration_floor([logit(sure)] * pairs, [0.0] * pairs, bins=1, draws=3000)
    assert ours == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: reliability_bins([], []), "not empty"),
        (lambda: reliability_bins([1.0], [1.0, 2.0]), "one length"),
        (lambda: reliability_bins([math.nan], [1.0]), "finite"),
        (lambda: reliability_bins([1.0], [0.0], bins=0), "bins must be at least 1, got 0"),
        (lambda: calibration_error([]), "no pairs"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
