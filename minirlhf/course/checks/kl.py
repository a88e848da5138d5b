"""Checks of the KL estimators, the exact KL and the two controllers."""

import math

import torch
from torch import tensor

from minirlhf.course.checks.core import Mismatch, exercise, expect
from minirlhf.maths import kl

# Three actions, as probabilities: KL(P || Q) = .5 ln 2.5 + .3 ln 1 + .2 ln .4 = 0.274887
P, Q = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]
KL = sum(p * math.log(p / q) for p, q in zip(P, Q, strict=True))
HALF, QUARTER = tensor([[math.log(1 / 2)]]), tensor([[math.log(1 / 4)]])
REWARD_KL = "both in nats, from log-probabilities; the first argument is the policy that sampled"

# --- k1, k2, k3 ----------------------------------------------------------------------------


def _mean_under_p(candidate):
    """Sum of p(x) * estimator(x): the mean over all three actions, no sampling noise."""
    terms = candidate(tensor(P).log(), tensor(Q).log())
    if not isinstance(terms, torch.Tensor) or terms.shape != (3,):
        raise Mismatch(f"got    {terms!r}\nwanted one estimate per action, a tensor of shape (3,)")
    return (tensor(P) * terms).sum()


def _unbiased(exercise_, hint):
    @exercise_.check("its mean over all actions is the KL, 0.274887", hint)
    def _(candidate):
        expect(_mean_under_p(candidate), tensor(KL))


k1, k2, k3 = exercise(kl.k1), exercise(kl.k2), exercise(kl.k3)
k1.gives("log 1/2 against log 1/4 is log 2", REWARD_KL, tensor([[math.log(2)]]), HALF, QUARTER)
k1.gives(
    "it is negative where the policy likes a token less than the reference",
    "a single sample may be negative; only the mean is a KL. No abs, no clamp",
    tensor([[-math.log(2)]]),
    QUARTER,
    HALF,
)
_unbiased(k1, "log of policy minus log of reference, nothing more")
k2.gives(
    "half the square of log 2",
    "the square has a 1/2 in front",
    tensor([[math.log(2) ** 2 / 2]]),
    HALF,
    QUARTER,
)
k2.gives(
    "it is the same both ways",
    "a square has no sign",
    tensor([[math.log(2) ** 2 / 2]]),
    QUARTER,
    HALF,
)
k3.gives(
    "reference / policy = 1/2 gives 1/2 - 1 + log 2",
    "r - 1 - log r with r = reference / policy: which one is on top matters",
    tensor([[-0.5 + math.log(2)]]),
    HALF,
    QUARTER,
)
k3.gives(
    "reference / policy = 2 gives 2 - 1 - log 2, never negative",
    "r - 1 is never below log r",
    tensor([[1 - math.log(2)]]),
    QUARTER,
    HALF,
)
_unbiased(k3, "r - 1 has mean 0 under the policy, so it takes away noise and adds no bias")

k1.mutants = {
    "reversed": lambda p, q: q - p,
    "absolute": lambda p, q: (p - q).abs(),
    "clamped at 0": lambda p, q: (p - q).clamp(min=0),
    "ratio": lambda p, q: (p - q).exp(),
    "probabilities": lambda p, q: p.exp() - q.exp(),
    "weighted by p": lambda p, q: p.exp() * (p - q),
    "squared": lambda p, q: (p - q) ** 2 / 2,
    "summed": lambda p, q: (p - q).sum(),
}
k2.mutants = {
    "without the half": lambda p, q: (p - q) ** 2,
    "k1": lambda p, q: p - q,
    "half of k1": lambda p, q: (p - q) / 2,
    "signed square": lambda p, q: (p - q) * (p - q).abs() / 2,
    "square of probabilities": lambda p, q: (p.exp() - q.exp()) ** 2 / 2,
    "k3": lambda p, q: (q - p).exp() - 1 - (q - p),
}
k3.mutants = {
    "ratio upside down": lambda p, q: (p - q).exp() - 1 - (p - q),
    "without - 1": lambda p, q: (q - p).exp() - (q - p),
    "log added": lambda p, q: (q - p).exp() - 1 + (q - p),
    "mixed": lambda p, q: (p - q).exp() - 1 + (p - q),
    "sign flipped": lambda p, q: 1 + (q - p) - (q - p).exp(),
    "k1": lambda p, q: p - q,
    "k2": lambda p, q: (p - q) ** 2 / 2,
    "no exp": lambda p, q: (q / p) - 1 - (q - p),
}

# --- exact_kl ------------------------------------------------------------------------------

exact_kl = exercise(kl.exact_kl)
exact_kl.gives(
    "three tokens by hand: 0.274887",
    "sum over the vocabulary of p (log p - log q), weighted by the policy, the first argument",
    tensor(KL),
    tensor(P).log(),
    tensor(Q).log(),
)
exact_kl.gives(
    "logits need a softmax first: adding 5 to all changes nothing; one KL per position",
    "logits are not log-probabilities; the sum runs over the last axis only",
    tensor([[KL, 0.0]]),
    torch.stack([tensor(P).log() + 5.0, tensor(Q).log()]).unsqueeze(0),
    torch.stack([tensor(Q).log() - 3.0, tensor(Q).log()]).unsqueeze(0),
)
exact_kl.gives(
    "a token that both forbid (-inf) adds 0",
    "0 * (inf - inf) is nan: 0 log 0 counts as 0",
    tensor(math.log(2)),  # (1, 0) against (1/2, 1/2)
    tensor([0.0, -math.inf, -math.inf]),
    tensor([0.0, 0.0, -math.inf]),
)


def _kl(p, q):
    return (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).nan_to_num()


exact_kl.mutants = {
    "reversed": lambda p, q: _kl(q, p).sum(-1),
    "mean over the vocabulary": lambda p, q: _kl(p, q).mean(-1),
    "summed over positions": lambda p, q: _kl(p, q).sum(),
    "logits taken for log-probabilities": lambda p, q: (p.exp() * (p - q)).nan_to_num().sum(-1),
    "not weighted": lambda p, q: (p.log_softmax(-1) - q.log_softmax(-1)).nan_to_num().sum(-1),
    "nan at 0 log 0": lambda p, q: (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(
        -1
    ),
    "bits": lambda p, q: _kl(p, q).sum(-1) / math.log(2),
    "sign flipped": lambda p, q: -_kl(p, q).sum(-1),
    "symmetrised": lambda p, q: (_kl(p, q) + _kl(q, p)).sum(-1) / 2,
    "cross-entropy": lambda p, q: -(p.softmax(-1) * q.log_softmax(-1)).nan_to_num().sum(-1),
}

# --- best_of_n_kl --------------------------------------------------------------------------

best_of_n_kl = exercise(kl.best_of_n_kl)
best_of_n_kl.gives(
    "n = 2: log 2 - 1/2", "the natural log of n, less (n - 1) / n", math.log(2) - 0.5, 2
)
best_of_n_kl.gives("n = 1 moves nothing", "choosing among one is no choice", 0.0, 1)
best_of_n_kl.mutants = {
    "log n": lambda n: math.log(n),
    "1/n instead": lambda n: math.log(n) - 1 / n,
    "n - 1": lambda n: math.log(n) - (n - 1),
    "added": lambda n: math.log(n) + (n - 1) / n,
    "bits": lambda n: math.log2(n) - (n - 1) / n,
}

# --- controllers ---------------------------------------------------------------------------

proportional_kl_coef = exercise(kl.proportional_kl_coef)
# 512 / 10,000 = 0.0512 of the error; the error is clipped to 0.2.
for title, hint, observed, error in [
    ("a KL a tenth too large", "error = observed / target - 1", 6.6, 0.1),
    ("a KL a tenth too small", "the coefficient falls when the KL is under its target", 5.4, -0.1),
    ("on target", "no error, no change", 6.0, 0.0),
    (
        "a KL far too large",
        "the error is clipped to 0.2 so that one batch cannot jerk it",
        20.0,
        0.2,
    ),
    ("a KL of 0", "the error is clipped to -0.2 on the other side too", 0.0, -0.2),
]:
    proportional_kl_coef.gives(
        f"{title}: x (1 + {error} * 512 / 10,000)",
        hint,
        0.15 * (1 + error * 512 / 10_000),
        0.15,
        observed,
        6.0,
        512,
        10_000,
    )


def _proportional(coef, kl_, target, error, step):
    return coef * (1 + min(max(error, -0.2), 0.2) * step)


proportional_kl_coef.mutants = {
    "not clipped": lambda c, kl_, t, n, h: c * (1 + (kl_ / t - 1) * n / h),
    "clipped above only": lambda c, kl_, t, n, h: c * (1 + min(kl_ / t - 1, 0.2) * n / h),
    "sign flipped": lambda c, kl_, t, n, h: _proportional(c, kl_, t, 1 - kl_ / t, n / h),
    "not relative": lambda c, kl_, t, n, h: _proportional(c, kl_, t, kl_ - t, n / h),
    "relative to observed": lambda c, kl_, t, n, h: _proportional(
        c, kl_, t, 1 - t / max(kl_, 1e-9), n / h
    ),
    "horizon ignored": lambda c, kl_, t, n, h: _proportional(c, kl_, t, kl_ / t - 1, 1),
    "episodes ignored": lambda c, kl_, t, n, h: _proportional(c, kl_, t, kl_ / t - 1, 1 / h),
    "added": lambda c, kl_, t, n, h: c + min(max(kl_ / t - 1, -0.2), 0.2) * n / h,
    "without - 1": lambda c, kl_, t, n, h: _proportional(c, kl_, t, kl_ / t, n / h),
    "never changes": lambda c, kl_, t, n, h: c,
}

doubling_kl_coef = exercise(kl.doubling_kl_coef)
for title, hint, observed, wanted in [
    ("KL 0.031 above 1.5 x 0.02 doubles it", "more than 1.5 times the target", 0.031, 0.6),
    ("KL 0.029 below 1.5 x 0.02 leaves it", "the upper threshold is 1.5, not 1", 0.029, 0.3),
    ("KL 0.0134 above 0.02 / 1.5 leaves it", "the lower threshold is 1 / 1.5", 0.0134, 0.3),
    ("KL 0.0132 below 0.02 / 1.5 halves it", "less than the target over 1.5", 0.0132, 0.15),
]:
    doubling_kl_coef.gives(title, hint, wanted, 0.3, observed, 0.02)


def _doubling(coef, kl_, target, width=1.5, factor=2.0):
    return (
        coef * factor if kl_ > target * width else coef / factor if kl_ < target / width else coef
    )


doubling_kl_coef.mutants = {
    "upside down": lambda c, kl_, t: _doubling(c, kl_, t, factor=0.5),
    "no dead zone": lambda c, kl_, t: _doubling(c, kl_, t, width=1.0),
    "thresholds at 2": lambda c, kl_, t: _doubling(c, kl_, t, width=2.0),
    "factor 1.5": lambda c, kl_, t: _doubling(c, kl_, t, factor=1.5),
    "lower threshold at half": lambda c, kl_, t: (
        c * 2 if kl_ > 1.5 * t else c / 2 if kl_ < t / 2 else c
    ),
    "never halves": lambda c, kl_, t: c * 2 if kl_ > 1.5 * t else c,
    "proportional": lambda c, kl_, t: _proportional(c, kl_, t, kl_ / t - 1, 0.0512),
}
