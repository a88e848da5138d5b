"""Checks of the losses of RLOO and GRPO, PPO's neighbours without a value model."""

import math
from functools import partial

import torch
from torch import tensor

from minirlhf.course.checks.core import exercise, expect, expect_gradient
from minirlhf.course.checks.masked import _mean
from minirlhf.course.checks.neighbours import gives_no_gradient
from minirlhf.course.checks.policy import LOGPROBS, MASK
from minirlhf.course.checks.preferences import LN2
from minirlhf.maths import losses

# --- reinforce_loss ------------------------------------------------------------------------

# Responses of 2 tokens and 1 token, of log-probability -3 and -3; advantages 4 and -1
EPISODES = (LOGPROBS, tensor([4.0, -1.0]), MASK)

reinforce_loss = exercise(losses.reinforce_loss)
reinforce_loss.gives(
    "advantages 4 and -1, log-probabilities -1 - 2 and -3: (4 * 3 - 1 * 3) / 2 = 4.5",
    "a response is one action: *sum* its tokens' log-probabilities, then take the mean over "
    "responses (over all three tokens it would be 3); nan in the padding must not come through",
    tensor(4.5),
    *EPISODES,
)
reinforce_loss.gives(
    "count=6 divides the sum over responses by 6",
    "a micro-batch divides by the whole minibatch's number of responses, not of tokens",
    tensor(1.5),
    *EPISODES,
    count=6,
)


@reinforce_loss.check(
    "the gradient is -advantage / 2 at each token, 0 in the padding",
    "the loss is minimised: every token of a good response gets a negative gradient, the same "
    "whether the response is long or short",
)
def _(candidate):
    expect_gradient(candidate, tensor([[-2.0, -2.0], [0.5, 0.0]]), *EPISODES)


gives_no_gradient(
    reinforce_loss, {1: "advantages"}, "they weigh the gradient: detach them", *EPISODES
)


def _reinforce(p, a, mask, count=None, inside=torch.sum, **wrong):
    p = torch.where(mask, wrong.get("of", lambda p: p)(p), 0.0)
    a = a if wrong.get("gradient") else a.detach()
    return -(a * inside(p, 1)).sum() / (len(p) if count is None else count)


reinforce_loss.mutants = {
    "sign flipped": lambda *x, **o: -_reinforce(*x, **o),
    "mean over a response's tokens": lambda p, a, mask, **o: _reinforce(
        p, a / mask.sum(1), mask, **o
    ),
    "mean over all tokens": lambda p, a, mask, count=None: _reinforce(p, a, mask, mask.sum()),
    "mean with the padding": partial(_reinforce, inside=torch.mean),
    "sum over responses": lambda *x, count=None: _reinforce(*x, 1),
    "mask ignored": lambda p, a, mask, **o: _reinforce(p, a, mask | True, **o),
    "product with the mask": lambda p, a, mask: -(a.detach() * (p * mask).sum(1)).mean(),
    "probabilities": partial(_reinforce, of=torch.exp),
    "advantage missing": lambda p, a, *x, **o: _reinforce(p, torch.ones_like(a), *x, **o),
    "count ignored": lambda *x, count=None: _reinforce(*x),
    "gradient through the advantages": partial(_reinforce, gradient=True),
    "gradient cut": lambda p, *x, **o: _reinforce(p.detach(), *x, **o),
}

# --- token_weights -------------------------------------------------------------------------

FOUR_AND_ONE = tensor([[True, True, True, True], [True, False, False, False]])
token_weights = exercise(losses.token_weights)
token_weights.gives(
    "responses of 4 tokens and 1 token: 1/2 each, so 1/8 for each of the four",
    "1 / (B length): the responses weigh the same. 1/5 everywhere is the mean over tokens",
    tensor([[1 / 8, 1 / 8, 1 / 8, 1 / 8], [1 / 2, 0.0, 0.0, 0.0]]),
    FOUR_AND_ONE,
)
token_weights.gives(
    "mean='token': five tokens, 1/5 each",
    "DAPO counts the tokens of the whole minibatch, and only those that count",
    tensor([[0.2, 0.2, 0.2, 0.2], [0.2, 0.0, 0.0, 0.0]]),
    FOUR_AND_ONE,
    mean="token",
)
token_weights.gives(
    "mean='constant', longest=10: 1/20 each",
    "Dr. GRPO divides by B and by what a response *could* have, not by the longest one here",
    tensor([[0.05, 0.05, 0.05, 0.05], [0.05, 0.0, 0.0, 0.0]]),
    FOUR_AND_ONE,
    mean="constant",
    longest=10,
)


@token_weights.check(
    "whatever the lengths, each response's weights add up to 1 / B",
    "divide each row by its own number of tokens, and by the number of responses",
)
def _(candidate):
    mask = torch.arange(7) < tensor([[1], [7], [3], [4]])
    expect(candidate(mask).sum(1), torch.full((4,), 1 / 4))


def _weigh(mask, mean="response", longest=1, per=None):
    """Weights as one number for each row (B, 1), by the name of the mean."""
    rows, length = len(mask), mask.sum(1, keepdim=True)
    right = {"response": rows * length, "token": mask.sum(), "constant": rows * longest}
    return mask / (right | (per(mask, longest) if per else {}))[mean]


token_weights.mutants = {
    "mean over tokens": lambda mask: _weigh(mask, "token"),
    "number of responses missing": lambda mask, **o: _weigh(mask, **o) * len(mask),
    "padding weighs": lambda mask, **o: _weigh(mask | True, **o),
    "padding in the lengths": lambda mask, mean="response", **o: mask * _weigh(mask | True, mean),
    "1 for all": lambda mask, **o: mask.float(),
    "mean ignored": lambda mask, mean="response", longest=1: _weigh(mask),
    "token: by response": partial(_weigh, per=lambda m, longest: {"token": m.sum(1, True)}),
    "constant: longest here": partial(
        _weigh, per=lambda m, longest: {"constant": len(m) * m.sum(1).max()}
    ),
    "constant: responses missing": partial(_weigh, per=lambda m, longest: {"constant": longest}),
}

# --- grpo_loss -----------------------------------------------------------------------------


def _one(new, advantage, ref=None):
    """One token, of probability 1/2 when sampled: new, old, ref, advantages, weights."""
    numbers = (new, 0.5, ref or new)
    return (*(tensor([[p]]).log() for p in numbers), tensor([advantage]), tensor([[1.0]]))


# Ratio 1 everywhere; the reference finds the first token half as likely, the others the same
K3 = 0.5 - 1 + math.log(2)
HALF = LOGPROBS - tensor([[LN2, 0.0], [0.0, 0.0]])
GROUP = (LOGPROBS, LOGPROBS, HALF, tensor([2.0, -6.0]), tensor([[0.25, 0.25], [0.5, 0.0]]))

grpo_loss = exercise(losses.grpo_loss)
grpo_loss.gives(
    "weights 1/4, 1/4, 1/2, advantages 2 and -6, ratio 1: loss (-2 - 2 + 12) / 4 = 2",
    "every token of a response has its response's advantage; weight and *sum*, take no mean; "
    "weight 0 = padding, and nan there must not come through",
    tensor(2.0),
    *(LOGPROBS, LOGPROBS, LOGPROBS, *GROUP[3:]),
)
for title, hint, wanted, token in [
    ("good, ratio 1.8: held at 1.2", "it gains nothing beyond 1 + clip_range", -2.4, (0.9, 2.0)),
    ("good, ratio 0.5: not clipped", "of the two losses take the *larger*", -1.0, (0.25, 2.0)),
    ("bad, ratio 1.8: not clipped", "of the two losses take the *larger*", 3.6, (0.9, -2.0)),
    ("bad, ratio 0.5: held at 0.8", "it gains nothing below 1 - clip_range", 1.6, (0.25, -2.0)),
]:
    grpo_loss.gives(
        f"advantage {token[1]:g}, {title}, loss {wanted}",
        f"{hint}; the ratio is to the policy that sampled, the KL (0 here) to the reference",
        tensor(wanted),
        *_one(*token),
    )
grpo_loss.gives(
    "clip_range .5 holds ratio 1.8 at 1.5",
    "clip to [1 - clip_range, 1 + clip_range]",
    tensor(-3.0),
    *_one(0.9, 2.0),
    clip_range=0.5,
)
grpo_loss.gives(
    "kl_coef 4, the reference half as likely at a token of weight 1/4: 1/2 - 1 + log 2 more",
    "k3 = pi_ref / pi - 1 - log(pi_ref / pi), and not its inverse (2 - 1 - log 2); it is *added* "
    "to the loss, and weighed like the rest",
    tensor(2 + K3),
    *GROUP,
    kl_coef=4.0,
)


@grpo_loss.check(
    "before any update the gradient is -weight * advantage and .04 (1 - 1/2) / 4 for the KL",
    "the gradient of k3 is 1 - pi_ref / pi, here 1/2 at the first token; kl_coef is .04 unless "
    "told; padding gets 0",
)
def _(candidate):
    expect_gradient(candidate, tensor([[-0.495, -0.5], [3.0, 0.0]]), *GROUP)


@grpo_loss.check(
    "two micro-batches add up to the minibatch",
    "the weights already hold the whole minibatch's divisor: sum, and divide by nothing more",
)
def _(candidate):
    rows = [candidate(*(x[i : i + 1] for x in GROUP)) for i in (0, 1)]
    expect(rows[0] + rows[1], tensor(2 + 0.01 * K3))


@grpo_loss.check(
    "a token that the clip holds still feels the KL: 3 (1 - 1/2)",
    "the clip is around the advantage's term alone; the KL stands beside it",
    "kl_coef",
)
def _(candidate):
    expect_gradient(candidate, tensor([[1.5]]), *_one(0.9, 2.0, ref=0.45), kl_coef=3.0)


gives_no_gradient(
    grpo_loss,
    {1: "old_logprobs", 2: "ref_logprobs", 3: "advantages"},
    "they are constants of the rollout: detach them",
    *GROUP,
)


def _k3(d):
    return d.exp() - 1 - d


def _grpo(p, old, ref, a, w, clip_range=0.2, kl_coef=0.04, **wrong):
    """A GRPO loss whose every part can be got wrong."""
    if not wrong.get("gradient"):
        old, ref, a = old.detach(), ref.detach(), a.detach()
    a = a[:, None].expand_as(p)
    if not wrong.get("unmasked"):
        p, old, ref, a = (torch.where(w > 0, x, 0.0) for x in (p, old, ref, a))
    ratio = wrong.get("ratio", lambda p, old, ref: (p - old).exp())(p, old, ref)
    held = ratio.clamp(1 - clip_range, 1 + clip_range)
    clipped = wrong.get("both", torch.maximum)(-a * ratio, -(1 if wrong.get("bare") else a) * held)
    penalty = wrong.get("kl", lambda p, old, ref: _k3(ref - p))(p, old, ref)
    return wrong.get("mean", lambda x, w: (w * x).sum())(clipped + kl_coef * penalty, w)


grpo_loss.mutants = {
    "sign flipped": lambda *x, **o: -_grpo(*x, **o),
    "advantage's sign flipped": lambda p, old, ref, a, w, **o: _grpo(p, old, ref, -a, w, **o),
    "smaller of the two": partial(_grpo, both=torch.minimum),
    "always clipped": partial(_grpo, both=lambda plain, held: held),
    "never clipped": partial(_grpo, both=lambda plain, held: plain),
    "clipped term without the advantage": partial(_grpo, bare=True),
    "clip_range fixed": lambda *x, clip_range=0.2, **o: _grpo(*x, **o),
    "ratio to the reference": partial(_grpo, ratio=lambda p, old, ref: (p - ref).exp()),
    "ratio upside down": partial(_grpo, ratio=lambda p, old, ref: (old - p).exp()),
    "log-ratio as ratio": partial(_grpo, ratio=lambda p, old, ref: 1 + p - old),
    "KL subtracted": partial(_grpo, kl=lambda p, old, ref: -_k3(ref - p)),
    "KL upside down": partial(_grpo, kl=lambda p, old, ref: _k3(p - ref)),
    "KL to the old policy": partial(_grpo, kl=lambda p, old, ref: _k3(old - p)),
    "k1": partial(_grpo, kl=lambda p, old, ref: p - ref),
    "k2": partial(_grpo, kl=lambda p, old, ref: (p - ref) ** 2 / 2),
    "no KL": partial(_grpo, kl=lambda p, old, ref: 0 * p),
    "KL without gradient": partial(_grpo, kl=lambda p, old, ref: _k3(ref - p.detach())),
    "kl_coef fixed": lambda *x, kl_coef=0.04, **o: _grpo(*x, **o),
    "mean over tokens": partial(_grpo, mean=lambda x, w: _mean(x, w > 0)),
    "mean of the weighted": partial(_grpo, mean=lambda x, w: _mean(w * x, w > 0)),
    "product with the weights": partial(_grpo, unmasked=True),
    "gradient into the constants": partial(_grpo, gradient=True),
    "gradient cut": lambda p, *x, **o: _grpo(p.detach(), *x, **o),
}
