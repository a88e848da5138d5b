"""Ratings of all systems at once, from who beat whom: Bradley-Terry strengths and Elo points."""

import math
from collections.abc import Sequence

import numpy as np

from minirlhf.evaluation.statistics import Interval, cut_tails

ELO_PER_NAT = 400 / math.log(10)  # 400 points: odds of 10 to 1
RESAMPLES = 2_000
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
    wins: Sequence,
    anchor: int | None = None,
    prior: float = 0.0,
    level: float = 0.95,
    seed: int = 0,
) -> list[Interval]:
    """Bradley-Terry strengths in Elo points with bootstrap intervals over prompts.

    Only differences mean something: 400 points are odds of 10 to 1, 100 points 64 %. All wins of
    a prompt are drawn together, so what makes a prompt easy for all stays in. The luck of
    training (seeds) is not in these intervals.

    Args:    wins (prompts, systems, systems), as from `wins_from_scores`; anchor: the system at
             0 points, None = their mean; prior as in `bradley_terry`; level in (0, 1); seed.
    Returns: one Interval per system, Elo points.
    Raises:  ValueError as in `bradley_terry`, where a resample does not settle the strengths,
             and for an anchor that is no system.
    >>> even, other = elo_ratings([[[0, 1], [0, 0]], [[0, 0], [1, 0]]] * 50)
    >>> even.estimate, even.low < -20, even.high > 20
    (0.0, True, True)
    """
    per_prompt = _checked(wins, prior)
    prompts, systems = per_prompt.shape[:2]
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if anchor is not None and not 0 <= anchor < systems:
        raise ValueError(f"anchor must be a system from 0 to {systems - 1}, got {anchor}")
    estimate = bradley_terry(per_prompt, prior)
    drawn = np.random.default_rng(seed).multinomial(prompts, [1 / prompts] * prompts, RESAMPLES)
    resampled = (drawn @ per_prompt.reshape(prompts, -1)).reshape(-1, systems, systems)
    resampled = resampled + prior * (1 - np.eye(systems))
    unsettled = int((~_reach(resampled).all(axis=(1, 2))).sum())
    if unsettled:
        raise ValueError(
            f"in {unsettled:,} of {RESAMPLES:,} resamples of the prompts some systems never win: "
            "their intervals have no end; compare more, or give a prior"
        )
    strengths = np.vstack([estimate, _most_likely(resampled)]) * ELO_PER_NAT
    if anchor is not None:
        strengths -= strengths[:, [anchor]]
    return [Interval(float(own[0]), *cut_tails(own[1:], level)) for own in strengths.T]


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
