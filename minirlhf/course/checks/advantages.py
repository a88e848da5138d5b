"""Checks of token_rewards and gae."""

import math
from functools import partial

import torch
from torch import tensor

from minirlhf.course.checks.core import exercise, expect
from minirlhf.maths import advantages

NAN = math.nan

# --- token_rewards -------------------------------------------------------------------------

# Two responses, 3 and 2 tokens. Log-ratios: (1, -2, 0.5) and (-1, 2, padding).
LOGPROBS = tensor([[-1.0, -4.0, -1.5], [-3.0, -1.0, NAN]])
REF_LOGPROBS = tensor([[-2.0, -2.0, -2.0], [-2.0, -3.0, NAN]])
MASK = tensor([[True, True, True], [True, True, False]])
RESPONSES, SCORES = (LOGPROBS, REF_LOGPROBS, MASK), tensor([5.0, -2.0])

token_rewards = exercise(advantages.token_rewards)
token_rewards.gives(
    "kl_coef 0: nothing but the score, at each response's own last token",
    "the last *counted* token: in a batch of padded responses that is not the last column",
    tensor([[0.0, 0.0, 5.0], [0.0, -2.0, 0.0]]),
    SCORES,
    *RESPONSES,
    0.0,
)
token_rewards.gives(
    "kl_coef 0.1, scores 0: minus a tenth of each log-ratio, 0 in the padding",
    "where the policy likes its token more than the SFT model does, the reward is *negative*; "
    "every token pays its own share; nan in the padding must not come through",
    tensor([[-0.1, 0.2, -0.05], [0.1, -0.2, 0.0]]),
    torch.zeros(2),
    *RESPONSES,
    0.1,
)
token_rewards.gives(
    "both: the last token gets its penalty and the score",
    "the score is added to the last token's penalty; it does not replace it, and kl_coef does not "
    "multiply it",
    tensor([[-0.1, 0.2, 4.95], [0.1, -2.2, 0.0]]),
    SCORES,
    *RESPONSES,
    0.1,
)


def _place(scores, mask, index=None):
    """Scores at one column of each row, the last counted one unless told."""
    index = mask.sum(-1) - 1 if index is None else index
    columns = torch.arange(mask.shape[1])
    return torch.where(columns == index.unsqueeze(-1), scores.unsqueeze(-1), 0.0)


def _penalty(logprobs, ref_logprobs, mask, kl_coef):
    return torch.where(mask, -kl_coef * (logprobs - ref_logprobs), 0.0)


token_rewards.mutants = {
    "KL rewarded": lambda s, p, q, m, c: -_penalty(p, q, m, c) + _place(s, m),
    "score subtracted": lambda s, p, q, m, c: _penalty(p, q, m, c) - _place(s, m),
    "score in the last column": lambda s, p, q, m, c: (
        _penalty(p, q, m, c) + _place(s, m, torch.full((len(m),), m.shape[1] - 1))
    ),
    "score at the first token": lambda s, p, q, m, c: (
        _penalty(p, q, m, c) + _place(s, m, torch.zeros(len(m)))
    ),
    "score before the last token": lambda s, p, q, m, c: (
        _penalty(p, q, m, c) + _place(s, m, m.sum(-1) - 2)
    ),
    "score after the last token": lambda s, p, q, m, c: (
        _penalty(p, q, m, c) + _place(s, m, m.sum(-1))
    ),
    "score at every token": lambda s, p, q, m, c: _penalty(p, q, m, c) + s.unsqueeze(-1) * m,
    "score spread over the tokens": lambda s, p, q, m, c: (
        _penalty(p, q, m, c) + (s / m.sum(-1)).unsqueeze(-1) * m
    ),
    "score replaces the penalty": lambda s, p, q, m, c: torch.where(
        _place(torch.ones(len(m)), m) > 0, s.unsqueeze(-1), _penalty(p, q, m, c)
    ),
    "kl_coef on the score": lambda s, p, q, m, c: _penalty(p, q, m, c) + c * _place(s, m),
    "KL once, at the end": lambda s, p, q, m, c: _place(s + _penalty(p, q, m, c).sum(-1), m),
    "mask ignored": lambda s, p, q, m, c: -c * (p - q) + _place(s, m),
    "product with the mask": lambda s, p, q, m, c: -c * (p - q) * m + _place(s, m),
    "only positive KL": lambda s, p, q, m, c: _penalty(p, q, m, c).clamp(max=0) + _place(s, m),
    "absolute KL": lambda s, p, q, m, c: -_penalty(p, q, m, c).abs() + _place(s, m),
    "no KL": lambda s, p, q, m, c: _place(s, m),
    "kl_coef fixed": lambda s, p, q, m, c: _penalty(p, q, m, 0.02) + _place(s, m),
}

# --- gae -----------------------------------------------------------------------------------

# r = (0, 0, 1), V = (.5, .6, .7):
#   discount 1:  delta = (.6 - .5, .7 - .6, 1 - .7) = (.1, .1, .3)
VALUES, FULL = tensor([[0.5, 0.6, 0.7]]), tensor([[True, True, True]])
EPISODE = (tensor([[0.0, 0.0, 1.0]]), VALUES, FULL)

gae = exercise(advantages.gae)
gae.gives(
    "gae_lambda 0 gives the one-step errors (.1, .1, .3)",
    "delta_t = r_t + discount V_{t+1} - V_t, and after the last token V = 0",
    (tensor([[0.1, 0.1, 0.3]]), tensor([[0.6, 0.7, 1.0]])),
    *EPISODE,
    gae_lambda=0.0,
)
gae.gives(
    "gae_lambda 1 gives what really came minus the value: (.5, .4, .3)",
    "with lambda 1 the values in between cancel; returns = advantages + values",
    (tensor([[0.5, 0.4, 0.3]]), tensor([[1.0, 1.0, 1.0]])),
    *EPISODE,
    gae_lambda=1.0,
)
gae.gives(
    "discount .9, gae_lambda .5: from the back, .3, .03 + .45 * .3, .04 + .45 * .165",
    "the sum runs backwards, and each step back multiplies by discount * gae_lambda",
    # delta = (.54 - .5, .63 - .6, .3) = (.04, .03, .3)
    (tensor([[0.11425, 0.165, 0.3]]), tensor([[0.61425, 0.765, 1.0]])),
    *EPISODE,
    discount=0.9,
    gae_lambda=0.5,
)
gae.gives(
    "rubbish in the padding changes nothing and becomes 0",
    "the value after a response's own last token is 0, not what stands in the padding",
    (tensor([[0.1, 0.3, 0.0, 0.0]]), tensor([[0.7, 1.0, 0.0, 0.0]])),
    tensor([[0.0, 1.0, 8.0, NAN]]),
    tensor([[0.6, 0.7, 9.0, NAN]]),
    tensor([[True, True, False, False]]),
    gae_lambda=0.0,
)


@gae.check(
    "a random batch agrees with the double sum over later errors, at the default lambda .95",
    "A_t = sum over l of (discount * gae_lambda)^l * delta_{t+l}",
)
def _(candidate):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 3, 5, generator=generator)
    lengths = [5, 3, 1]
    mask = torch.arange(5) < tensor(lengths).unsqueeze(-1)
    wanted = torch.zeros(3, 5)
    for row, length in enumerate(lengths):
        after = [*values[row].tolist()[1:length], 0.0]
        delta = [rewards[row, t].item() + after[t] - values[row, t].item() for t in range(length)]
        for t in range(length):
            wanted[row, t] = sum(0.95 ** (u - t) * delta[u] for u in range(t, length))
    expect(candidate(rewards, values, mask), (wanted, (wanted + values) * mask))


@gae.check(
    "advantages and returns carry no gradient",
    "they are targets: with a gradient the value model could lower its loss by moving the target",
)
def _(candidate):
    values = VALUES.clone().requires_grad_()
    carries = [result.requires_grad for result in candidate(EPISODE[0], values, FULL)]
    expect(tensor(carries), tensor([False, False]))


def _gae(rewards, values, mask, discount=1.0, gae_lambda=0.95, **wrong):
    """A slow GAE whose every part can be got wrong."""
    values = values if wrong.get("gradient") else values.detach()
    if not wrong.get("unmasked"):
        rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    after = torch.cat([values[:, 1:], values[:, -1:] * wrong.get("bootstrap", 0)], 1)
    delta = rewards + discount * after - wrong.get("baseline", 1) * values
    advantages_, running = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    steps = range(values.shape[1])
    for t in steps if wrong.get("forwards") else reversed(steps):
        running = delta[:, t] + discount * gae_lambda * running
        advantages_ = advantages_ + running.unsqueeze(-1) * (torch.arange(values.shape[1]) == t)
    if not wrong.get("unmasked"):
        advantages_ = torch.where(mask, advantages_, 0.0)
    return advantages_, advantages_ + values


def _whitened(*args, **options):
    advantages_, returns = _gae(*args, **options)
    return (advantages_ - advantages_.mean()) / (advantages_.std() + 1e-8), returns


gae.mutants = {
    "lambda ignored": lambda *x, **o: _gae(*x, **o | {"gae_lambda": 1.0}),
    "lambda always 0": lambda *x, **o: _gae(*x, **o | {"gae_lambda": 0.0}),
    "discount ignored": lambda *x, **o: _gae(*x, **o | {"discount": 1.0}),
    "value not subtracted": partial(_gae, baseline=0),
    "value added": partial(_gae, baseline=-1),
    "bootstraps after the end": partial(_gae, bootstrap=1),
    "forwards": partial(_gae, forwards=True),
    "mask ignored": partial(_gae, unmasked=True),
    "gradient through the values": partial(_gae, gradient=True),
    "returns first": lambda *x, **o: _gae(*x, **o)[::-1],
    "returns without the values": lambda *x, **o: (_gae(*x, **o)[0],) * 2,
    "already whitened": _whitened,
    "advantages alone": lambda *x, **o: _gae(*x, **o)[0],
}
