"""Checks of the whole-ranking likelihoods and the tie models."""

import math

import torch
from torch import tensor

from minirlhf.course.checks.core import exercise, expect
from minirlhf.course.checks.preferences import (
    FOUR,
    MOON_RANKS,
    MOON_SCORES,
    NAN,
    TWO_RANKS,
    TWO_SCORES,
    _loop,
    nll,
)
from minirlhf.maths import preferences

# --- plackett_luce_loss and best_of_k_loss --------------------------------------------------


def _softmax_nll(scores: list[float], pick: int) -> float:
    return math.log(sum(math.exp(s) for s in scores)) - scores[pick]


PL_FOUR = sum(_softmax_nll(FOUR[k:], 0) for k in range(3))  # 1.312668
plackett_luce_loss = exercise(preferences.plackett_luce_loss)
plackett_luce_loss.gives(
    "four responses: pick the best, then the best of three, then of two",
    "every pick is a softmax over what is left; the last one has no choice and costs nothing",
    tensor(PL_FOUR),
    tensor([[0.3, 2.0, -0.7, 1.0]]),
    tensor([[3, 1, 4, 2]]),
)
plackett_luce_loss.gives(
    "two responses: the same as Bradley-Terry; empty slots hold nan",
    "slots of rank 0 do not stand for election: take them out of every sum",
    tensor(nll(-0.3)),
    tensor([[NAN, 0.4, 0.1, NAN]]),
    tensor([[0, 2, 1, 0]]),
)
plackett_luce_loss.gives(
    "the loss is the mean over prompts",
    "sum over the picks of a prompt, mean over prompts",
    tensor((PL_FOUR + nll(-0.3)) / 2),
    TWO_SCORES,
    TWO_RANKS,
)
plackett_luce_loss.gives(
    "D > C > A = B: the tied two do not meet",
    "D is picked from all four; C from C, A, B; A and B are each other's equals: no pick",
    tensor(_softmax_nll([9.4, 8.2, 5.4, 5.4], 0) + _softmax_nll([8.2, 5.4, 5.4], 0)),
    MOON_SCORES,
    MOON_RANKS,
)
plackett_luce_loss.gives(
    "count=4 divides the sum over prompts by 4",
    "a micro-batch divides by the number of prompts in the whole batch",
    tensor((PL_FOUR + nll(-0.3)) / 4),
    TWO_SCORES,
    TWO_RANKS,
    count=4,
)

best_of_k_loss = exercise(preferences.best_of_k_loss)
best_of_k_loss.gives(
    "softmax over all four, log of the best one's share",
    "the labeler's best, not the score's best, and not whichever comes first",
    tensor(_softmax_nll(FOUR, 1)),
    tensor([[2.0, 1.0, 0.3, -0.7]]),
    tensor([[2, 1, 4, 3]]),
)
best_of_k_loss.gives(
    "empty slots hold nan and do not stand for election",
    "slots of rank 0 must be out of the softmax's sum, and 0 is not the best rank",
    tensor((_softmax_nll(FOUR, 0) + nll(-0.3)) / 2),
    TWO_SCORES,
    TWO_RANKS,
)
best_of_k_loss.gives(
    "count=4 divides the sum over prompts by 4",
    "a micro-batch divides by the number of prompts in the whole batch",
    tensor((_softmax_nll(FOUR, 0) + nll(-0.3)) / 4),
    TWO_SCORES,
    TWO_RANKS,
    count=4,
)


def _picks(scores, ranks, count=None, rounds=None, rivals=None, ranked=True, reduce=sum, sign=1):
    """A slow Plackett-Luce whose every part can be got wrong."""
    rivals = rivals or (lambda mine, other: other > mine)
    losses = []
    for row, rank in zip(scores.nan_to_num(), ranks.tolist(), strict=True):
        slots = [k for k in sorted(range(len(rank)), key=rank.__getitem__) if rank[k] or not ranked]
        terms = []
        for k in slots[:rounds]:
            field = [j for j in slots if j == k or rivals(rank[k], rank[j])]
            if len(field) > 1:
                terms.append((sign * row[field]).logsumexp(0) - sign * row[k])
        losses.append(reduce(terms))
    return torch.stack(losses).sum() / (count or len(losses))


plackett_luce_loss.mutants = {
    "everyone in every round": lambda s, r, count=None: _picks(
        s, r, count, None, lambda a, b: True
    ),
    "worst first": lambda s, r, count=None: _picks(s, r, count, rivals=lambda a, b: b < a, sign=-1),
    "first pick only": lambda s, r, count=None: _picks(s, r, count, rounds=1),
    "empty slots stand": lambda s, r, count=None: _picks(s, r, count, ranked=False),
    "mean over picks": lambda s, r, count=None: _picks(
        s, r, count, reduce=lambda terms: torch.stack(terms).mean()
    ),
    "tied meet": lambda s, r, count=None: _picks(s, r, count, rivals=lambda a, b: b >= a),
    "scores negated": lambda s, r, count=None: _picks(-s, r, count),
    "pairs": lambda s, r, count=None: _loop(s, r, count),
    "sign flipped": lambda s, r, count=None: -_picks(s, r, count),
    "count ignored": lambda s, r, count=None: _picks(s, r),
    "sum over prompts": lambda s, r, count=None: _picks(s, r, 1),
}
best_of_k_loss.mutants = {
    "whole ranking": lambda s, r, count=None: _picks(s, r, count),
    "first response": lambda s, r, count=None: (
        -s.nan_to_num().log_softmax(-1)[:, 0].sum() / (count or len(s))
    ),
    "highest score": lambda s, r, count=None: (
        -s.nan_to_num(nan=-1e9).log_softmax(-1).amax(-1).sum() / (count or len(s))
    ),
    "worst": lambda s, r, count=None: _picks(-s, r, count, 1),
    "empty slots stand": lambda s, r, count=None: _picks(s, r, count, 1, ranked=False),
    "sign flipped": lambda s, r, count=None: -_picks(s, r, count, 1),
    "best against the second": lambda s, r, count=None: _picks(
        s, r, count, 1, lambda a, b: b == a + 1
    ),
    "count ignored": lambda s, r, count=None: _picks(s, r, None, 1),
}

# --- ties: Rao-Kupper and Davidson ---------------------------------------------------------

ONE = tensor([0.0])
rao_kupper_probs = exercise(preferences.rao_kupper_probs)
rao_kupper_probs.gives(
    "equal strength, theta 2: win, tie and loss have 1/3 each",
    "P(win) = pi_i / (pi_i + theta pi_j), and the tie has what is left of 1",
    (tensor([1 / 3]), tensor([1 / 3]), tensor([1 / 3])),
    ONE,
    2.0,
)
rao_kupper_probs.gives(
    "strengths 4 : 1, theta 1.5: 4/5.5, and 1/(1 + 6) for the weaker",
    "return win, tie, loss in this order; pi = exp(score), so delta = log 4",
    (tensor([4 / 5.5]), tensor([1 - 4 / 5.5 - 1 / 7]), tensor([1 / 7])),
    tensor([math.log(4)]),
    1.5,
)
rao_kupper_probs.gives(
    "theta 1 has no ties: Bradley-Terry",
    "at theta = 1 a win needs no lead beyond 0",
    (tensor([3 / 4]), tensor([0.0]), tensor([1 / 4])),
    tensor([math.log(3)]),
    1.0,
)
rao_kupper_probs.gives(
    "a lead of 1000 is a sure win and not nan",
    "exp(1000) overflows: write it with sigmoid of the difference",
    (tensor([1.0]), tensor([0.0]), tensor([0.0])),
    tensor([1000.0]),
    1.5,
)


def _rao_kupper(delta, theta, tie_of=lambda theta: theta**2 - 1):
    win, loss = torch.sigmoid(delta - math.log(theta)), torch.sigmoid(-delta - math.log(theta))
    return win, tie_of(theta) * win * loss, loss


rao_kupper_probs.mutants = {
    "win and loss swapped": lambda d, theta=1.5: _rao_kupper(d, theta)[::-1],
    "tie last": lambda d, theta=1.5: tuple(_rao_kupper(d, theta)[i] for i in (0, 2, 1)),
    "theta helps the winner": lambda d, theta=1.5: _rao_kupper(d, 1 / theta),
    "theta not squared": lambda d, theta=1.5: _rao_kupper(d, theta, lambda t: t - 1),
    "tie without - 1": lambda d, theta=1.5: _rao_kupper(d, theta, lambda t: t**2),
    "theta added to the lead": lambda d, theta=1.5: _rao_kupper(d, math.exp(theta)),
    "no ties": lambda d, theta=1.5: (torch.sigmoid(d), d * 0, torch.sigmoid(-d)),
    "overflows": lambda d, theta=1.5: (
        d.exp() / (d.exp() + theta),
        (theta**2 - 1) * d.exp() / ((d.exp() + theta) * (1 + theta * d.exp())),
        1 / (1 + theta * d.exp()),
    ),
}

davidson_probs = exercise(preferences.davidson_probs)
davidson_probs.gives(
    "equal strength, nu 1: win, tie and loss have 1/3 each",
    "the three weights are pi_i, nu sqrt(pi_i pi_j) and pi_j; divide by their sum",
    (tensor([1 / 3]), tensor([1 / 3]), tensor([1 / 3])),
    ONE,
    1.0,
)
davidson_probs.gives(
    "strengths 4 : 1, nu 1.5: weights 4, 1.5 * 2, 1",
    "the tie weighs nu times the *geometric* mean, sqrt(4 * 1) = 2; the order is win, tie, loss",
    (tensor([4 / 8]), tensor([3 / 8]), tensor([1 / 8])),
    tensor([math.log(4)]),
    1.5,
)
davidson_probs.gives(
    "a lead of 1000 is a sure win and not nan",
    "exp(1000) overflows: a softmax over (delta / 2, log nu, -delta / 2) does not",
    (tensor([1.0]), tensor([0.0]), tensor([0.0])),
    tensor([1000.0]),
    1.5,
)


def _weights(*weights):
    return tuple(weight / sum(weights) for weight in weights)


davidson_probs.mutants = {
    "win and loss swapped": lambda d, nu: preferences.davidson_probs(-d, nu),
    "tie last": lambda d, nu: tuple(preferences.davidson_probs(d, nu)[i] for i in (0, 2, 1)),
    "overflows": lambda d, nu: _weights(d.exp(), nu * (d / 2).exp(), d * 0 + 1),
    "product instead of its root": lambda d, nu: _weights(d.exp(), nu * d.exp(), d * 0 + 1),
    "arithmetic mean": lambda d, nu: _weights(d.exp(), nu * (d.exp() + 1) / 2, d * 0 + 1),
    "delta not halved": lambda d, nu: preferences.davidson_probs(2 * d, nu),
    "not divided by the sum": lambda d, nu: (d.exp(), nu * (d / 2).exp(), d * 0 + 1),
    "nu ignored": lambda d, nu: preferences.davidson_probs(d, 1.0),
}


@davidson_probs.check("nu 0 has no ties", "at nu = 0 Davidson's model is Bradley-Terry's")
def _(candidate):
    wanted = (tensor([3 / 4]), tensor([0.0]), tensor([1 / 4]))
    expect(candidate(tensor([math.log(3)]), 0.0), wanted)
