"""Over-optimisation: what best-of-n and PPO gain, and lose again, as they move away from SFT.

Distances are d = sqrt(KL(policy || SFT)), sqrt(nats); scores are counted from the SFT policy's, so
that they are 0 at d = 0.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minirlhf.evaluation.statistics import Interval, cut_tails

FORMS = ("best-of-n", "rl")
DRAWS = 50_000


def best_of_n_kl(n: int) -> float:
    """KL of the best of n samples from the policy they come from, if no two scores are equal.

        KL = log n - (n - 1) / n

    With ties, or few possible responses, the true KL is smaller: `best_of_n_kl_exact`.

    Source: Stiennon et al. 2020 (arXiv:2009.01325).
    Args:    n >= 1 samples.
    Returns: nats per response.
    Raises:  ValueError for n < 1.
    >>> [round(best_of_n_kl(n), 2) for n in (1, 8, 64, 512)]
    [0.0, 1.2, 3.17, 5.24]
    """
    _check_n(n)
    return math.log(n) - (n - 1) / n


def best_of_n_distribution(probs: Sequence[float], scores: Sequence[float], n: int) -> np.ndarray:
    """How often each outcome is the best of n independent draws; equal scores fall by lot.

        P(best has score s) = P(all draws <= s) - P(all draws < s) = F(s)^n - F(s-)^n

    Among outcomes of the same score the shares stay as they were in `probs`.

    Source: Beirami et al. 2024 (arXiv:2401.01879) for outcomes without ties.
    Args:    probs (K,), summing to 1; scores (K,), any unit; n >= 1.
    Returns: (K,), summing to 1.
    Raises:  ValueError where lengths differ, values are not finite, probs are no distribution,
             or n < 1.
    >>> best_of_n_distribution([0.5, 0.5], [0.0, 1.0], 2).tolist()
    [0.25, 0.75]
    """
    _check_n(n)
    chances, values = np.asarray(probs, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if chances.ndim != 1 or chances.shape != values.shape or not np.isfinite(values).all():
        raise ValueError("probs and scores must be flat lists of one length, scores finite")
    if not (chances >= 0).all() or not math.isclose(chances.sum(), 1, abs_tol=1e-6):
        raise ValueError("probs must be 0 or positive and sum to 1")
    chances, best = chances / chances.sum(), np.zeros(len(chances))
    possible = chances > 0
    _, tie = np.unique(values[possible], return_inverse=True)
    mass = np.bincount(tie, weights=chances[possible])
    up_to = np.minimum(1, np.cumsum(mass))
    with np.errstate(divide="ignore"):  # the lowest score: log 0, and its share is F^n
        # F^n - (F - mass)^n, without taking two numbers that are nearly equal apart.
        lead = -np.expm1(n * np.log1p(-np.minimum(1, mass / up_to))) * up_to**n
    best[possible] = chances[possible] / mass[tie] * lead[tie]
    return best


def best_of_n_kl_exact(probs: Sequence[float], scores: Sequence[float], n: int) -> float:
    """KL of the best of n draws from the distribution they come from, ties and all.

    For responses drawn from a model, give each of the N samples 1/N: responses of one score then
    count as tied, as they are for the best of n. Let N be several times n: 64 different scores
    alone hold the KL of the best of 64 down to 3.13 instead of 3.17, 256 to 3.172.

    Args:    as in best_of_n_distribution.
    Returns: nats, between 0 and log n - (n - 1) / n.
    Raises:  ValueError as there.
    >>> round(best_of_n_kl_exact([0.1] * 10, range(10), 64), 2), round(best_of_n_kl(64), 2)
    (2.29, 3.17)
    """
    best = best_of_n_distribution(probs, scores, n)
    before = np.asarray(probs, dtype=np.float64)
    before, chosen = before / before.sum(), best > 0
    return float((best[chosen] * np.log(best[chosen] / before[chosen])).sum())


class BestOfN(NamedTuple):
    """Expected scores of the response that the proxy picks from n, each (prompts, len(ns))."""

    proxy: np.ndarray
    gold: np.ndarray


def best_of_n_scores(
    proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]], ns: Sequence[int]
) -> BestOfN:
    """What the best of n by `proxy` scores on average, from N >= n samples per prompt.

    Averaged over all C(N, n) ways to draw n of the N without replacement, so unbiased and with
    less noise than one draw. With the N sorted by proxy, number k (from 1) wins a draw of n with

        P(k wins) = C(k - 1, n - 1) / C(N, n)

    and equal proxies share their wins.

    Source: Nakano et al. 2021, appendix (arXiv:2112.09332); Gao et al. 2022 (arXiv:2210.10760).
    Args:    proxy, gold (prompts, N), any unit; ns: numbers from 1 to N.
    Returns: BestOfN, a row per prompt, so that intervals over prompts can be taken.
    Raises:  ValueError where shapes differ, values are not finite, or an n is not in 1..N.
    >>> best_of_n_scores([[1.0, 2.0, 3.0]], [[0.0, 9.0, 6.0]], [1, 2, 3]).gold.round(9).tolist()
    [[5.0, 7.0, 6.0]]
    """
    proxies, golds = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if proxies.ndim != 2 or not proxies.size or proxies.shape != golds.shape:
        raise ValueError("proxy and gold must be tables (prompts, samples) of one shape")
    if not np.isfinite(proxies).all() or not np.isfinite(golds).all():
        raise ValueError("proxy and gold must be finite")
    weights = np.stack([_winning_chances(n, proxies.shape[1]) for n in ns])
    found = BestOfN(*(np.empty((len(proxies), len(ns))) for _ in range(2)))
    for row, (own_proxy, own_gold) in enumerate(zip(proxies, golds, strict=True)):
        levels, tie, size = np.unique(own_proxy, return_inverse=True, return_counts=True)
        shared = np.bincount(tie, weights=own_gold) / size
        found.proxy[row] = weights @ np.repeat(levels, size)
        found.gold[row] = weights @ np.repeat(shared, size)
    return found


class Fit(NamedTuple):
    """A fitted form. `peak` is the distance of its maximum, inf where it rises for ever;
    `measured_to` is the largest distance it was fitted on: a peak beyond is a guess."""

    form: str
    alpha: Interval
    beta: Interval
    peak: Interval
    measured_to: float

    def at(self, distances: Sequence[float]) -> np.ndarray:
        """The fitted score at each distance (n,)."""
        return _basis(self.form, distances) @ [self.alpha.estimate, self.beta.estimate]


def fit_form(
    distances: Sequence[float],
    scores: Sequence[float],
    form: str,
    level: float = 0.95,
    seed: int = 0,
) -> Fit:
    """Fit how the score goes with distance, by least squares.

        "best-of-n":  R(d) = d (alpha - beta d),      highest at alpha / (2 beta)
        "rl":         R(d) = d (alpha - beta log d),  highest at exp(alpha / beta - 1)

    Both are linear in alpha and beta. The intervals come from draws of the two together
    (Student's t with n - 2 degrees of freedom) and treat the points' errors as independent. The
    checkpoints of one run are not: fit each seed apart and join the alphas with `seeds_interval`.
    The slope of "rl" is infinite at 0, so do not read it there.

    Source: Gao, Schulman and Hilton 2022, section 1 (arXiv:2210.10760).
    Args:    distances (n,) >= 0, sqrt(nats); scores (n,), counted from the score at distance 0;
             form, one of FORMS; level in (0, 1); seed.
    Returns: Fit.
    Raises:  ValueError where lengths differ, values are not finite, the form is unknown, or
             fewer than three distances above 0 differ.
    >>> fit = fit_form([1, 2, 3, 4], [1.5, 2, 1.5, 0], "best-of-n")  # d (2 - d / 2)
    >>> [round(x.estimate, 9) for x in (fit.alpha, fit.beta, fit.peak)]
    [2.0, 0.5, 2.0]
    """
    points, values = np.asarray(distances, float), np.asarray(scores, float)
    if points.ndim != 1 or points.shape != values.shape:
        raise ValueError("distances and scores must be flat lists of one length")
    if not np.isfinite(values).all() or not np.isfinite(points).all() or (points < 0).any():
        raise ValueError("distances and scores must be finite, distances 0 or above")
    if len(np.unique(points[points > 0])) < 3:
        raise ValueError("a fit needs at least three different distances above 0")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    basis = _basis(form, points)
    found, *_ = np.linalg.lstsq(basis, values)
    free = int((points > 0).sum()) - 2  # the point at 0 is 0 whatever the fit
    noise = math.sqrt(((values - basis @ found) ** 2).sum() / free)
    generator = np.random.default_rng(seed)
    spread = np.linalg.cholesky(np.linalg.inv(basis.T @ basis)) * noise
    length = np.sqrt(free / generator.chisquare(free, size=DRAWS))
    draws = found[:, None] + spread @ generator.standard_normal((2, DRAWS)) * length
    estimates = (*found, _peak(form, *found))
    intervals = [
        Interval(float(estimate), *cut_tails(own, level))
        for estimate, own in zip(estimates, (*draws, _peak(form, *draws)), strict=True)
    ]
    return Fit(form, *intervals, measured_to=float(points.max()))


def _basis(form: str, distances: Sequence[float]) -> np.ndarray:
    """What multiplies alpha and beta: (n, 2)."""
    d = np.asarray(distances, dtype=np.float64)
    if form == "best-of-n":
        return np.stack([d, -d * d], axis=1)
    if form == "rl":
        return np.stack([d, -d * np.log(np.where(d > 0, d, 1))], axis=1)  # d log d -> 0 at 0
    raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")


def _peak(form: str, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Distance of the maximum; inf where the score does not turn down."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if form == "best-of-n":
            turn = np.maximum(0, alpha / (2 * beta))
        else:
            turn = np.exp(alpha / beta - 1)
    return np.where(np.asarray(beta) > 0, turn, np.inf)


def _winning_chances(n: int, count: int) -> np.ndarray:
    """C(k - 1, n - 1) / C(count, n) for k = 1..count, through logarithms: no overflow."""
    if not 1 <= n <= count or n % 1:
        raise ValueError(f"n must be a whole number from 1 to the {count} samples, got {n}")
    log_factorial = np.concatenate([[0], np.cumsum(np.log(np.arange(1, count + 1)))])

    def log_choose(m: np.ndarray | int, k: int) -> np.ndarray:
        return log_factorial[m] - log_factorial[k] - log_factorial[m - k]

    chances = np.zeros(count)
    ranks = np.arange(n, count + 1)
    chances[n - 1 :] = np.exp(log_choose(ranks - 1, n - 1) - log_choose(count, n))
    return chances


def _check_n(n: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
