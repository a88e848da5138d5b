"""Intervals against scipy, exact distributions and numbers worked by hand."""

import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from minirlhf.evaluation.statistics import (
    Interval,
    bounded_interval,
    mean_interval,
    paired_difference,
    seeds_interval,
    wilson_interval,
    win_rate,
)


def test_mean_interval_of_zeros_and_ones_is_the_binomial_quantile():
    # A resample of 12 ones and 8 zeros has Binomial(20, 0.6) ones: its quantiles are known.
    values = [1.0] * 12 + [0.0] * 8
    exact = stats.binom(20, 0.6).ppf([0.025, 0.975]) / 20
    assert mean_interval(values) == pytest.approx((0.6, *exact), abs=1e-12)


def test_mean_interval_agrees_with_scipy():
    values = np.random.default_rng(3).gamma(2.0, size=60)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(1)
    )
    ours = mean_interval(values)
    # Both ends are Monte-Carlo estimates: one part in 50 of the width is three standard errors.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.estimate == pytest.approx(values.mean(), abs=1e-12)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=width / 50)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=width / 50)


def test_mean_interval_shifts_scales_and_repeats():
    values = np.array([0.1, 0.4, 0.4, 0.9, 0.2])
    plain = np.array(mean_interval(values))
    assert np.array(mean_interval(10 * values + 3)) == pytest.approx(10 * plain + 3, abs=1e-12)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values, level=0.5).low > plain[1]


def test_mean_interval_leaves_the_global_generator_alone():
    np.random.seed(5)
    expected = np.random.RandomState(5).rand()
    mean_interval([1.0, 2.0])
    assert np.random.rand() == expected


def test_one_value_has_no_interval():
    estimate, low, high = mean_interval([0.7])
    assert estimate == 0.7 and math.isnan(low) and math.isnan(high)
    assert not mean_interval([0.7]).excludes(0.0)


def test_paired_difference_uses_the_pairing():
    hard_to_easy = np.linspace(0, 1, 40)
    better_by_a_tenth = hard_to_easy + 0.1
    ours = paired_difference(better_by_a_tenth, hard_to_easy)
    # Every pair differs by 0.1, so nothing is left to chance; unpaired means overlap widely.
    assert ours == pytest.approx((0.1, 0.1, 0.1), abs=1e-12)
    assert ours.excludes(0)
    assert paired_difference(hard_to_easy, better_by_a_tenth).high < 0


def test_paired_difference_agrees_with_scipy():
    rng = np.random.default_rng(8)
    easy = rng.normal(size=50)
    a, b = easy + rng.normal(0.2, 0.3, size=50), easy
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis),
        paired=True,
        n_resamples=40_000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    ours = paired_difference(a, b)
    tolerance = (theirs.high - theirs.low) / 50
    assert ours[1:] == pytest.approx((theirs.low, theirs.high), abs=tolerance)


@pytest.mark.parametrize("wins, n", [(0, 5), (5, 5), (8, 10), (73, 100), (1, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_wilson_interval_agrees_with_scipy(wins, n, level):
    theirs = stats.binomtest(wins, n).proportion_ci(level, method="wilson")
    ours = wilson_interval(wins, n, level)
    assert ours == pytest.approx((wins / n, theirs.low, theirs.high), abs=1e-10)


def test_wilson_interval_by_hand():
    # At p = 1/2 the formula shrinks to 1/2 -+ z / (2 sqrt(n + z^2)); with n = 4, z^2 = 3.841459:
    # 1.959964 / (2 * sqrt(7.841459)) = 0.979982 / 2.800261 = 0.349961
    assert wilson_interval(2, 4) == pytest.approx((0.5, 0.150039, 0.849961), abs=1e-6)


def test_win_rate_counts_a_tie_half():
    # Wins, ties, losses: 2, 1, 1, so 2.5 of 4.
    rate = win_rate([3, 3, 1, 0], [1, 2, 1, 2])
    assert rate == wilson_interval(2.5, 4)
    assert win_rate([1, 1], [1, 1]).estimate == 0.5
    swapped = win_rate([1, 2, 1, 2], [3, 3, 1, 0])
    assert (swapped.low, swapped.high) == pytest.approx((1 - rate.high, 1 - rate.low), abs=1e-12)


def test_win_rate_without_ties_agrees_with_scipy():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.3, 1, size=70), rng.normal(size=70)
    theirs = stats.binomtest(int((a > b).sum()), 70).proportion_ci(method="wilson")
    assert win_rate(a, b)[1:] == pytest.approx((theirs.low, theirs.high), abs=1e-10)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_one_number_per_seed_has_students_interval(level):
    losses = [[1.10], [1.25], [1.13], [1.32]]
    centre, error = np.mean(losses), np.std(losses, ddof=1) / 2
    ours = seeds_interval(losses, level)
    theirs = stats.t.interval(level, df=3, loc=centre, scale=error)
    assert ours.estimate == pytest.approx(centre, abs=1e-12)
    assert ours[1:] == pytest.approx(theirs, abs=0.02 * (theirs[1] - theirs[0]))


def test_a_bounded_interval_ends_at_the_bounds():
    wide = [[1.0, 0.9], [0.2, 0.1]]
    free, cut = seeds_interval(wide), bounded_interval(wide)
    assert free.low < 0 and free.high > 1
    assert cut == (free.estimate, 0, 1)
    assert bounded_interval([[7, 6.4], [2.2, 1.6]], 1, 7)[1:] == (1, 7)
    calm = [[0.5, 0.4], [0.5, 0.5]]
    assert bounded_interval(calm, level=0.8) == seeds_interval(calm, 0.8)
    assert math.isnan(bounded_interval([[1, 1]]).low)
    with pytest.raises(ValueError, match="between 1 and 7"):
        bounded_interval([[0.0, 2.0], [3.0, 4.0]], 1, 7)


@pytest.mark.parametrize("value", [0, 1])
def test_none_or_all_of_ten_prompts_is_not_certain(value):
    far = 1.959964**2 / (10 + 1.959964**2)  # Wilson's upper end for none of ten
    ends = (0, far) if value == 0 else (1 - far, 1)
    assert bounded_interval([[value] * 10] * 3) == pytest.approx((value, *ends), abs=1e-6)
    rated = [1 + 6 * end for end in (value, *ends)]
    assert bounded_interval([[1 + 6 * value] * 10] * 3, 1, 7) == pytest.approx(rated, abs=1e-5)


def test_seeds_that_agree_leave_the_luck_of_the_prompts():
    prompts = np.random.default_rng(2).gamma(2.0, size=40)
    ours, plain = seeds_interval([prompts] * 3), mean_interval(prompts)
    assert ours == pytest.approx(plain, abs=(plain.high - plain.low) / 50)
    # With prompts of their own the seeds' means hold all the luck, and they agree.
    assert seeds_interval([prompts] * 3, same_prompts=False) == pytest.approx([prompts.mean()] * 3)


@pytest.mark.parametrize("seeds, noise", [(3, 1), (10, 6)])
def test_two_sources_of_luck_are_added(seeds, noise):
    # 400 prompts: their mean is as good as normal. t and normal are summed by integration.
    rng = np.random.default_rng(6)
    values = rng.normal(size=(1, 400)) + 0.05 * rng.normal(size=(seeds, 1))
    values = values + noise * rng.normal(size=(seeds, 400))
    seed_error = values.mean(1).std(ddof=1) / math.sqrt(seeds)
    # Of the prompts' variance a part is the noise of single cells, which the seeds' has too:
    # a cell's variance within its prompt, over the seeds.
    centred = values - values.mean(1, keepdims=True)
    cells = centred.var(axis=0, ddof=1).mean() / seeds
    prompt_error = math.sqrt((values.mean(0).var() - cells) / 400)
    t = np.linspace(-60, 60, 40_001)
    weight = stats.t.pdf(t, seeds - 1)

    def below(x):
        return integrate.simpson(weight * stats.norm.cdf((x - seed_error * t) / prompt_error), x=t)

    upper = optimize.brentq(lambda x: below(x) - 0.975, 0, 5, xtol=1e-4)
    ours = seeds_interval(values)
    assert ours.high - ours.estimate == pytest.approx(upper, rel=0.04)
    assert ours.estimate - ours.low == pytest.approx(upper, rel=0.04)


def test_three_seeds_cover_the_truth_where_resampling_them_would_not():
    rng, worlds, hit, naive_hit = np.random.default_rng(0), 120, 0, 0
    for _ in range(worlds):  # the truth is 0; seeds matter about twice as much as prompts
        values = rng.normal(size=(1, 30)) + 0.4 * rng.normal(size=(3, 1))
        values = values + rng.normal(size=(3, 30))
        hit += not seeds_interval(values).excludes(0)
        seed_means = values.mean(1)
        naive_hit += seed_means.min() <= 0 <= seed_means.max()  # widest that resampling can get
    assert hit / worlds > 0.9 > naive_hit / worlds + 0.05


def test_one_seed_has_no_interval():
    estimate, low, high = seeds_interval([[0.2, 0.4]])
    assert estimate == pytest.approx(0.3) and math.isnan(low) and math.isnan(high)


def test_excludes():
    assert Interval(0.2, 0.1, 0.3).excludes(0) and Interval(-0.2, -0.3, -0.1).excludes(0)
    assert not Interval(0.2, -0.1, 0.3).excludes(0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mean_interval([]), "values must be a non-empty flat list"),
        (lambda: mean_interval([1.0, math.nan]), "finite"),
        (lambda: mean_interval([[1.0], [2.0]]), "flat"),
        (lambda: mean_interval([1.0, 2.0], level=95), "level must lie between 0 and 1, got 95"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "got 1 and 2 values"),
        (lambda: wilson_interval(6, 5), "wins=6, n=5"),
        (lambda: wilson_interval(0, 0), "n=0"),
        (lambda: win_rate([1.0], []), "b must be"),
        (lambda: seeds_interval([1.0, 2.0]), r"a table \(seeds, prompts\)"),
        (lambda: seeds_interval([[1.0], [math.inf]]), "finite"),
        (lambda: seeds_interval([[1.0], [2.0]], level=0), "level must lie between 0 and 1, got 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
