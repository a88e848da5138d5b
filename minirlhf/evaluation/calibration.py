"""Does a reward model's 80 % mean 80 %? Reliability of its pair probabilities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minirlhf.evaluation.statistics import Interval, wilson_interval


class Bin(NamedTuple):
    """Pairs of similar confidence: edges, mean confidence, how often the labeler agreed."""

    low: float
    high: float
    confidence: float
    agreement: Interval
    pairs: int


def reliability_bins(
    chosen_scores: Sequence[float],
    rejected_scores: Sequence[float],
    bins: int = 10,
    level: float = 0.95,
) -> list[Bin]:
    """Pairs sorted by how sure the reward model is, and how often it was right.

        confidence = sigmoid(|r_chosen - r_rejected|), from 0.5 to 1

    The model is right where the labeler's choice has the higher score; equal scores count half.
    Both orders of a pair would say the same twice, so only the model's favourite is looked at.
    Wilson's intervals take pairs as independent; those of one ranking are not, so with K = 9
    they are too narrow.

    Source: Guo et al. 2017 (arXiv:1706.04599) for the diagram; Bai et al. 2022
            (arXiv:2204.05862), for reward models.
    Args:    chosen_scores, rejected_scores (M,), RM units (log odds); bins >= 1 of equal width;
             level in (0, 1).
    Returns: the bins that hold a pair, from unsure to sure.
    Raises:  ValueError where lengths differ, scores are empty or not finite, or bins < 1.
    >>> [(b.pairs, b.agreement.estimate) for b in reliability_bins([2, 0, 3], [0, 0.1, 0], bins=2)]
    [(1, 0.0), (2, 1.0)]
    """
    confidence, right = _judged(chosen_scores, rejected_scores)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    edges = np.linspace(0.5, 1, bins + 1)
    # A bin holds its lower edge; the last one holds 1 as well.
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    found = []
    for i in np.unique(place):
        inside = place == i
        agreement = wilson_interval(float(right[inside].sum()), int(inside.sum()), level)
        found.append(Bin(float(edges[i]), float(edges[i + 1]), float(confidence[inside].mean()),
                         agreement, int(inside.sum())))  # fmt: skip
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: mean gap between confidence and agreement, weighed by pairs.

    Never below 0, so a perfectly calibrated model shows some too: `calibration_floor`.

    Args:    bins as from reliability_bins.
    Returns: a share from 0 to 1; 0.05 = off by five points on the average pair.
    Raises:  ValueError without bins.
    >>> round(calibration_error(reliability_bins([0.0, 0.0], [9.0, 9.0])), 3)  # sure and wrong
    1.0
    """
    total = sum(one.pairs for one in bins)
    if not total:
        raise ValueError("there are no pairs to take a calibration error of")
    gaps = (one.pairs * abs(one.confidence - one.agreement.estimate) for one in bins)
    return sum(gaps) / total


def calibration_floor(
    chosen_scores: Sequence[float],
    rejected_scores: Sequence[float],
    bins: int = 10,
    draws: int = 200,
    seed: int = 0,
) -> float:
    """The calibration error that a model of these confidences would show by chance alone.

    Draws who wins from the model's own probabilities, as if they were true.

    Args:    as in reliability_bins; draws; seed.
    Returns: mean calibration error of the draws, a share.
    Raises:  ValueError as in reliability_bins.
    >>> calibration_floor([9.0] * 4, [0.0] * 4) < 0.01
    True
    """
    confidence, _ = _judged(chosen_scores, rejected_scores)
    generator = np.random.default_rng(seed)
    margins = np.abs(np.subtract(chosen_scores, rejected_scores))
    errors = []
    for _ in range(draws):
        won = np.where(generator.random(len(confidence)) < confidence, margins, -margins)
        errors.append(calibration_error(reliability_bins(won, np.zeros(len(won)), bins)))
    return float(np.mean(errors))


def _judged(chosen: Sequence[float], rejected: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Confidence (M,) in [0.5, 1] and whether it was right (M,): 1, 0, or 0.5 for equal scores."""
    better, worse = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    if better.ndim != 1 or better.shape != worse.shape or not better.size:
        raise ValueError("chosen and rejected scores must be flat lists of one length, not empty")
    if not np.isfinite(better).all() or not np.isfinite(worse).all():
        raise ValueError("chosen and rejected scores must be finite")
    margin = better - worse
    return 1 / (1 + np.exp(-np.abs(margin))), (np.sign(margin) + 1) / 2
