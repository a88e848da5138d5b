"""Ratings of all systems at once, from who beat whom: Bradley-Terry strengths and Elo points."""

import math
from collections.abc import Sequence

import numpy as np

from minirlhf.evaluation.statistics import Interval, seeds_interval

ELO_PER_NAT = 400 / math.log(10)  # 400 points: odds of 10 to 1
MAX_STEPS = 500


def wins_from_scores(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """Who beats whom on each prompt: the higher score wins, equal scores are half a win each.

    Args:    scores (prompts, systems), higher is better; NaN = did not answer this prompt.
    Returns: (prompts, systems, systems): [p, i, j] is 1, 0.5 or 0, what i won from j.
    Raises:  ValueError where scores are no table.
    >>> wins_from_scores([[3, 1, 3]])[0].tolist()
    [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0], [0.5, 1.0, 0.0]]
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError("scores must be a table (prompts, systems)")
    mine, theirs = table[:, :, None], table[:, None, :]
    wins = (mine > theirs) + 0.5 * (mine == theirs)
    return wins * (1 - np.eye(table.shape[1]))


def bradley_terry(wins: Sequence, prior: float = 0.0) -> np.ndarray:
    """Strengths under which the wins are most likely, from every pair at once.

        P(i beats j) = sigmoid(strength_i - strength_j)

    A win over a strong system counts more than one over a weak one, so systems that never met
    can be compared. Ties as half a win each. Newton's method on the concave log-likelihood.

    Wins settle the strengths only if no group of systems went without a win against the rest:
    such a group would drift to minus infinity. `prior` settles them always: as if every pair had
    met 2 `prior` times more, with `prior` wins each; it pulls all strengths together a little.

    Source: Zermelo 1929; Bradley and Terry 1952; Ford 1957 for the condition.
    Args:    wins (systems, systems): [i, j] is what i won from j, fractions allowed; or
             (prompts, systems, systems), summed here; prior >= 0, in wins.
    Returns: (systems,), nats (log odds), mean 0.
    Raises:  ValueError where wins are no such table, negative, not finite or on the diagonal,
             or do not settle the strengths.
    >>> (bradley_terry([[0, 30], [10, 0]]) / math.log(3)).round(9).tolist()  # odds of 3 to 1
    [0.5, -0.5]
    """
    total = _checked(wins, prior)
    total = total.sum(axis=0) + prior * (1 - np.eye(total.shape[-1]))
    reach = _reach(total[None])[0]
    if not reach.all():
        group = reach[int(np.argmin(reach.sum(axis=1)))]
        inside, outside = np.flatnonzero(group).tolist(), np.flatnonzero(~group).tolist()
        raise ValueError(
            f"the wins do not settle the strengths: systems {inside} (counted from 0) never won "
            f"against {outside}; compare more, leave them out, or give a prior"
        )
    return _most_likely(total[None])[0]


def elo_ratings(
    wins: Sequence, anchor: int | None = None, prior: float = 0.0, level: float = 0.95
) -> list[Interval]:
    """Bradley-Terry strengths in Elo points, with intervals over training seeds and prompts.

    Only differences mean something: 400 points are odds of 10 to 1, 100 points 64 %. Each seed's
    strengths are fitted apart. A strength is no mean over prompts, so each prompt is given the
    jackknife's share in it, fit(all prompts) + (P - 1) (mean fit without one - fit without this
    one), and `seeds_interval` does the rest: what makes a prompt easy for all seeds stays in.

    Source: Quenouille 1956, Biometrika 43, 353-360, and Miller 1974, Biometrika 61, 1-15.
    Args:    wins (seeds, prompts, systems, systems), a table of `wins_from_scores` per seed;
             anchor: the system at 0 points, None = their mean; prior as in `bradley_terry`,
             for each seed; level in (0, 1).
    Returns: one Interval per system, Elo points; the ends are NaN where there is one seed.
    Raises:  ValueError as in `bradley_terry`, where the strengths hang on a single prompt,
             and for an anchor that is no system.
    >>> one = [[[0, 1], [0, 0]], [[0, 0], [1, 0]]] * 2 + [[[0, 1], [0, 0]]]  # 3 of 5
    >>> [round(rating.estimate) for rating in elo_ratings([one, one], anchor=1)]
    [70, 0]
    """
    if np.ndim(wins) != 4:
        raise ValueError("wins must be (seeds, prompts, systems, systems)")
    shares = np.array([_shares(_checked(own, prior), prior) for own in wins]) * ELO_PER_NAT
    systems = shares.shape[-1]
    if anchor is not None:
        if not 0 <= anchor < systems:
            raise ValueError(f"anchor must be a system from 0 to {systems - 1}, got {anchor}")
        shares -= shares[..., [anchor]]
    return [seeds_interval(shares[..., i], level) for i in range(systems)]


def _shares(wins: np.ndarray, prior: float) -> np.ndarray:
    """Each prompt's share in the strengths, nats: (prompts, systems), whose mean they are."""
    strengths = bradley_terry(wins, prior)
    if len(wins) == 1:
        return strengths[None]
    left_out = wins.sum(axis=0) - wins + prior * (1 - np.eye(len(strengths)))
    if not _reach(left_out).all():
        raise ValueError(
            "without a single prompt some systems never win, so their intervals have no end; "
            "compare more, or give a prior"
        )
    without = _most_likely(left_out)
    return strengths + (len(wins) - 1) * (without.mean(axis=0) - without)


def _checked(wins: Sequence, prior: float) -> np.ndarray:
    """Wins as (prompts, systems, systems)."""
    table = np.asarray(wins, dtype=np.float64)
    table = table[None] if table.ndim == 2 else table
    if table.ndim != 3 or table.shape[1] != table.shape[2] or table.shape[1] < 2 or not len(table):
        raise ValueError("wins must be a square table of two systems or more, or one per prompt")
    if not np.isfinite(table).all() or (table < 0).any():
        raise ValueError("wins must be finite and not negative")
    if np.diagonal(table, axis1=1, axis2=2).any():
        raise ValueError("a system cannot win against itself: the diagonal of wins must be 0")
    if not (prior >= 0 and math.isfinite(prior)):
        raise ValueError(f"prior must be 0 or a positive number of wins, got {prior}")
    return table


def _reach(wins: np.ndarray) -> np.ndarray:
    """[r, i, j]: is there a chain of wins from i down to j? wins (R, N, N) -> bool (R, N, N)."""
    reach = (wins > 0) | np.eye(wins.shape[-1], dtype=bool)
    for _ in range(wins.shape[-1].bit_length()):  # each squaring doubles the chains' length
        reach = np.matmul(reach, reach)
    return reach


def _most_likely(wins: np.ndarray) -> np.ndarray:
    """Newton's method for each table of wins (R, N, N), which must settle -> (R, N), mean 0."""
    games, won = wins + wins.swapaxes(1, 2), wins.sum(axis=2)
    count = wins.shape[-1]
    strengths = np.zeros(won.shape)
    for _ in range(MAX_STEPS):
        gap = strengths[:, :, None] - strengths[:, None, :]
        chance = 0.5 * (1 + np.tanh(gap / 2))  # the sigmoid, without overflow
        weight = games * chance * (1 - chance)
        curve = np.eye(count) * weight.sum(axis=2)[:, :, None] - weight
        # A constant for all changes nothing: without this the system would be singular.
        curve += weight.sum(axis=(1, 2))[:, None, None] / count**2
        step = np.linalg.solve(curve, (won - (games * chance).sum(axis=2))[:, :, None])[:, :, 0]
        largest = np.abs(step).max(axis=1, keepdims=True)
        strengths += step / np.maximum(1, largest)  # at most a nat: far out Newton overshoots
        if largest.max() < 1e-9:
            return strengths - strengths.mean(axis=1, keepdims=True)
    raise ValueError(f"strengths did not settle in {MAX_STEPS} steps: some wins are far too few")
