"""Checks of the cross-entropies (SFT, ptx), the value loss and the entropy."""

import math
from functools import partial

import torch
from torch import tensor

from minirlhf.course.checks.core import exercise, expect_gradient
from minirlhf.course.checks.masked import _mean
from minirlhf.maths import losses

NAN = math.nan

# --- sft_loss and ptx_loss -----------------------------------------------------------------

LONG_AND_SHORT = (
    tensor([[-1.0, -1.0, -1.0], [-5.0, 0.0, 0.0]]),
    tensor([[True, True, True], [True, False, False]]),
)
sft_loss, ptx_loss = exercise(losses.sft_loss), exercise(losses.ptx_loss)
for cross_entropy in (sft_loss, ptx_loss):
    cross_entropy.gives(
        "tokens of log-probability -1, -2 and -6 cost 3 each",
        "minus the mean over the counted tokens; what is masked (prompt, padding) is not learnt",
        tensor(3.0),
        tensor([[-1.0, -2.0], [-6.0, NAN]]),
        tensor([[True, True], [True, False]]),
    )
    cross_entropy.gives(
        "long and short texts weigh by their tokens: (1 + 1 + 1 + 5) / 4",
        "a mean of row means would give (1 + 5) / 2 = 3",
        tensor(2.0),
        *LONG_AND_SHORT,
    )
    cross_entropy.gives(
        "count=8 divides the sum by 8",
        "a micro-batch divides by the whole minibatch's number of tokens",
        tensor(1.0),
        *LONG_AND_SHORT,
        count=8,
    )

    @cross_entropy.check(
        "the gradient raises each counted log-probability by 1/2",
        "the loss is minimised, so its gradient is negative; padding gets none",
    )
    def _(candidate):
        wanted, mask = tensor([[-0.5, -0.5, 0.0]]), tensor([[True, True, False]])
        expect_gradient(candidate, wanted, tensor([[-1.0, -3.0, NAN]]), mask)

    cross_entropy.mutants = {
        "sign flipped": lambda p, mask, count=None: _mean(p, mask, count),
        "mask ignored": lambda p, mask, count=None: -_mean(p, mask | True, count),
        "mask inverted": lambda p, mask, count=None: -_mean(p, ~mask, count),
        "divides by the padding too": lambda p, mask, **o: -_mean(p, mask, mask.numel()),
        "sum": lambda p, mask, **o: -_mean(p, mask, 1),
        "mean of row means": lambda p, mask: (
            -(torch.where(mask, p, 0.0).sum(-1) / mask.sum(-1)).mean()
        ),
        "product with the mask": lambda p, mask: -(p * mask).sum() / mask.sum(),
        "count ignored": lambda p, mask, count=None: -_mean(p, mask),
        "perplexity": lambda p, mask, count=None: (-_mean(p, mask, count)).exp(),
        "probabilities": lambda p, mask, count=None: -_mean(p.exp(), mask, count),
        "gradient cut": lambda p, mask, count=None: -_mean(p.detach(), mask, count),
    }
ptx_loss.mutants["ptx_coef inside"] = lambda p, mask, count=None: -27.8 * _mean(p, mask, count)

# --- value_loss ----------------------------------------------------------------------------


def _moved_to(value):
    """A value that was 2 at sampling time, with return 3: new, old, return, mask."""
    return tensor([[value]]), tensor([[2.0]]), tensor([[3.0]]), tensor([[True]])


# Errors 1, 0, 2: squares 1, 0, 4; and one of padding
VALUES = tensor([[1.0, 2.0], [3.0, NAN]])
RETURNS, MASK = tensor([[2.0, 2.0], [1.0, NAN]]), tensor([[True, True], [True, False]])
value_loss = exercise(losses.value_loss)
value_loss.gives(
    "from 2 to 2.5 with return 3: clipped at 2.2, (2.2 - 3)^2 / 2 = .32",
    "take the *larger* of the two squared errors, and the half; the clip is around the old value",
    tensor(0.32),
    *_moved_to(2.5),
)
value_loss.gives(
    "from 2 to 1.5 with return 3: not clipped, (1.5 - 3)^2 / 2 = 1.125",
    "a value that moved the wrong way pays the full error",
    tensor(1.125),
    *_moved_to(1.5),
)
value_loss.gives(
    "from 2 to 2.1 with return 3: inside the range, .9^2 / 2 = .405",
    "within clip_range of the old value nothing is clipped",
    tensor(0.405),
    *_moved_to(2.1),
)
value_loss.gives(
    "clip_range=None: (2.5 - 3)^2 / 2 = .125",
    "None means the plain squared error",
    tensor(0.125),
    *_moved_to(2.5),
    clip_range=None,
)
value_loss.gives(
    "mean over the counted tokens: (1 + 0 + 4) / 3 / 2, nan in the padding",
    "padding adds nothing, neither above nor below the fraction line",
    tensor(5 / 6),
    *(VALUES, VALUES, RETURNS, MASK),
)
value_loss.gives(
    "count=10 divides the sum over tokens by 10",
    "a micro-batch divides by the whole minibatch's number of tokens",
    tensor(0.25),
    *(VALUES, VALUES, RETURNS, MASK),
    count=10,
)


@value_loss.check(
    "the gradient is (V - return) / 3, 0 in the padding",
    "the half cancels the 2 of the square; padding gets none",
)
def _(candidate):
    wanted = tensor([[-1 / 3, 0.0], [2 / 3, 0.0]])
    expect_gradient(candidate, wanted, VALUES, VALUES, RETURNS, MASK)


def _around_old(v, old, clip):
    return old + (v - old).clamp(-clip, clip)


def _squared(v, old, g, mask, clip_range=0.2, count=None, **wrong):
    """A clipped value loss whose every part can be got wrong."""
    v, old, g = (torch.where(mask, x, 0.0) for x in (v, old, g))
    errors = wrong.get("error", torch.square)(v - g)
    if clip_range is not None:
        held = wrong.get("clip", _around_old)(v, old, clip_range)
        errors = wrong.get("both", torch.maximum)(errors, (held - g) ** 2)
    return wrong.get("half", 0.5) * _mean(errors, mask, count)


value_loss.mutants = {
    "smaller of the two": partial(_squared, both=torch.minimum),
    "always clipped": partial(_squared, both=lambda plain, held: held),
    "never clipped": partial(_squared, both=lambda plain, held: plain),
    "without the half": partial(_squared, half=1.0),
    "sign flipped": partial(_squared, half=-0.5),
    "clipped around 0": partial(_squared, clip=lambda v, old, clip: v.clamp(-clip, clip)),
    "clipped as a ratio": partial(
        _squared, clip=lambda v, old, clip: old * (v / old).clamp(1 - clip, 1 + clip)
    ),
    "None means 0.2": lambda *x, clip_range=0.2, **o: _squared(*x, clip_range or 0.2, **o),
    "absolute error": partial(_squared, error=torch.abs, both=lambda plain, held: plain),
    "mask ignored": lambda v, old, g, mask, **o: _squared(v, old, g, mask | True, **o),
    "count ignored": lambda *x, count=None, **o: _squared(*x, **o),
    "sum": lambda *x, count=None, **o: _squared(*x, count=1, **o),
    "gradient cut": lambda v, *x, **o: _squared(v.detach(), *x, **o),
}

# --- entropy -------------------------------------------------------------------------------

entropy = exercise(losses.entropy)
entropy.gives(
    "8 equal logits: log 8; one entropy per position",
    "minus the sum of p log p over the vocabulary, the last axis, in nats",
    tensor([[math.log(8), math.log(8)]]),
    torch.full((1, 2, 8), 3.0),
)
entropy.gives(
    "probabilities 1/2, 1/4, 1/4: 1.5 log 2",
    "1/2 log 2 + 1/4 log 4 + 1/4 log 4",
    tensor([1.5 * math.log(2)]),
    tensor([[0.5, 0.25, 0.25]]).log() + 7.0,
)
entropy.gives(
    "a certain token (the others forbidden, -inf): 0 and not nan",
    "0 log 0 counts as 0",
    tensor(0.0),
    tensor([2.0, -math.inf, -math.inf]),
)


def _plogp(logits):
    return (logits.softmax(-1) * logits.log_softmax(-1)).nan_to_num()


entropy.mutants = {
    "negative": lambda logits: _plogp(logits).sum(-1),
    "bits": lambda logits: -_plogp(logits).sum(-1) / math.log(2),
    "mean over the vocabulary": lambda logits: -_plogp(logits).mean(-1),
    "summed over positions": lambda logits: -_plogp(logits).sum(),
    "not weighted": lambda logits: -logits.log_softmax(-1).nan_to_num(neginf=0.0).mean(-1),
    "nan at 0 log 0": lambda logits: -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1),
    "logits taken for probabilities": lambda logits: -(logits * logits.log()).nan_to_num().sum(-1),
    "largest logit": lambda logits: -logits.log_softmax(-1).amax(-1),
}
