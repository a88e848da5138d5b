"""The losses of all three stages. Losses are minimised; what is a target carries no gradient.

`count` is always the whole minibatch's number of counted entries (see `masked_mean`).
"""

import torch
from torch import Tensor

from minirlhf.maths.kl import k3
from minirlhf.maths.masked import check_shapes, full_precision, masked_mean, zero_masked


def sft_loss(logprobs: Tensor, mask: Tensor, count: float | Tensor | None = None) -> Tensor:
    """Cross-entropy of the demonstrations' response tokens: -mean log pi(y_t).

    Source:  Ouyang et al. 2022, section 3.5 (arXiv:2203.02155).
    Args:    logprobs (B, R), nats; mask (B, R) bool, True = a response token (EOS included).
    Returns: scalar, nats per token.
    Raises:  ValueError where shapes differ or nothing counts.
    >>> sft_loss(torch.tensor([[-1.0, -3.0, -9.0]]), torch.tensor([[1, 1, 0]])).item()
    2.0
    """
    return -masked_mean(logprobs, mask, count)


def ptx_loss(logprobs: Tensor, mask: Tensor, count: float | Tensor | None = None) -> Tensor:
    """Cross-entropy of pretraining text, the "ptx" of PPO-ptx; not yet times ptx_coef.

    The formula of `sft_loss`, on other text and for another reason: to undo what PPO does to
    general language ability. Mean per token, so a ptx_coef fits this normalisation only.

    Source:  Ouyang et al. 2022, eq. 2, third term.
    Args:    logprobs (B, T), nats; mask (B, T) bool, True = counts.
    Returns: scalar, nats per token.
    Raises:  ValueError where shapes differ or nothing counts.
    >>> ptx_loss(torch.tensor([[-1.0, -3.0]]), torch.tensor([[1, 1]])).item()
    2.0
    """
    return -masked_mean(logprobs, mask, count)


def _masked_terms(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """logprobs - old_logprobs and the advantages (B, R), 0 where masked, old and A detached."""
    check_shapes(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        response_mask=response_mask,
    )
    # Masked before exp(): a gradient through exp(inf) would be nan even at weight 0.
    logratio = zero_masked(logprobs - old_logprobs.detach(), response_mask)
    return logratio, zero_masked(advantages.detach(), response_mask)


def _surrogates(logratio: Tensor, advantages: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """The unclipped and the clipped loss per token."""
    if not clip_range > 0:
        raise ValueError(f"clip_range must be positive, got {clip_range}")
    ratio = logratio.exp()
    return -advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float = 0.2,
    count: float | Tensor | None = None,
) -> Tensor:
    """PPO's clipped objective, as a loss.

        ratio = exp(logprobs - old_logprobs)
        loss  = mean of max(-A ratio, -A clip(ratio, 1 - clip_range, 1 + clip_range))

    The advantage multiplies both terms. `old_logprobs` belong to the policy that sampled, not to
    the SFT model. On the first minibatch ratio = 1 and the loss is -mean(A).

    Source:  Schulman et al. 2017, eq. 7 (arXiv:1707.06347).
    Args:    logprobs, old_logprobs (B, R), nats; advantages (B, R); response_mask (B, R) bool,
             True = counts; clip_range > 0.
    Returns: scalar, in the unit of the advantages.
    Raises:  ValueError where shapes differ, nothing counts, or clip_range is not positive.
    >>> old, new = torch.tensor([[0.5]]).log(), torch.tensor([[0.9]]).log()
    >>> round(policy_loss(new, old, torch.tensor([[2.0]]), torch.tensor([[1]])).item(), 4)
    -2.4
    """
    terms = _masked_terms(logprobs, old_logprobs, advantages, response_mask)
    unclipped, clipped = _surrogates(*terms, clip_range)
    return masked_mean(torch.maximum(unclipped, clipped), response_mask, count)


def policy_penalty_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    penalty_coef: float,
    count: float | Tensor | None = None,
) -> Tensor:
    """PPO's other objective: no clip, a KL(old || new) penalty in the loss instead.

        loss = mean of -A ratio + penalty_coef (ratio - 1 - log ratio)

    The KL term is k3 with the tokens drawn from the old policy; here, where the *second*
    argument of the KL is trained, k3 is unbiased in value and in gradient.

    Source:  Schulman et al. 2017, eq. 8 (arXiv:1707.06347).
    Args:    as `policy_loss`; penalty_coef >= 0, steered by `doubling_kl_coef`.
    Returns: scalar, in the unit of the advantages.
    Raises:  ValueError where shapes differ, nothing counts, or penalty_coef is negative.
    >>> old, new = torch.tensor([[0.5]]).log(), torch.tensor([[0.9]]).log()
    >>> loss = policy_penalty_loss(new, old, torch.tensor([[2.0]]), torch.tensor([[1]]), 1.0)
    >>> round(loss.item(), 4)  # -2 * 1.8 + (0.8 - log 1.8)
    -3.3878
    """
    if not penalty_coef >= 0:
        raise ValueError(f"penalty_coef must not be negative, got {penalty_coef}")
    logratio, advantages = _masked_terms(logprobs, old_logprobs, advantages, response_mask)
    penalty = k3(torch.zeros_like(logratio), logratio)  # zeros: k3 sees only the difference
    losses = -advantages * logratio.exp() + penalty_coef * penalty
    return masked_mean(losses, response_mask, count)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    clip_range: float | None = 0.2,
    count: float | Tensor | None = None,
) -> Tensor:
    """Half the squared error of the value, the larger of unclipped and clipped.

        loss = mean of 1/2 max((V - G)^2, (clip(V, V_old +- clip_range) - G)^2)

    Source:  openai/lm-human-preferences; Huang et al., "N implementation details", policy 10.
             The PPO paper has neither the 1/2 nor the clip.
    Args:    values, old_values, returns (B, R), RM units; response_mask (B, R) bool, True =
             counts; clip_range > 0, RM units, or None for no clipping.
    Returns: scalar, squared RM units.
    Raises:  ValueError where shapes differ, nothing counts, or clip_range is not positive.
    >>> one = torch.tensor([[1.0]])
    >>> round(value_loss(1.5 * one, one, 2 * one, one.bool()).item(), 4)  # (1.2 - 2)^2 / 2
    0.32
    """
    check_shapes(values=values, old_values=old_values, returns=returns, response_mask=response_mask)
    values, old_values, returns = (
        zero_masked(tensor, response_mask)
        for tensor in (values, old_values.detach(), returns.detach())
    )
    errors = (values - returns) ** 2
    if clip_range is not None:
        if not clip_range > 0:
            raise ValueError(f"clip_range must be positive or None, got {clip_range}")
        clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
        errors = torch.maximum(errors, (clipped - returns) ** 2)
    return masked_mean(errors / 2, response_mask, count)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the next-token distribution: 0 = certain, log V = uniform.

    Args:    logits (..., V), already divided by the temperature; -inf = a forbidden token.
    Returns: (...), nats (divide by ln 2 for bits).
    >>> round(entropy(torch.zeros(8)).item(), 4)  # log 8
    2.0794
    """
    logits = full_precision(logits)
    # log Z - E[z]: one (..., V) tensor less than -sum p log p, and finite where p is 0
    finite = logits.where(logits > -torch.inf, 0.0)
    return logits.logsumexp(-1) - torch.linalg.vecdot(logits.softmax(-1), finite)


@torch.no_grad()
def clip_fraction(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float = 0.2,
) -> Tensor:
    """Share of tokens whose clipped loss is the larger: those that give no gradient.

    Not the share with |ratio - 1| > clip_range: a ratio that moved the wrong way is not held.

    Source:  openai/lm-human-preferences (mean of pg_losses2 > pg_losses).
    Args:    as `policy_loss`.
    Returns: scalar in [0, 1].
    Raises:  ValueError as `policy_loss`.
    >>> old, new = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.9]]).log()
    >>> clip_fraction(new, old, torch.tensor([[2.0, -2.0]]), torch.tensor([[1, 1]])).item()
    0.5
    """
    terms = _masked_terms(logprobs, old_logprobs, advantages, response_mask)
    unclipped, clipped = _surrogates(*terms, clip_range)
    return masked_mean((clipped > unclipped).float(), response_mask)
