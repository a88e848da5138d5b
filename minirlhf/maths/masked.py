"""Masked reductions: what counts is True, and what does not count adds exactly nothing."""

import torch
from torch import Tensor


def check_shapes(**tensors: Tensor) -> None:
    """Raise ValueError, naming every shape, unless all tensors have the same one.

    >>> check_shapes(rewards=torch.zeros(2, 3), values=torch.zeros(2, 4))
    Traceback (most recent call last):
        ...
    ValueError: shapes differ: rewards (2, 3), values (2, 4)
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes differ: {shapes}")


def full_precision(values: Tensor) -> Tensor:
    """Half-precision values as float32: log-probabilities in 16 bits carry one good digit."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def as_mask(mask: Tensor) -> Tensor:
    """The mask as bool. A float mask is refused: additive ones mean 0 = counts, the opposite."""
    if mask.is_floating_point():
        raise ValueError(f"a mask must be bool, True = counts, but this one is {mask.dtype}")
    return mask.bool()


def zero_masked(values: Tensor, mask: Tensor) -> Tensor:
    """Values with 0 where the mask is False, whatever stood there.

    torch.where and not a product, because 0 * inf is nan, forwards and backwards.

    >>> zero_masked(torch.tensor([1.0, float("nan")]), torch.tensor([True, False])).tolist()
    [1.0, 0.0]
    """
    check_shapes(values=values, mask=mask)
    return torch.where(as_mask(mask), values, 0.0)


def gather_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token that was drawn, under logits / temperature.

        log pi(id) = z_id - log sum_v exp(z_v),   z = logits / temperature

    Written as a difference, so that no second (B, R, V) tensor is kept.

    Source:  Huang et al., "The N implementation details of RLHF with PPO", policy detail 1.
    Args:    logits (B, R, V), where logits[:, t] predicts ids[:, t]; ids (B, R) int.
    Returns: (B, R), nats, float32 or better.
    Raises:  ValueError where shapes do not fit or the temperature is not positive.
    >>> gather_logprobs(torch.tensor([[[0.0, 0.0]]]), torch.tensor([[1]])).exp().item()
    0.5
    """
    if logits.shape[:-1] != ids.shape:
        shapes = f"logits {tuple(logits.shape)}, ids {tuple(ids.shape)}"
        raise ValueError(f"ids must have the shape of logits without its last axis: {shapes}")
    if not temperature > 0:  # not `<=`, which lets nan through
        raise ValueError(f"temperature must be positive, got {temperature}")
    logits = full_precision(logits)
    if temperature != 1:  # a (B, R, V) tensor is worth sparing
        logits = logits / temperature
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def masked_mean(values: Tensor, mask: Tensor, count: float | Tensor | None = None) -> Tensor:
    """Sum over the counted entries, divided by `count` or by how many there are.

    For micro-batches give `count` = the number of counted entries in the whole minibatch: the
    parts then add up to the minibatch's mean exactly, and so do their gradients. The mean of
    means does not, because micro-batches hold different numbers of tokens.

    Args:    values, mask of one shape, True = counts; count > 0.
    Returns: scalar, in the unit of values; 0 for a micro-batch without a counted entry.
    Raises:  ValueError where shapes differ, count <= 0, or nothing counts and count is None.
    >>> masked_mean(torch.tensor([1.0, 3.0, 50.0]), torch.tensor([True, True, False])).item()
    2.0
    """
    total = zero_masked(values, mask).sum()
    if count is None:
        count = as_mask(mask).sum()
        if count == 0:
            raise ValueError("the mask is empty: nothing to take the mean of")
    elif not count > 0:
        raise ValueError(f"count must be positive, got {count}")
    return total / count


def masked_var(values: Tensor, mask: Tensor, unbiased: bool = False) -> Tensor:
    """Variance over the counted entries: divided by n, or by n - 1 if `unbiased`.

    Args:    values, mask of one shape, True = counts.
    Returns: scalar, in the squared unit of values.
    Raises:  ValueError where shapes differ, nothing counts, or `unbiased` with a single entry.
    >>> masked_var(torch.tensor([1.0, 3.0, 50.0]), torch.tensor([True, True, False])).item()
    1.0
    """
    values = zero_masked(values, mask)
    variance = masked_mean((values - masked_mean(values, mask)) ** 2, mask)
    if not unbiased:
        return variance
    n = as_mask(mask).sum()
    if n == 1:
        raise ValueError("the unbiased variance of a single entry is not defined")
    return variance * n / (n - 1)


def masked_whiten(
    values: Tensor,
    mask: Tensor,
    shift_mean: bool = True,
    unbiased: bool = False,
    epsilon: float = 1e-8,
) -> Tensor:
    """Scale the counted entries to variance 1 and, if `shift_mean`, move their mean to 0.

    With shift_mean=False the mean is added back after scaling: for rewards, whose sign matters.
    OpenAI's code uses the biased variance, TRL's the unbiased one.

    Source:  openai/lm-human-preferences, utils/core.py, whiten (arXiv:1909.08593).
    Args:    values, mask of one shape, True = counts.
    Returns: values' shape, 0 where masked.
    Raises:  ValueError where shapes differ or nothing counts.
    >>> masked_whiten(torch.tensor([1.0, 3.0, 50.0]), torch.tensor([1, 1, 0])).tolist()
    [-1.0, 1.0, 0.0]
    """
    values = zero_masked(values, mask)
    mean = masked_mean(values, mask)
    whitened = (values - mean) * torch.rsqrt(masked_var(values, mask, unbiased) + epsilon)
    return zero_masked(whitened if shift_mean else whitened + mean, mask)


def last_token_index(mask: Tensor) -> Tensor:
    """Index of each row's last counted token: where the score lands.

    Args:    mask (B, R), True = counts.
    Returns: (B,) int64.
    Raises:  ValueError, naming the row, where a row is empty or has a hole (False between Trues).
    >>> last_token_index(torch.tensor([[True, True, False], [True, True, True]])).tolist()
    [1, 2]
    """
    mask = as_mask(mask)
    previous = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    runs = (mask & ~previous).sum(-1)
    if (runs != 1).any():
        row = int((runs != 1).nonzero()[0])
        raise ValueError(f"mask row {row} " + ("has a hole" if runs[row] > 1 else "is empty"))
    return torch.where(mask, torch.arange(mask.shape[1], device=mask.device), -1).amax(-1)


def response_mask(response_ids: Tensor, eos_id: int) -> Tensor:
    """True up to and including the first end-of-sequence token, False after it.

    The EOS counts because the policy chose it; what a fixed-length sampler drew after it does
    not. A response without EOS counts to its end.

    Args:    response_ids (B, R) int.
    Returns: (B, R) bool.
    >>> response_mask(torch.tensor([[7, 2, 2, 9], [7, 8, 9, 7]]), eos_id=2).int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 1]]
    """
    is_eos = (response_ids == eos_id).long()
    return is_eos.cumsum(-1) - is_eos == 0
