"""Checks of the two policy losses and of clip_fraction."""

import math
from functools import partial

import torch
from torch import tensor

from minirlhf.course.checks.core import exercise, expect, expect_gradient
from minirlhf.course.checks.masked import _mean
from minirlhf.maths import losses

NAN = math.nan
MASK = tensor([[True, True], [True, False]])


def _token(probability, advantage):
    """One token that had probability 1/2 when it was sampled: new, old, advantage, mask."""
    numbers = (math.log(probability), math.log(0.5), advantage)
    return (*(tensor([[number]]) for number in numbers), tensor([[True]]))


# Three tokens at ratio 1 with advantages 1, 2, 6, and one of padding: new, old, advantage, mask
LOGPROBS = tensor([[-1.0, -2.0], [-3.0, NAN]])
BATCH = (LOGPROBS, LOGPROBS, tensor([[1.0, 2.0], [6.0, NAN]]), MASK)

# --- policy_loss ---------------------------------------------------------------------------

policy_loss = exercise(losses.policy_loss)
policy_loss.gives(
    "good token, ratio 1.8: the clip holds it at 1.2, loss -2.4",
    "a good token gains nothing beyond 1 + clip_range; the advantage multiplies both terms",
    tensor(-2.4),
    *_token(0.9, 2.0),
)
policy_loss.gives(
    "good token, ratio 0.5: not clipped, loss -1.0",
    "of the two losses take the *larger*: a good token that became rarer must be pulled back",
    tensor(-1.0),
    *_token(0.25, 2.0),
)
policy_loss.gives(
    "bad token, ratio 1.8: not clipped, loss 3.6",
    "of the two losses take the *larger*: a bad token that became likelier must be pushed down",
    tensor(3.6),
    *_token(0.9, -2.0),
)
policy_loss.gives(
    "bad token, ratio 0.5: the clip holds it at 0.8, loss 1.6",
    "a bad token gains nothing below 1 - clip_range",
    tensor(1.6),
    *_token(0.25, -2.0),
)
policy_loss.gives(
    "clip_range .5 holds ratio 1.8 at 1.5",
    "the range is an argument: clip to [1 - clip_range, 1 + clip_range]",
    tensor(-3.0),
    *_token(0.9, 2.0),
    clip_range=0.5,
)
policy_loss.gives(
    "before any update: ratio 1, loss = -mean(advantage) = -3, nan in the padding",
    "ratio = exp(new - old) is 1 when nothing has changed; mask before exp",
    tensor(-3.0),
    *BATCH,
)
policy_loss.gives(
    "count=9 divides the sum over tokens by 9",
    "a micro-batch divides by the whole minibatch's number of tokens",
    tensor(-1.0),
    *BATCH,
    count=9,
)


@policy_loss.check(
    "before any update the gradient is -advantage / 3 for each token, 0 in the padding",
    "if it is 0 everywhere, the old log-probabilities carried a gradient too, or it was cut",
)
def _(candidate):
    expect_gradient(candidate, tensor([[-1 / 3, -2 / 3], [-2.0, 0.0]]), *BATCH)


@policy_loss.check(
    "a clipped token gets no gradient", "outside the range the loss is flat, that is the point"
)
def _(candidate):
    expect_gradient(candidate, tensor([[0.0]]), *_token(0.9, 2.0))


@policy_loss.check(
    "old log-probabilities and advantages get no gradient",
    "they are constants of the rollout: detach them",
)
def _(candidate):
    new, old, advantages = (x.clone().requires_grad_() for x in BATCH[:3])
    loss = candidate(new, old, advantages, MASK)
    gradients = torch.autograd.grad(loss, [old, advantages], allow_unused=True)
    reached = [g is not None and g[MASK].any().item() for g in gradients]
    expect(tensor(reached), tensor([False, False]))


def _clipped(p, old, a, mask, clip_range=0.2, count=None, **wrong):
    """A clipped loss whose every part can be got wrong."""
    old, a = (old, a) if wrong.get("gradient") else (old.detach(), a.detach())
    if not wrong.get("product"):
        p, old, a = (torch.where(mask, x, 0.0) for x in (p, old, a))
    ratio = wrong.get("ratio", lambda p, old: (p - old).exp())(p, old)
    held = ratio.clamp(1 - clip_range, 1 + clip_range)
    both = wrong.get("both", torch.maximum)(-a * ratio, -(1 if wrong.get("bare") else a) * held)
    if wrong.get("product"):
        return (both * mask).sum() / (mask.sum() if count is None else count)
    return _mean(both, mask, count)


policy_loss.mutants = {
    "smaller of the two": partial(_clipped, both=torch.minimum),
    "sign flipped": lambda *x, **o: -_clipped(*x, **o),
    "sign flipped inside": lambda p, old, a, mask, **o: _clipped(p, old, -a, mask, **o),
    "clipped term without the advantage": partial(_clipped, bare=True),
    "always clipped": partial(_clipped, both=lambda plain, held: held),
    "never clipped": partial(_clipped, both=lambda plain, held: plain),
    "ratio without exp": partial(_clipped, ratio=lambda p, old: 1 + p - old),
    "log-ratio as ratio": partial(_clipped, ratio=lambda p, old: p - old),
    "ratio upside down": partial(_clipped, ratio=lambda p, old: (old - p).exp()),
    "ratio of log-probabilities": partial(_clipped, ratio=lambda p, old: p / old),
    "old policy recomputed": partial(_clipped, ratio=lambda p, old: (p - p.detach()).exp()),
    "probability without the old": partial(_clipped, ratio=lambda p, old: p.exp()),
    "clip_range fixed": lambda *x, clip_range=0.2, **o: _clipped(*x, **o),
    "mask ignored": lambda p, old, a, mask, **o: _clipped(p, old, a, mask | True, **o),
    "product with the mask": partial(_clipped, product=True),
    "count ignored": lambda *x, count=None, **o: _clipped(*x, **o),
    "sum": lambda *x, count=None, **o: _clipped(*x, count=1, **o),
    "gradient into the constants": partial(_clipped, gradient=True),
    "gradient cut": lambda p, *x, **o: _clipped(p.detach(), *x, **o),
}

# --- policy_penalty_loss -------------------------------------------------------------------

policy_penalty_loss = exercise(losses.policy_penalty_loss)
policy_penalty_loss.gives(
    "good token, ratio 1.8, no penalty: -2 * 1.8, nothing is clipped",
    "the penalty takes the place of the clip",
    tensor(-3.6),
    *_token(0.9, 2.0),
    0.0,
)
policy_penalty_loss.gives(
    "advantage 0, ratio 1.8, penalty_coef 3: 3 (1.8 - 1 - log 1.8)",
    "KL(old || new) from tokens of the *old* policy: ratio - 1 - log ratio, added to the loss",
    tensor(3 * (0.8 - math.log(1.8))),
    *_token(0.9, 0.0),
    3.0,
)
policy_penalty_loss.gives(
    "before any update: no penalty, loss = -mean(advantage) = -3, nan in the padding",
    "at ratio 1 the penalty is 0; mask before exp",
    tensor(-3.0),
    *BATCH,
    5.0,
)
policy_penalty_loss.gives(
    "count=9 divides the sum over tokens by 9",
    "a micro-batch divides by the whole minibatch's number of tokens",
    tensor(-1.0),
    *BATCH,
    5.0,
    count=9,
)


@policy_penalty_loss.check(
    "the gradient of the penalty pulls ratio 1.8 back: 3 (1.8 - 1)",
    "the gradient of ratio - 1 - log ratio is ratio - 1: the old policy is its minimum",
)
def _(candidate):
    expect_gradient(candidate, tensor([[2.4]]), *_token(0.9, 0.0), 3.0)


def _penalised(p, old, a, mask, coef, count=None, kl=lambda d: d.exp() - 1 - d):
    logratio = torch.where(mask, p - old.detach(), 0.0)
    gain = torch.where(mask, a.detach(), 0.0) * logratio.exp()
    return _mean(coef * kl(logratio) - gain, mask, count)


policy_penalty_loss.mutants = {
    "penalty subtracted": partial(_penalised, kl=lambda d: d + 1 - d.exp()),
    "advantage's sign flipped": lambda p, old, a, *x, **o: _penalised(p, old, -a, *x, **o),
    "reversed KL": partial(_penalised, kl=lambda d: (-d).exp() - 1 + d),
    "log-ratio": partial(_penalised, kl=lambda d: -d),
    "k2": partial(_penalised, kl=lambda d: d**2 / 2),
    "without - 1": partial(_penalised, kl=lambda d: d.exp() - d),
    "no penalty": partial(_penalised, kl=lambda d: 0 * d),
    "clipped instead": lambda p, old, a, mask, coef, **o: _clipped(p, old, a, mask, **o),
    "penalty_coef fixed": lambda p, old, a, mask, coef, **o: _penalised(p, old, a, mask, 1.0, **o),
    "mask ignored": lambda p, old, a, m, c, **o: _penalised(p, old, a, m | True, c, **o),
    "count ignored": lambda *x, count=None: _penalised(*x),
    "gradient cut": lambda p, *x, **o: _penalised(p.detach(), *x, **o),
}

# --- clip_fraction -------------------------------------------------------------------------

clip_fraction = exercise(losses.clip_fraction)
# Ratios 1.8, 1.8 (good), 0.5, 1.8 (bad), 1 and padding: the clip holds the first three.
RATIOS = tensor([[1.8, 1.8, 0.5, 1.8, 1.0, NAN]]).log()
SIGNS = tensor([[1.0, 1.0, -1.0, -1.0, 1.0, NAN]])
SIX = (RATIOS, torch.zeros(1, 6), SIGNS, tensor([[True, True, True, True, True, False]]))
clip_fraction.gives(
    "of 5 tokens the clip holds 3: two good ones above, a bad one below",
    "count where the clipped loss is the larger, not where |ratio - 1| > clip_range: those are 4",
    tensor(0.6),
    *SIX,
    0.2,
)
clip_fraction.gives(
    "at clip_range .6 the clip holds 2 of 5",
    "ratio 0.5 is inside [0.4, 1.6]",
    tensor(0.4),
    *SIX,
    0.6,
)


@clip_fraction.check("advantages of 2 change nothing", "it is a share of tokens, not a loss")
def _(candidate):
    expect(candidate(*SIX[:2], 2 * SIGNS, SIX[3], 0.2), tensor(0.6))


def _held(ratio, a, clip):
    return -a * ratio.clamp(1 - clip, 1 + clip) > -a * ratio


def _share(p, old, a, mask, clip_range=0.2, which=_held):
    return _mean(which(torch.where(mask, p - old, 0.0).exp(), a, clip_range).float(), mask)


clip_fraction.mutants = {
    "outside the range": partial(_share, which=lambda ratio, a, clip: (ratio - 1).abs() > clip),
    "the other way round": lambda p, old, a, *x: _share(p, old, -a, *x),
    "larger or equal": partial(_share, which=lambda ratio, a, clip: ~_held(ratio, -a, clip)),
    "above only": partial(_share, which=lambda ratio, a, clip: (a > 0) & (ratio > 1 + clip)),
    "mask ignored": lambda p, old, a, mask, *x: _share(p, old, a, mask | True, *x),
    "clip_range fixed": lambda p, old, a, mask, clip: _share(p, old, a, mask),
    "number of tokens": lambda *x: _share(*x) * 5,
    "weighted": partial(_share, which=lambda *x: _held(*x) * x[1].nan_to_num().abs()),
}
