"""Checks of DPO's loss and of the advantages of RLOO and GRPO."""

import math
from functools import partial

import torch
from torch import tensor

from minirlhf.course.checks.core import Mismatch, exercise, expect, expect_gradient
from minirlhf.course.checks.preferences import (
    FOUR_LOSS,
    LN2,
    NAN,
    TWO_RANKS,
    TWO_SCORES,
    _loop,
    nll,
)
from minirlhf.maths import advantages, preferences


def gives_no_gradient(one, names, hint, *args):
    """Register the check that of the arguments in `names` (by index) none gets a gradient."""

    @one.check(f"no gradient reaches {', '.join(names.values())}", hint)
    def _(candidate):
        inputs = [x.clone().requires_grad_() if i in {0, *names} else x for i, x in enumerate(args)]
        constants = [inputs[i] for i in names]
        found = torch.autograd.grad(candidate(*inputs), constants, allow_unused=True)
        for name, gradient in zip(names.values(), found, strict=True):
            if gradient is not None and gradient.nan_to_num().any():
                raise Mismatch(f"got    a gradient in {name}\nwanted none")


# --- dpo_loss ------------------------------------------------------------------------------

# beta .5 times log-ratios of log 3 and -log 3: a lead of log 3, so the first wins with 3/4
DPO_REF = tensor([[-2.0, -5.0]])
DPO_NEW, FIRST = DPO_REF + tensor([[math.log(3), -math.log(3)]]), tensor([[1, 2]])
# The rewards of the exercise ranking_loss at beta .5, seen from another reference
TWO_REF = tensor([[-9.0, -3.0, -7.0, -5.0], [NAN, -4.0, -6.0, NAN]])
TWO_PROMPTS = (TWO_REF + 2 * TWO_SCORES, TWO_REF, TWO_RANKS, 0.5)

dpo_loss = exercise(preferences.dpo_loss)
dpo_loss.gives(
    "policy = reference: log 2 = 0.693, however likely the responses are",
    "the reward is how much *more* the policy likes a response than the reference does: without "
    "log pi_ref a response is preferred for being likely, or short. -log sigmoid(0) = log 2, which "
    "beta does not multiply",
    tensor(LN2),
    tensor([[-1.0, -4.0]]),
    tensor([[-1.0, -4.0]]),
    FIRST,
    0.5,
)
dpo_loss.gives(
    "log-ratios log 3 (the better) and -log 3, beta .5: -log 3/4",
    "beta multiplies the log-ratios, inside the sigmoid: the lead is .5 (log 3 + log 3) = log 3",
    tensor(-math.log(3 / 4)),
    *(DPO_NEW, DPO_REF, FIRST, 0.5),
)
dpo_loss.gives(
    "the same with the second one ranked best: -log 1/4",
    "rank 1 is the best: the smaller rank is the winner",
    tensor(-math.log(1 / 4)),
    *(DPO_NEW, DPO_REF, tensor([[2, 1]]), 0.5),
)
dpo_loss.gives(
    "two prompts with 6 pairs and 1 pair weigh the same; empty slots hold nan",
    "mean over a prompt's pairs, then over prompts, as in ranking_loss; rank 0 = not there",
    tensor((FOUR_LOSS + nll(-0.3)) / 2),
    *TWO_PROMPTS,
)
dpo_loss.gives(
    "a lead of 1000 the wrong way costs 1000",
    "use logsigmoid (or softplus), not the log of a sigmoid",
    tensor(1000.0),
    *(tensor([[-2001.0, -1.0]]), tensor([[-1.0, -1.0]]), FIRST, 0.5),
)
dpo_loss.gives(
    "count=4 divides the sum over prompts by 4",
    "a micro-batch divides by the number of prompts in the whole batch",
    tensor((FOUR_LOSS + nll(-0.3)) / 4),
    *TWO_PROMPTS,
    count=4,
)


@dpo_loss.check(
    "exp(-loss) of a pair and of the same pair turned round add up to 1",
    "exp(-loss) is the probability that the labeler prefers so: one of the two wins",
)
def _(candidate):
    losses = [candidate(DPO_NEW, DPO_REF, ranks, 0.3) for ranks in (FIRST, FIRST.flip(1))]
    expect(sum((-loss).exp() for loss in losses), tensor(1.0))


@dpo_loss.check(
    "at policy = reference the gradient is -beta / 2 for the better, +beta / 2 for the worse",
    "the loss is minimised, so the better one's gradient is negative; an empty slot's is 0",
)
def _(candidate):
    same, ranks = tensor([[-3.0, NAN, -1.0]]), tensor([[2, 0, 1]])
    expect_gradient(candidate, tensor([[0.25, 0.0, -0.25]]), same, same, ranks, 0.5)


gives_no_gradient(
    dpo_loss,
    {1: "ref_logprobs"},
    "the reference is frozen (detach it): only the policy is trained",
    *(DPO_NEW, DPO_REF, FIRST, 0.5),
)


def _dpo(p, q, r, beta, count=None, ratio=lambda p, q: p - q.detach(), **wrong):
    return _loop(beta * ratio(p, q), r, count, **wrong)


dpo_loss.mutants = {
    "sign flipped": lambda p, q, *x, **o: _dpo(-p, -q, *x, **o),
    "reference missing": partial(_dpo, ratio=lambda p, q: p),
    "reference added": partial(_dpo, ratio=lambda p, q: p + q),
    "ratio instead of log-ratio": partial(_dpo, ratio=lambda p, q: (p - q).exp()),
    "beta missing": lambda p, q, r, beta, **o: _dpo(p, q, r, 1.0, **o),
    "beta outside": lambda p, q, r, beta, **o: beta * _dpo(p, q, r, 1.0, **o),
    "divided by beta": lambda p, q, r, beta, **o: _dpo(p, q, r, 1 / beta, **o),
    "larger rank wins": partial(_dpo, wins=lambda a, b: a > b > 0),
    "neighbours only": partial(_dpo, wins=lambda a, b: a and b == a + 1),
    "empty slot wins": lambda p, q, *x, **o: _dpo(
        p.nan_to_num(), q.nan_to_num(), *x, wins=lambda a, b: a < b, **o
    ),
    "all pairs pooled": partial(_dpo, pooled=True),
    "no log": partial(_dpo, pair=lambda lead: -torch.sigmoid(lead)),
    "log of sigmoid": partial(_dpo, pair=lambda lead: -torch.sigmoid(lead).log()),
    "IPO": partial(_dpo, pair=lambda lead: (lead - 0.5) ** 2),
    "count ignored": lambda p, q, r, beta, count=None: _dpo(p, q, r, beta),
    "gradient into the reference": partial(_dpo, ratio=lambda p, q: p - q),
    "gradient cut": lambda p, *x, **o: _dpo(p.detach(), *x, **o),
}

# --- leave_one_out_advantages and group_advantages -----------------------------------------

leave_one_out_advantages = exercise(advantages.leave_one_out_advantages)
leave_one_out_advantages.gives(
    "rewards 1, 2, 6: the others' means are 4, 3.5 and 1.5",
    "a sample's own reward is no part of its baseline: [-2, -1, 3] has the mean of all three",
    tensor([[-3.0, -1.5, 4.5]]),
    tensor([[1.0, 2.0, 6.0]]),
)
leave_one_out_advantages.gives(
    "two samples: each one's baseline is the other, 3 - 1 and 1 - 3",
    "divide by the K - 1 others; with its own reward in the baseline half the advantage is gone",
    tensor([[2.0, -2.0]]),
    tensor([[3.0, 1.0]]),
)
leave_one_out_advantages.gives(
    "an easy prompt beside a hard one changes nothing: rows are prompts",
    "the others are the same prompt's other samples: average along a row, not over the batch",
    tensor([[2.0, -2.0], [-4.0, 4.0]]),
    tensor([[3.0, 1.0], [50.0, 54.0]]),
)

group_advantages = exercise(advantages.group_advantages)
group_advantages.gives(
    "rewards 0, 200, 400: the mean is 200 and the standard deviation too",
    "divide by the square root of the variance, and that by K - 1 (torch.std): the biased one, by "
    "K, gives 1.225. The mean is that of all K samples, itself included; epsilon is 1e-4",
    tensor([[-1.0, 0.0, 1.0]]),
    tensor([[0.0, 200.0, 400.0]]),
)
group_advantages.gives(
    "each prompt has its own mean and spread: 50, 50, 80 has 60 and sqrt 300",
    "rows are prompts: mean and standard deviation along a row, not over the batch",
    tensor([[-1.0, 0.0, 1.0], [-(3**-0.5), -(3**-0.5), 2 * 3**-0.5]]),
    tensor([[0.0, 200.0, 400.0], [50.0, 50.0, 80.0]]),
)
group_advantages.gives(
    "equal rewards: 0 and not nan",
    "the standard deviation is 0 here: that is what epsilon is for",
    tensor([[0.0, 0.0, 0.0]]),
    tensor([[7.0, 7.0, 7.0]]),
)
group_advantages.gives(
    "epsilon=2 beside a standard deviation of 2: divided by 4",
    "epsilon is added to the standard deviation, not to the variance",
    tensor([[-0.5, 0.0, 0.5]]),
    tensor([[0.0, 2.0, 4.0]]),
    epsilon=2.0,
)
group_advantages.gives(
    "scale=False only takes the mean off: 1, 2, 6 give -2, -1, 3",
    "Dr. GRPO leaves the spread in; the mean is that of all K, unlike RLOO's",
    tensor([[-2.0, -1.0, 3.0]]),
    tensor([[1.0, 2.0, 6.0]]),
    scale=False,
)

for of_groups in (leave_one_out_advantages, group_advantages):

    @of_groups.check(
        "100 more for every sample of a prompt changes nothing, and each row sums to 0",
        "only the differences to the same prompt's other samples count: take a baseline off",
    )
    def _(candidate):
        rewards = 10 * torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        plain, moved = candidate(rewards), candidate(rewards + tensor([[0.0], [100.0], [0.0]]))
        expect((moved - plain).round(decimals=3), torch.zeros(3, 5))
        expect(plain.sum(1).round(decimals=3), torch.zeros(3))

    @of_groups.check("advantages carry no gradient", "they are constants: detach, or no_grad")
    def _(candidate):
        result = candidate(tensor([[1.0, 2.0, 6.0]], requires_grad=True))
        expect(tensor([result.requires_grad]), tensor([False]))


def _centred(r):
    return r.detach() - r.detach().mean(1, keepdim=True)


def _others(r):
    return _centred(r) * r.shape[1] / (r.shape[1] - 1)


def _in_groups(r, scale=True, epsilon=1e-4, spread=lambda r: r.std(1, keepdim=True), base=_centred):
    return base(r) / (spread(r.detach()) + epsilon) if scale else base(r)


leave_one_out_advantages.mutants = {
    "own sample in the baseline": _centred,
    "sign flipped": lambda r: -_others(r),
    "sum of the others": lambda r: 2 * r - r.sum(1, keepdim=True),
    "others divided by K": lambda r: r - (r.sum(1, keepdim=True) - r) / r.shape[1],
    "others of the batch": lambda r: r - (r.sum() - r) / (r.numel() - 1),
    "columns are prompts": lambda r: r - r.mean(0),
    "no baseline": lambda r: r.clone(),
    "the baseline alone": lambda r: r - _others(r),
    "best other": lambda r: r - r.amax(1, keepdim=True),
    "next sample": lambda r: r - r.roll(1, 1),
    "divided by the spread": _in_groups,
    "gradient through the rewards": lambda r: r - (r.sum(1, keepdim=True) - r) / (r.shape[1] - 1),
}
group_advantages.mutants = {
    "sign flipped": lambda r, **o: -_in_groups(r, **o),
    "variance": partial(_in_groups, spread=lambda r: r.var(1, keepdim=True)),
    "biased": partial(_in_groups, spread=lambda r: r.std(1, keepdim=True, correction=0)),
    "spread of the batch": partial(_in_groups, spread=lambda r: r.std()),
    "mean of the batch": partial(_in_groups, base=lambda r: r.detach() - r.detach().mean()),
    "own sample left out": partial(_in_groups, base=_others),
    "mean not taken off": partial(_in_groups, base=lambda r: r.detach()),
    "never scaled": lambda r, scale=True, epsilon=1e-4: _centred(r),
    "always scaled": lambda r, scale=True, **o: _in_groups(r, **o),
    "scale turned round": lambda r, scale=True, **o: _in_groups(r, not scale, **o),
    "without epsilon": lambda r, **o: _in_groups(r, **o | {"epsilon": 0.0}),
    "epsilon fixed": lambda r, epsilon=1e-4, **o: _in_groups(r, **o),
    "epsilon in the variance": lambda r, epsilon=1e-4: (
        _centred(r) / (r.detach().var(1, keepdim=True) + epsilon).sqrt()
    ),
    "gradient through the rewards": partial(_in_groups, base=lambda r: r - r.mean(1, keepdim=True)),
}
