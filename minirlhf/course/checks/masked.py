"""Checks of gather_logprobs, masked_mean, masked_var, masked_whiten and the two index helpers."""

import math
from functools import partial

import torch
from torch import tensor

from minirlhf.course.checks.core import exercise, expect, expect_gradient
from minirlhf.maths import masked

NAN = math.nan

# --- gather_logprobs -----------------------------------------------------------------------

gather_logprobs = exercise(masked.gather_logprobs)
gather_logprobs.gives(
    "weights 1 : 1 and 3 : 1 give log 1/2 and log 1/4",
    "a log-probability is the logit minus the log of the sum over the vocabulary, the last axis",
    tensor([[math.log(1 / 2), math.log(1 / 4)]]),
    tensor([[[0.0, 0.0], [math.log(3), 0.0]]]),
    tensor([[1, 1]]),
)
gather_logprobs.gives(
    "each position is read at its own token",
    "position t of the logits belongs to position t of ids: no shift here, and ids choose",
    # softmax of log-probabilities gives them back: rows (.2, .3, .5) and (.6, .3, .1)
    tensor([[math.log(0.5), math.log(0.6)], [math.log(0.3), math.log(0.1)]]),
    tensor([[[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]] * 2).log(),
    tensor([[2, 0], [1, 2]]),
)
gather_logprobs.gives(
    "logits of 1000 do not overflow",
    "exp(1000) is inf: use log_softmax or logsumexp, not the log of a softmax",
    tensor([[-1000.0, 0.0]]),
    tensor([[[1000.0, 0.0]] * 2]),
    tensor([[1, 0]]),
)
gather_logprobs.gives(
    "the temperature divides the logits, before the softmax",
    "sampling at temperature T draws from softmax(logits / T): that distribution's log is wanted",
    tensor([[math.log(3 / 4)]]),  # 2 log 3 / 2 = log 3: weights 3 : 1
    tensor([[[2 * math.log(3), 0.0]]]),
    tensor([[0]]),
    temperature=2.0,
)


def _pick(table, ids):
    return table.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _log_softmax(logits, temperature=1.0):
    return (logits / temperature).log_softmax(-1)


gather_logprobs.mutants = {
    "raw logits": lambda z, ids: _pick(z, ids),
    "probabilities": lambda z, ids: _pick(z.softmax(-1), ids),
    "log of softmax": lambda z, ids: _pick(z.softmax(-1).log(), ids),
    "softmax over positions": lambda z, ids: _pick(z.log_softmax(1), ids),
    "shifted by one": lambda z, ids: _pick(_log_softmax(z).roll(1, 1), ids),
    "most likely token": lambda z, ids: _log_softmax(z).amax(-1),
    "temperature ignored": lambda z, ids, temperature=1.0: _pick(_log_softmax(z), ids),
    "temperature multiplies": lambda z, ids, temperature=1.0: _pick(
        _log_softmax(z, 1 / temperature), ids
    ),
    "temperature divides the log-probability": lambda z, ids, temperature=1.0: (
        _pick(_log_softmax(z), ids) / temperature
    ),
}

# --- masked_mean ---------------------------------------------------------------------------

MASK = tensor([[True, True], [True, False]])
masked_mean = exercise(masked.masked_mean)
masked_mean.gives(
    "(1 + 2 + 3) / 3, the 50 is padding",
    "the sum and the divisor both leave out what the mask leaves out",
    tensor(2.0),
    tensor([[1.0, 2.0], [3.0, 50.0]]),
    MASK,
)
masked_mean.gives(
    "every token weighs the same: (2 + 4 + 6 + 10) / 4",
    "a mean of row means lets the tokens of short responses weigh more",
    tensor(5.5),
    tensor([[2.0, 4.0, 6.0], [10.0, 0.0, 0.0]]),
    tensor([[True, True, True], [True, False, False]]),
)
masked_mean.gives(
    "nan in the padding does not come through",
    "0 * nan is nan: select with torch.where instead of multiplying by the mask",
    tensor(2.0),
    tensor([[1.0, 2.0], [3.0, NAN]]),
    MASK,
)
masked_mean.gives(
    "with count=12 it is (1 + 2 + 3) / 12",
    "a micro-batch divides by the whole minibatch's count, not by its own",
    tensor(0.5),
    tensor([[1.0, 2.0], [3.0, 50.0]]),
    MASK,
    count=12,
)


@masked_mean.check(
    "each counted entry gets gradient 1/3, the padding none",
    "the result must stay a tensor that remembers where it came from",
)
def _(candidate):
    wanted = tensor([[1 / 3, 1 / 3], [1 / 3, 0.0]])
    expect_gradient(candidate, wanted, tensor([[1.0, 2.0], [3.0, 50.0]]), MASK)


def _mean(values, mask, count=None):
    return torch.where(mask, values, 0.0).sum() / (mask.sum() if count is None else count)


masked_mean.mutants = {
    "mask ignored": lambda values, mask, count=None: values.mean(),
    "mask inverted": lambda values, mask, count=None: _mean(values, ~mask, count),
    "divides by the padding too": lambda values, mask, count=None: _mean(
        values, mask, count or mask.numel()
    ),
    "sum": lambda values, mask, count=None: _mean(values, mask, 1),
    "mean of row means": lambda values, mask, count=None: (
        torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1)
    ).mean(),
    "product with the mask": lambda values, mask, count=None: (
        (values * mask).sum() / (mask.sum() if count is None else count)
    ),
    "count ignored": lambda values, mask, count=None: _mean(values, mask),
    "gradient cut": lambda values, mask, count=None: _mean(values.detach(), mask, count),
}

# --- masked_var ----------------------------------------------------------------------------

ROW = tensor([[True, True, False]])
masked_var = exercise(masked.masked_var)
masked_var.gives(
    "2 and 6 have variance (4 + 4) / 2",
    "squared distance from the mean, averaged over the counted entries",
    tensor(4.0),
    tensor([[2.0, 6.0, 50.0]]),
    ROW,
)
masked_var.gives(
    "unbiased: (4 + 4) / (2 - 1)",
    "unbiased means dividing by n - 1, where n is the number of counted entries",
    tensor(8.0),
    tensor([[2.0, 6.0, 50.0]]),
    ROW,
    unbiased=True,
)
masked_var.gives(
    "nan in the padding does not come through",
    "mask before squaring, with torch.where",
    tensor(4.0),
    tensor([[2.0, 6.0, NAN]]),
    ROW,
)


def _var(values, mask, unbiased=False):
    mean = _mean(values, mask)
    return _mean((values - mean) ** 2, mask, mask.sum() - int(unbiased))


masked_var.mutants = {
    "mask ignored": lambda values, mask, unbiased=False: values.var(unbiased=unbiased),
    "always unbiased": lambda values, mask, unbiased=False: _var(values, mask, True),
    "never unbiased": lambda values, mask, unbiased=False: _var(values, mask, False),
    "standard deviation": lambda values, mask, unbiased=False: _var(values, mask, unbiased).sqrt(),
    "mean not subtracted": lambda values, mask, unbiased=False: _mean(
        values**2, mask, mask.sum() - int(unbiased)
    ),
    "product with the mask": lambda values, mask, unbiased=False: (
        (((values - _mean(values, mask)) ** 2) * mask).sum() / (mask.sum() - int(unbiased))
    ),
}

# --- masked_whiten -------------------------------------------------------------------------

masked_whiten = exercise(masked.masked_whiten)
masked_whiten.gives(
    "2 and 6 (mean 4, deviation 2) become -1 and 1, the padding 0",
    "subtract the mean, divide by the standard deviation, both over the counted entries only",
    tensor([[-1.0, 1.0, 0.0]]),
    tensor([[2.0, 6.0, 50.0]]),
    ROW,
)
masked_whiten.gives(
    "shift_mean=False keeps the mean: 4 - 1 and 4 + 1",
    "scale the distance from the mean, then add the mean back",
    tensor([[3.0, 5.0, 0.0]]),
    tensor([[2.0, 6.0, 50.0]]),
    ROW,
    shift_mean=False,
)
masked_whiten.gives(
    "unbiased: the variance is 8, so -2 and 2 become -+ 0.707",
    "unbiased=True divides the squares by n - 1",
    tensor([[-(0.5**0.5), 0.5**0.5, 0.0]]),
    tensor([[2.0, 6.0, 50.0]]),
    ROW,
    unbiased=True,
)
masked_whiten.gives(
    "equal values become 0 and not nan",
    "their variance is 0: epsilon goes under the square root",
    tensor([[0.0, 0.0, 0.0]]),
    tensor([[5.0, 5.0, 50.0]]),
    ROW,
)
masked_whiten.gives(
    "nan in the padding becomes 0",
    "select with torch.where; 0 * nan is nan",
    tensor([[-1.0, 1.0, 0.0]]),
    tensor([[2.0, 6.0, NAN]]),
    ROW,
)


def _whiten(values, mask, shift_mean=True, unbiased=False, epsilon=1e-8, power=0.5, out=0.0):
    mean = _mean(values, mask)
    scaled = (values - mean) / (_var(values, mask, unbiased) + epsilon) ** power
    return torch.where(mask, scaled if shift_mean else scaled + mean, out)


masked_whiten.mutants = {
    "mask ignored": lambda v, mask, **o: _whiten(v, mask | True, **o),
    "padding left in the result": lambda v, mask, **o: _whiten(v, mask, out=v, **o),
    "always adds the mean back": lambda v, mask, **o: _whiten(v, mask, **o | {"shift_mean": False}),
    "never adds the mean back": lambda v, mask, **o: _whiten(v, mask, **o | {"shift_mean": True}),
    "always unbiased": lambda v, mask, **o: _whiten(v, mask, **o | {"unbiased": True}),
    "never unbiased": lambda v, mask, **o: _whiten(v, mask, **o | {"unbiased": False}),
    "divides by the variance": partial(_whiten, power=1.0),
    "no epsilon": partial(_whiten, epsilon=0.0),
    "no shift = only divided": lambda v, mask, shift_mean=True: (
        _whiten(v, mask) if shift_mean else torch.where(mask, v / _var(v, mask).sqrt(), 0.0)
    ),
    "product with the mask": lambda v, mask, **o: mask * _whiten(v, mask, out=v, **o),
}

# --- last_token_index and response_mask ----------------------------------------------------

last_token_index = exercise(masked.last_token_index)
last_token_index.gives(
    "rows of 2, 3 and 1 tokens end at 1, 2 and 0",
    "positions count from 0, so the last of n tokens is n - 1; a full row has no False to look for",
    tensor([1, 2, 0]),
    tensor([[True, True, False], [True, True, True], [True, False, False]]),
)
last_token_index.mutants = {
    "number of tokens": lambda mask: mask.sum(-1),
    "one before the last": lambda mask: mask.sum(-1) - 2,
    "last column": lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
    "first False minus 1": lambda mask: (~mask).int().argmax(-1) - 1,
    "first True": lambda mask: mask.int().argmax(-1),
    "float": lambda mask: mask.sum(-1) - 1.0,
}

response_mask = exercise(masked.response_mask)
response_mask.gives(
    "the first EOS (2) counts, nothing after it does",
    "the policy chose the EOS, so it is judged for it; what was sampled afterwards is noise",
    tensor([[True, True, False, False], [True, True, True, False]]),
    tensor([[7, 2, 9, 8], [5, 6, 2, 2]]),
    2,
)
response_mask.gives(
    "a response that never ends counts whole",
    "no EOS was found: then there is nothing to cut",
    tensor([[True, True, True]]),
    tensor([[7, 8, 9]]),
    2,
)


@response_mask.check(
    "an EOS at once counts alone", "an empty answer is one token long: the EOS itself"
)
def _(candidate):
    expect(candidate(tensor([[2, 5, 2, 5]]), 2), tensor([[True, False, False, False]]))


response_mask.mutants = {
    "EOS left out": lambda ids, eos_id: (ids == eos_id).cumsum(-1) == 0,
    "all but EOS": lambda ids, eos_id: ids != eos_id,
    "one token too many": lambda ids, eos_id: (
        torch.nn.functional.pad((ids == eos_id).cumsum(-1)[:, :-2], (2, 0)) == 0
    ),
    "everything": lambda ids, eos_id: ids == ids,
    "up to the last EOS": lambda ids, eos_id: (ids == eos_id).flip(-1).cumsum(-1).flip(-1) > 0,
    "unended responses dropped": lambda ids, eos_id: (
        torch.arange(ids.shape[1]) <= (ids == eos_id).int().argmax(-1, keepdim=True)
    ),
    "second EOS counts": lambda ids, eos_id: (
        (ids == eos_id).cumsum(-1) - (ids == eos_id).int() <= 1
    ),
    "numbers instead of bool": lambda ids, eos_id: (
        (ids == eos_id).cumsum(-1) - (ids == eos_id).int() == 0
    ).int(),
}
