"""Checks of the preference likelihoods: pairs, Bradley-Terry, rankings, best-of-K, ties."""

import math
from itertools import combinations

import torch
from torch import tensor
from torch.nn.functional import logsigmoid

from minirlhf.course.checks.core import Mismatch, exercise, expect_gradient
from minirlhf.maths import preferences

NAN = math.nan
LN2 = math.log(2)


def nll(lead: float) -> float:
    """-log sigmoid(lead) in plain Python: the oracle of every hand-made number below."""
    return math.log1p(math.exp(-lead))


# --- ranking_to_pairs ----------------------------------------------------------------------

ranking_to_pairs = exercise(preferences.ranking_to_pairs)


def _pairs(title, hint, ranks, wanted):
    @ranking_to_pairs.check(title, hint)
    def _(candidate):
        got = candidate(ranks)
        try:
            pairs = sorted(tuple(pair) for pair in got)
        except TypeError:
            raise Mismatch(f"got    {got!r}\nwanted a list of (better, worse) pairs") from None
        if pairs != sorted(wanted):
            raise Mismatch(f"got    {pairs}\nwanted {sorted(wanted)}, in any order")


_pairs(
    "the worse of two comes second",
    "rank 1 is the best: the smaller rank goes first, and each pair comes once",
    [2, 1],
    [(1, 0)],
)
_pairs(
    "D > C > A = B gives 5 pairs and not 6",
    "A and B are tied: a tie prefers neither, so it gives no pair; all others do, not only "
    "neighbours in the ranking",
    [3, 3, 2, 1],
    [(3, 2), (3, 0), (3, 1), (2, 0), (2, 1)],
)
_pairs(
    "an empty slot (0) meets nobody",
    "0 is not a rank better than 1: it marks a response that is not there",
    [1, 0, 2],
    [(0, 2)],
)
_pairs("an all-tie ranking gives no pair", "an empty list is a fine answer", [1, 1, 1], [])
_pairs(
    "K = 9 gives 36 pairs",
    "every response meets every other: 9 * 8 / 2",
    list(range(9, 0, -1)),
    [(better, worse) for worse, better in combinations(range(9), 2)],
)


def _all_pairs(ranks, wins):
    n = range(len(ranks))
    return [(i, j) for i in n for j in n if i != j and wins(ranks[i], ranks[j])]


ranking_to_pairs.mutants = {
    "worse first": lambda ranks: _all_pairs(ranks, lambda a, b: a > b > 0),
    "larger is better": lambda ranks: _all_pairs(ranks, lambda a, b: a > b > 0),
    "ties counted": lambda ranks: [
        (i, j) if ranks[i] <= ranks[j] else (j, i)
        for i, j in combinations(range(len(ranks)), 2)
        if ranks[i] and ranks[j]
    ],
    "ties both ways": lambda ranks: _all_pairs(ranks, lambda a, b: 0 < a <= b),
    "empty slot wins": lambda ranks: _all_pairs(ranks, lambda a, b: a < b),
    "both directions": lambda ranks: _all_pairs(ranks, lambda a, b: a != b and a and b),
    "neighbours only": lambda ranks: _all_pairs(ranks, lambda a, b: a and b == a + 1),
    "best against the rest": lambda ranks: _all_pairs(ranks, lambda a, b: a == 1 and b > 1),
}

# --- bradley_terry_loss --------------------------------------------------------------------

bradley_terry_loss = exercise(preferences.bradley_terry_loss)
bradley_terry_loss.gives(
    "equal scores cost log 2 = 0.693, one loss per pair",
    "at equal scores each side wins with 1/2, and the loss is -log 1/2; no mean is taken here",
    tensor([LN2, LN2]),
    tensor([3.0, 0.0]),
    tensor([3.0, 0.0]),
)
bradley_terry_loss.gives(
    "a lead of log 3 costs -log 3/4, a deficit of log 3 costs -log 1/4",
    "sigmoid(log 3) = 3/4: the chosen score comes first in the difference, and the loss is minus "
    "the log of the probability",
    tensor([-math.log(3 / 4), -math.log(1 / 4)]),
    tensor([math.log(3), 5.0]),
    tensor([0.0, 5.0 + math.log(3)]),
)
bradley_terry_loss.gives(
    "a deficit of 1000 costs 1000 and not inf",
    "sigmoid(-1000) is 0 and its log is -inf: use logsigmoid",
    tensor([1000.0, 0.0]),
    tensor([0.0, 1000.0]),
    tensor([1000.0, 0.0]),
)
bradley_terry_loss.gives(
    "with margin 1 a lead of 1 still costs log 2",
    "the margin is taken off the lead: the chosen one must win by at least that much",
    tensor([LN2]),
    tensor([2.0]),
    tensor([1.0]),
    margin=1.0,
)


@bradley_terry_loss.check(
    "at equal scores the gradient pushes the chosen score up by 1/2",
    "the loss is minimised, so its gradient in the chosen score is negative",
)
def _(candidate):
    expect_gradient(candidate, tensor([-0.5]), tensor([1.0]), tensor([1.0]))


bradley_terry_loss.mutants = {
    "sign flipped": lambda c, r, margin=0.0: logsigmoid(c - r - margin),
    "sides swapped": lambda c, r, margin=0.0: -logsigmoid(r - c - margin),
    "no log": lambda c, r, margin=0.0: -torch.sigmoid(c - r - margin),
    "log of sigmoid": lambda c, r, margin=0.0: -torch.sigmoid(c - r - margin).log(),
    "hinge": lambda c, r, margin=0.0: (1 - (c - r - margin)).clamp(min=0),
    "mean": lambda c, r, margin=0.0: -logsigmoid(c - r - margin).mean(),
    "margin added": lambda c, r, margin=0.0: -logsigmoid(c - r + margin),
    "margin ignored": lambda c, r, margin=0.0: -logsigmoid(c - r),
    "sum of both": lambda c, r, margin=0.0: -logsigmoid(c - margin) - logsigmoid(-r),
    "bits": lambda c, r, margin=0.0: -logsigmoid(c - r - margin) / LN2,
    "gradient cut": lambda c, r, margin=0.0: -logsigmoid(c - r - margin).detach(),
}

# --- ranking_loss --------------------------------------------------------------------------

MOON_SCORES, MOON_RANKS = tensor([[5.4, 5.4, 8.2, 9.4]]), tensor([[3, 3, 2, 1]])
# D - C = 1.2; D - A = D - B = 4.0; C - A = C - B = 2.8
MOON = (nll(1.2) + 2 * nll(4.0) + 2 * nll(2.8)) / 5  # 0.0835
# K = 4 with scores 2, 1, .3, -.7 in order, and K = 2 with .1 ranked over .4
FOUR = [2.0, 1.0, 0.3, -0.7]
FOUR_LOSS = sum(nll(a - b) for a, b in combinations(FOUR, 2)) / 6
TWO_SCORES = tensor([FOUR, [NAN, 0.4, 0.1, NAN]])
TWO_RANKS = tensor([[1, 2, 3, 4], [0, 2, 1, 0]])

ranking_loss = exercise(preferences.ranking_loss)
ranking_loss.gives(
    "the moon: mean over the 5 pairs of D > C > A = B",
    "the tie gives no pair, and the divisor is the number of pairs that there are: 5, not 6",
    tensor(MOON),
    MOON_SCORES,
    MOON_RANKS,
)
ranking_loss.gives(
    "two prompts with 6 pairs and 1 pair weigh the same; empty slots hold nan",
    "first the mean over a prompt's pairs, then the mean over prompts; pooling all 7 pairs gives "
    "0.326. Slots of rank 0 are not there: select them away before subtracting",
    tensor((FOUR_LOSS + nll(-0.3)) / 2),  # 0.546371
    TWO_SCORES,
    TWO_RANKS,
)
ranking_loss.gives(
    "an all-tie prompt changes nothing",
    "a prompt without pairs is no prompt: it counts neither above nor below the fraction line",
    tensor(LN2),
    tensor([[1.0, 1.0], [7.0, 2.0]]),
    tensor([[1, 2], [1, 1]]),
)
ranking_loss.gives(
    "scores 1000 apart the wrong way cost 1000",
    "use logsigmoid (or softplus), not the log of a sigmoid",
    tensor(1000.0),
    tensor([[0.0, 1000.0]]),
    tensor([[1, 2]]),
)
ranking_loss.gives(
    "count=4 divides the sum over prompts by 4",
    "a micro-batch divides by the number of prompts in the whole batch",
    tensor((FOUR_LOSS + nll(-0.3)) / 4),
    TWO_SCORES,
    TWO_RANKS,
    count=4,
)
ranking_loss.gives(
    "ties='half': a tie at a lead of log 3 costs half a win and half a defeat",
    "1/2 (-log 3/4) + 1/2 (-log 1/4)",
    tensor((-math.log(3 / 4) - math.log(1 / 4)) / 2),
    tensor([[math.log(3), 0.0]]),
    tensor([[1, 1]]),
    ties="half",
)
ranking_loss.gives(
    "ties='rao_kupper' with theta 2: at equal scores a tie has probability 1/3, and so has a win",
    "P(win) = 1 / (1 + 2) = 1/3 at equal scores; what is left of 1 is the tie's",
    tensor(math.log(3)),
    tensor([[1.0, 1.0], [1.0, 1.0]]),
    tensor([[1, 1], [1, 2]]),
    ties="rao_kupper",
    theta=2.0,
)


@ranking_loss.check(
    "the gradient is finite and 0 in empty slots",
    "nan in an empty slot comes back through the gradient unless it is replaced before use",
)
def _(candidate):
    # One pair at equal scores: -1/2 for the better, +1/2 for the worse.
    scores, ranks = tensor([[1.0, NAN, 1.0]]), tensor([[2, 0, 1]])
    expect_gradient(candidate, tensor([[0.5, 0.0, -0.5]]), scores, ranks)


def _loop(scores, ranks, count=None, wins=None, pair=None, pooled=False, empty=True, **kw):
    """A slow ranking loss whose every part can be got wrong."""
    wins = wins or (lambda a, b: 0 < a < b)
    pair = pair or (lambda lead: -logsigmoid(lead))
    losses = []
    for row, rank in zip(scores, ranks.tolist(), strict=True):
        n = range(len(rank))
        terms = [pair(row[i] - row[j]) for i in n for j in n if i != j and wins(rank[i], rank[j])]
        losses += terms if pooled else [torch.stack(terms).mean()] if terms else []
        if not terms and not empty:
            losses.append(row[0] * 0)
    return torch.stack(losses).sum() / (count or len(losses)) if losses else torch.zeros(())


def _any_ties(scores, ranks, ties="drop", count=None, theta=1.5):
    return preferences.ranking_loss(scores, ranks, ties, count, theta)


ranking_loss.mutants = {
    "all pairs pooled": lambda s, r, count=None: _loop(s, r, count, pooled=True),
    "sign flipped": lambda s, r, count=None: -_loop(s, r, count),
    "larger rank wins": lambda s, r, count=None: _loop(s, r, count, lambda a, b: a > b > 0),
    "tie counted as a win": lambda s, r, count=None: _loop(s, r, count, lambda a, b: 0 < a <= b),
    "empty slot wins": lambda s, r, count=None: _loop(s.nan_to_num(), r, count, lambda a, b: a < b),
    "neighbours only": lambda s, r, count=None: _loop(s, r, count, lambda a, b: a and b == a + 1),
    "log of sigmoid": lambda s, r, count=None: _loop(
        s, r, count, pair=lambda lead: -torch.sigmoid(lead).log()
    ),
    "no log": lambda s, r, count=None: _loop(s, r, count, pair=lambda lead: -torch.sigmoid(lead)),
    "all-tie prompts counted": lambda s, r, count=None: _loop(s, r, count, empty=False),
    "divided by K (K - 1) / 2": lambda s, r, count=None: (
        _loop(s, r, 1, pooled=True) / (r.shape[1] * (r.shape[1] - 1) / 2) / (count or len(r))
    ),
    "count ignored": lambda s, r, count=None: _loop(s, r),
    "sum over prompts": lambda s, r, count=None: _loop(s, r, 1),
    "ties ignored": lambda s, r, ties="drop", theta=1.5: _loop(s, r),
    "half = full": lambda s, r, ties="drop": (
        _loop(s, r, wins=lambda a, b: 0 < a <= b) * 2 if ties == "half" else _loop(s, r)
    ),
    "theta ignored": lambda s, r, ties="drop", theta=1.5: _any_ties(s, r, ties),
    "gradient cut": lambda s, r: _loop(s.detach(), r),
}

# --- pair_accuracy -------------------------------------------------------------------------

pair_accuracy = exercise(preferences.pair_accuracy)
pair_accuracy.gives(
    "two of three pairs are right",
    "rank 1 is best: 0.9 leads rightly twice, but 0.1 should lead 0.2",
    tensor(2 / 3),
    tensor([[0.1, 0.2, 0.9]]),
    tensor([[2, 3, 1]]),
)
pair_accuracy.gives(
    "the labeler's ties and empty slots are skipped",
    "only pairs with a better and a worse one count; there is one here, and it is right",
    tensor(1.0),
    tensor([[0.1, 0.1, 0.2, NAN], [0.3, 0.4, NAN, NAN]]),
    tensor([[2, 0, 1, 0], [1, 1, 0, 0]]),
)
pair_accuracy.gives(
    "equal scores count half",
    "a reward model that says the same of everything is at chance: 0.5",
    tensor(0.5),
    tensor([[1.0, 1.0, 1.0]]),
    tensor([[1, 2, 3]]),
)
pair_accuracy.gives(
    "6 right pairs and 1 wrong one make 6/7",
    "accuracy pools the pairs of all prompts",
    tensor(6 / 7),
    TWO_SCORES,
    TWO_RANKS,
)


def _accuracy(scores, ranks, wins=None, hit=None, pooled=True):
    return _loop(
        scores,
        ranks,
        wins=wins,
        pair=hit or (lambda lead: (lead.sign() + 1) / 2),
        pooled=pooled,
    )


pair_accuracy.mutants = {
    "upside down": lambda s, r: _accuracy(s, r, lambda a, b: a > b > 0),
    "ties counted": lambda s, r: _accuracy(s, r, lambda a, b: 0 < a <= b),
    "empty slots counted": lambda s, r: _accuracy(s.nan_to_num(), r, lambda a, b: a < b),
    "equal scores right": lambda s, r: _accuracy(s, r, hit=lambda lead: (lead >= 0).float()),
    "equal scores wrong": lambda s, r: _accuracy(s, r, hit=lambda lead: (lead > 0).float()),
    "mean over prompts": lambda s, r: _accuracy(s, r, pooled=False),
    "best only": lambda s, r: _accuracy(s, r, lambda a, b: a == 1 < b),
    "probability": lambda s, r: _accuracy(s, r, hit=torch.sigmoid),
}
