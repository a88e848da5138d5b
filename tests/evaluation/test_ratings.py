"""Bradley-Terry against scikit-learn, a slow loop, scipy's optimiser and numbers by hand."""

import math

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.linear_model import LogisticRegression

from minirlhf.evaluation.ratings import (
    ELO_PER_NAT,
    bradley_terry,
    elo_ratings,
    wins_from_scores,
)

WINS = np.array([[0, 7, 9, 4.5], [3, 0, 6, 8], [1, 4, 0, 5], [5.5, 2, 5, 0]])


def by_logistic_regression(wins):
    """Unpenalised: one row per ordered pair, +1 for the winner and -1 for the loser."""
    pairs = [(i, j) for i in range(len(wins)) for j in range(len(wins)) if wins[i, j]]
    design = np.array([np.eye(len(wins))[i] - np.eye(len(wins))[j] for i, j in pairs])
    weights = np.array([wins[i, j] for i, j in pairs])
    # Each row once as a win and once turned round, as scikit-learn wants two classes.
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=10_000)
    model.fit(np.vstack([design, -design]), [1] * len(pairs) + [0] * len(pairs), [*weights] * 2)
    return model.coef_[0] - model.coef_[0].mean()


def by_zermelos_iteration(wins, rounds):
    worth = np.ones(len(wins))
    for _ in range(rounds):
        for i in range(len(wins)):
            met = sum((wins[i, j] + wins[j, i]) / (worth[i] + worth[j])
                      for j in range(len(wins)) if j != i)  # fmt: skip
            worth[i] = wins[i].sum() / met
    return np.log(worth) - np.log(worth).mean()


def by_scipys_optimiser(wins):
    def loss(strengths):
        return (wins * np.logaddexp(0, strengths[None, :] - strengths[:, None])).sum()

    found = optimize.minimize(loss, np.zeros(len(wins)), tol=1e-12).x
    return found - found.mean()


@pytest.mark.parametrize("oracle", [by_logistic_regression, by_scipys_optimiser])
def test_strengths_agree_with_a_library(oracle):
    assert bradley_terry(WINS) == pytest.approx(oracle(WINS), abs=2e-4)


def test_strengths_agree_with_zermelos_iteration():
    assert bradley_terry(WINS) == pytest.approx(by_zermelos_iteration(WINS, 300), abs=1e-8)


# On the second, full Newton steps run away.
WILD = np.array([[0, 100, 1e5, 10], [0, 0, 1, 1e5], [10, 0, 0, 0], [10, 0, 1e5, 0]])


@pytest.mark.parametrize("wins", [WINS, WILD])
def test_expected_wins_are_the_wins(wins):
    strengths = bradley_terry(wins)
    chance = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    assert ((wins + wins.T) * chance).sum(1) == pytest.approx(wins.sum(1), rel=1e-8)


def test_by_hand():
    # Odds of 2 between neighbours and of 4 between the ends agree, so the fit is exact.
    wins = [[0, 2, 4], [1, 0, 2], [1, 1, 0]]
    assert bradley_terry(wins) == pytest.approx([math.log(2), 0, -math.log(2)], abs=1e-9)


def test_systems_that_never_met_are_compared_through_others():
    wins = [[0, 3, 0], [1, 0, 5], [0, 1, 0]]
    top, middle, bottom = bradley_terry(wins)
    assert top - middle == pytest.approx(math.log(3), abs=1e-9)
    assert top - bottom == pytest.approx(math.log(15), abs=1e-9)


def test_order_and_amount_do_not_matter():
    order = [2, 0, 3, 1]
    assert bradley_terry(WINS[order][:, order]) == pytest.approx(bradley_terry(WINS)[order])
    assert bradley_terry(WINS * 1e-3) == pytest.approx(bradley_terry(WINS))
    assert bradley_terry([WINS / 4] * 4) == pytest.approx(bradley_terry(WINS))


def test_lopsided_wins_still_settle():
    # 1e6 to 1 between each of six neighbours, and nobody else met.
    wins = np.zeros((6, 6))
    for i in range(5):
        wins[i, i + 1], wins[i + 1, i] = 1e6, 1
    assert np.diff(bradley_terry(wins)) == pytest.approx([-math.log(1e6)] * 5, rel=1e-6)


@pytest.mark.parametrize(
    "wins, inside, outside",
    [
        ([[0, 2, 2], [1, 0, 3], [0, 0, 0]], [2], [0, 1]),  # 2 never wins
        ([[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], [0, 1], [2, 3]),  # two worlds
        ([[0, 2, 1, 0], [1, 0, 0, 2], [0, 0, 0, 1], [0, 0, 1, 0]], [2, 3], [0, 1]),  # one way
    ],
)
def test_wins_that_settle_nothing_are_refused_and_a_prior_helps(wins, inside, outside):
    with pytest.raises(ValueError) as error:
        bradley_terry(wins)
    assert f"systems {inside} (counted from 0) never won against {outside}" in str(error.value)
    more = np.asarray(wins) + 0.5 * (1 - np.eye(len(wins)))
    assert bradley_terry(wins, prior=0.5) == pytest.approx(by_scipys_optimiser(more), abs=2e-4)


def test_wins_from_scores():
    scores = [[0.5, 0.5, 0.2], [0.1, 0.9, math.nan]]
    expected = [[[0, 0.5, 1], [0.5, 0, 1], [0, 0, 0]], [[0, 0, 0], [1, 0, 0], [0, 0, 0]]]
    assert wins_from_scores(scores).tolist() == expected


def of_two(won):
    wins = np.zeros((len(won), 2, 2))
    wins[:, 0, 1], wins[:, 1, 0] = won, 1 - np.array(won)
    return wins


def test_where_seeds_agree_the_interval_of_two_systems_is_scipys_bootstrap_over_prompts():
    won = np.array([1.0] * 60 + [0.5] * 10 + [0.0] * 30)
    theirs = stats.bootstrap(
        (won,),
        lambda x, axis: ELO_PER_NAT * np.log(x.mean(axis) / (1 - x.mean(axis))),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours, anchor = elo_ratings([of_two(won)] * 3, anchor=1)
    # 65 of 100: odds 65/35, and 400 points are odds of 10.
    assert ours.estimate == pytest.approx(400 * math.log10(65 / 35), abs=1e-6)
    assert ours[1:] == pytest.approx(theirs, abs=(theirs.high - theirs.low) / 20)
    assert anchor == (0, 0, 0)


def test_where_prompts_are_alike_the_interval_is_students_t_over_seeds():
    shares = (0.55, 0.65, 0.7)
    theirs = np.array([400 * math.log10(p / (1 - p)) for p in shares])
    low, high = stats.t.interval(0.95, 2, theirs.mean(), stats.sem(theirs))
    ours, _ = elo_ratings([of_two([p] * 50) for p in shares], anchor=1)
    assert ours.estimate == pytest.approx(theirs.mean(), abs=1e-6)
    assert ours[1:] == pytest.approx((low, high), rel=0.05)


def test_a_prompts_wins_stay_together():
    rng = np.random.default_rng(4)
    wins = wins_from_scores(rng.normal([0.4, 0.0, -0.4], size=(60, 3)))
    theirs = stats.bootstrap(
        (np.arange(60),),
        lambda drawn: ELO_PER_NAT * bradley_terry(wins[drawn])[0],
        vectorized=False,
        n_resamples=1500,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = elo_ratings([wins] * 2)
    assert ours[0][1:] == pytest.approx(theirs, abs=(theirs.high - theirs.low) / 12)
    assert sum(one.estimate for one in ours) == pytest.approx(0, abs=1e-6)


def test_ratings_find_the_strengths_that_made_the_wins_where_seeds_differ():
    rng, truth, hits = np.random.default_rng(5), np.array([120.0, 40, 0, -160]), 0
    for _ in range(40):
        own = rng.normal(0, 0.3, size=(3, 1, 4))  # of a seed; in all its prompts
        luck = rng.gumbel(size=(3, 100, 4))  # the larger of two Gumbels: exactly Bradley-Terry
        made = [wins_from_scores(one) for one in truth / ELO_PER_NAT + own + luck]
        ratings = elo_ratings(made)
        hits += sum(one.low <= true <= one.high for one, true in zip(ratings, truth, strict=True))
    assert 0.88 < hits / 160 < 1


def test_one_seed_has_ratings_and_no_intervals():
    (ours, _), wins = elo_ratings([of_two([1, 1, 1, 0, 0])]), of_two([1, 1, 1, 0, 0])
    assert ours.estimate == pytest.approx(ELO_PER_NAT * bradley_terry(wins)[0])
    assert math.isnan(ours.low) and math.isnan(ours.high)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bradley_terry([[0, 1]]), "square table"),
        (lambda: bradley_terry([[0]]), "two systems"),
        (lambda: bradley_terry([[0, -1], [1, 0]]), "not negative"),
        (lambda: bradley_terry([[0, math.nan], [1, 0]]), "finite"),
        (lambda: bradley_terry([[1, 1], [1, 0]]), "against itself"),
        (lambda: bradley_terry([[0, 1], [1, 0]], prior=-1), "prior must be 0 or a positive"),
        (lambda: elo_ratings([[WINS]], anchor=4), "from 0 to 3, got 4"),
        (lambda: elo_ratings([[WINS]], level=2), "level must lie between 0 and 1, got 2"),
        (lambda: wins_from_scores([1, 2]), "scores must be a table"),
        (lambda: elo_ratings([WINS]), "seeds, prompts, systems, systems"),
        (
            lambda: elo_ratings([wins_from_scores([[1, 0]] * 9 + [[0, 1]])]),
            "without a single prompt some systems never win",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
