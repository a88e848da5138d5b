"""Best-of-n and Gao et al.'s forms against enumeration, integration, scipy and hand numbers."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from minirlhf.evaluation.overoptimisation import (
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_exact,
    best_of_n_scores,
    fit_form,
)

PROBS, SCORES, GOLD = (0.4, 0.1, 0.3, 0.2), (1.0, 5.0, 1.0, 2.0), (0.0, -3.0, 1.0, 4.0)


def by_enumeration(probs, scores, n):
    """All sequences of n draws; equal best scores share."""
    best = np.zeros(len(probs))
    for draws in itertools.product(range(len(probs)), repeat=n):
        top = max(scores[i] for i in draws)
        winners = [i for i in draws if scores[i] == top]
        for i in winners:
            best[i] += math.prod(probs[j] for j in draws) / len(winners)
    return best


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_kl_is_the_integral_over_ranks(n):
    # Without ties the rank u of the best of n has density n u^(n-1) on [0, 1].
    density = lambda u: n * u ** (n - 1)  # noqa: E731
    kl, _ = integrate.quad(lambda u: density(u) * math.log(density(u)), 1e-12, 1)
    assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_distribution_of_the_best_agrees_with_enumeration(n):
    expected = by_enumeration(PROBS, SCORES, n)
    ours = best_of_n_distribution(PROBS, SCORES, n)
    assert ours == pytest.approx(expected, abs=1e-12) and ours.sum() == pytest.approx(1)
    kl = stats.entropy(expected, PROBS)
    assert best_of_n_kl_exact(PROBS, SCORES, n) == pytest.approx(kl, abs=1e-12)
    assert kl <= best_of_n_kl(n) + 1e-12


def test_the_distribution_by_hand():
    # Two of score 1 (0.4, 0.3), then 2 (0.2), then 5 (0.1); n = 2.
    # F = 0.7, 0.9, 1: shares 0.49, 0.81 - 0.49 = 0.32, 0.19; the first is shared 4 : 3.
    assert best_of_n_distribution(PROBS, SCORES, 2) == pytest.approx([0.28, 0.19, 0.21, 0.32])


def test_few_outcomes_keep_the_kl_below_the_formula():
    # Ten equal outcomes, 64 draws: the top one is missed with 0.9^64 = 0.001179, both top ones
    # with 0.8^64, as good as never. 0.998821 ln 9.98821 + 0.001179 ln 0.01179 = 2.29346.
    assert best_of_n_kl_exact([0.1] * 10, range(10), 64) == pytest.approx(2.29346, abs=2e-5)
    assert best_of_n_kl(64) == pytest.approx(3.1745, abs=5e-5)
    many = best_of_n_kl_exact([1e-4] * 10_000, range(10_000), 64)
    assert many == pytest.approx(best_of_n_kl(64), abs=1e-3) and many < best_of_n_kl(64)


def test_kl_at_the_edges():
    assert best_of_n_kl_exact(PROBS, [3.0] * 4, 50) == pytest.approx(0, abs=1e-12)
    assert best_of_n_kl_exact(PROBS, SCORES, 100_000) == pytest.approx(math.log(10))  # p = 0.1
    with_impossible = best_of_n_distribution([*PROBS, 0.0], [*SCORES, 99.0], 7)
    assert with_impossible == pytest.approx([*best_of_n_distribution(PROBS, SCORES, 7), 0])
    rare = best_of_n_distribution([1 - 1e-13, 1e-13], [0.0, 1.0], 4)
    assert rare[1] == pytest.approx(4e-13, rel=1e-9)  # no digits lost to cancellation


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_expected_scores_agree_with_all_ways_to_draw(n):
    proxy, gold = [0.3, 2.0, 2.0, -1.0, 0.3, 5.0], [1.0, 7.0, 2.0, 0.5, 3.0, -4.0]
    golds, proxies = [], []
    for drawn in itertools.combinations(range(6), n):
        top = max(proxy[i] for i in drawn)
        proxies.append(top)
        golds.append(np.mean([gold[i] for i in drawn if proxy[i] == top]))
    ours = best_of_n_scores([proxy], [gold], [n])
    assert ours.gold[0, 0] == pytest.approx(np.mean(golds), abs=1e-12)
    assert ours.proxy[0, 0] == pytest.approx(np.mean(proxies), abs=1e-12)


def test_expected_scores_are_unbiased():
    # Over every sample of five responses, weighed by its probability: the truth, exactly.
    samples = list(itertools.product(range(4), repeat=5))
    weights = [math.prod(PROBS[i] for i in sample) for sample in samples]
    ours = best_of_n_scores(np.array(SCORES)[samples], np.array(GOLD)[samples], [1, 2, 3])
    for column, n in enumerate((1, 2, 3)):
        best = best_of_n_distribution(PROBS, SCORES, n)
        assert np.dot(weights, ours.gold[:, column]) == pytest.approx(best @ GOLD, abs=1e-12)
        assert np.dot(weights, ours.proxy[:, column]) == pytest.approx(best @ SCORES, abs=1e-12)


def test_expected_scores_agree_with_monte_carlo():
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(1, 40))
    gold = proxy - 0.4 * proxy**2
    drawn = np.array([rng.permutation(40)[:8] for _ in range(20_000)])
    best = drawn[np.arange(len(drawn)), proxy[0][drawn].argmax(1)]
    ours = best_of_n_scores(proxy, gold, [8])
    assert ours.gold[0, 0] == pytest.approx(gold[0][best].mean(), abs=0.02)


def test_many_samples_do_not_overflow():
    values = np.arange(60_000.0)[None]
    ours = best_of_n_scores(values, np.ones_like(values), [1, 1000, 60_000])
    assert ours.gold == pytest.approx(1, abs=1e-8)
    # The mean of the largest of n from 0..N-1 without replacement is n (N + 1) / (n + 1) - 1.
    assert ours.proxy[0, 1] == pytest.approx(1000 * 60_001 / 1001 - 1, rel=1e-8)


FORMULAS = {
    "best-of-n": lambda d, alpha, beta: d * (alpha - beta * d),
    "rl": lambda d, alpha, beta: d * (alpha - beta * np.log(d)),
}


@pytest.mark.parametrize("form", FORMULAS)
def test_the_fit_agrees_with_scipy(form):
    rng, d = np.random.default_rng(1), np.linspace(0.2, 4, 12)
    scores = FORMULAS[form](d, 1.3, 0.35) + 0.05 * rng.normal(size=12)
    (alpha, beta), covariance = optimize.curve_fit(FORMULAS[form], d, scores, p0=(1, 0.1))
    fit = fit_form(d, scores, form)
    reach = stats.t.ppf(0.975, 10)
    for ours, theirs, variance in zip(
        (fit.alpha, fit.beta), (alpha, beta), np.diag(covariance), strict=True
    ):
        half = reach * math.sqrt(variance)
        assert ours.estimate == pytest.approx(theirs, abs=1e-6)
        assert ours[1:] == pytest.approx((theirs - half, theirs + half), abs=0.02 * half)
    assert fit.at(d) == pytest.approx(FORMULAS[form](d, alpha, beta), abs=1e-6)
    assert fit.measured_to == 4


@pytest.mark.parametrize("form", FORMULAS)
def test_the_peak_is_where_the_fitted_curve_is_highest(form):
    d = np.linspace(0.2, 4, 8)
    fit = fit_form(d, FORMULAS[form](d, 1.3, 0.5), form)
    top = optimize.minimize_scalar(
        lambda x: -FORMULAS[form](x, 1.3, 0.5), bounds=(0.1, 9), method="bounded"
    )
    assert fit.peak.estimate == pytest.approx(top.x, abs=1e-4)
    assert fit.peak[1:] == pytest.approx([fit.peak.estimate] * 2)  # no noise, no doubt


@pytest.mark.parametrize("form", FORMULAS)
def test_a_curve_that_never_turns_has_no_peak(form):
    d = np.linspace(0.2, 4, 8)
    fit = fit_form(d, FORMULAS[form](d, 1.3, -0.2), form)
    assert fit.peak == (math.inf, math.inf, math.inf)
    # Hardly bent and noisy: the maximum may be anywhere beyond.
    noise = 0.3 * np.random.default_rng(3).normal(size=8)
    fit = fit_form(d, FORMULAS[form](d, 1.3, 0.02) + noise, form)
    assert fit.peak.high == math.inf


def test_the_start_counts_for_nothing():
    d, scores = [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.4, 2.2, 1.4, 0.1]
    for form in FORMULAS:
        with_start, without = fit_form(d, scores, form), fit_form(d[1:], scores[1:], form)
        assert with_start.alpha == pytest.approx(without.alpha)
        assert with_start.peak == pytest.approx(without.peak)
        assert with_start.at([0.0]) == [0.0]


def test_the_intervals_hold_the_truth_as_often_as_they_say():
    rng, d, hits = np.random.default_rng(2), np.linspace(0.3, 3, 6), 0
    for world in range(120):
        scores = FORMULAS["rl"](d, 1.0, 0.4) + 0.1 * rng.normal(size=6)
        fit = fit_form(d, scores, "rl", seed=world)
        hits += not fit.alpha.excludes(1.0)
    assert 0.9 < hits / 120 <= 0.99


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: best_of_n_kl(0), "n must be at least 1, got 0"),
        (lambda: best_of_n_distribution([0.5, 0.4], [1, 2], 2), "sum to 1"),
        (lambda: best_of_n_distribution([1.5, -0.5], [1, 2], 2), "0 or positive"),
        (lambda: best_of_n_distribution([1.0], [1, 2], 2), "one length"),
        (lambda: best_of_n_kl_exact([0.5, 0.5], [1, math.nan], 2), "scores finite"),
        (lambda: best_of_n_scores([[1, 2]], [[1, 2]], [3]), "from 1 to the 2 samples, got 3"),
        (lambda: best_of_n_scores([[1, 2]], [[1, 2, 3]], [1]), "one shape"),
        (lambda: best_of_n_scores([[1, math.inf]], [[1, 2]], [1]), "finite"),
        (lambda: fit_form([1, 2, 3], [1, 2, 3], "ppo"), "one of best-of-n, rl, got 'ppo'"),
        (lambda: fit_form([0, 1, 1, 2], [0, 1, 1, 2], "rl"), "three different distances"),
        (lambda: fit_form([1, 2, -3], [1, 2, 3], "rl"), "0 or above"),
        (lambda: fit_form([1, 2, 3], [1, 2], "rl"), "one length"),
        (lambda: fit_form([1, 2, 3], [1, 2, 3], "rl", level=1), "got 1"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
