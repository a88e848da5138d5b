"""The losses of all stages. Losses are minimised; what is a target carries no gradient.

`count` is always the whole minibatch's number of counted entries (see `masked_mean`).
"""

import torch
from torch import Tensor

from minirlhf.maths.kl import k3
from minirlhf.maths.masked import (
    as_mask,
    check_shapes,
    full_precision,
    masked_mean,
    zero_masked,
)


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


def _surrogates(
    logratio: Tensor, advantages: Tensor, clip_range: float | None
) -> tuple[Tensor, Tensor]:
    """The unclipped and the clipped loss per token."""
    ratio = logratio.exp()
    unclipped = -advantages * ratio
    if clip_range is None:
        return unclipped, unclipped
    if not clip_range > 0:
        raise ValueError(f"clip_range must be positive or None, got {clip_range}")
    return unclipped, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    clip_range: float | None = 0.2,
    count: float | Tensor | None = None,
) -> Tensor:
    """PPO's clipped objective, as a loss.

        ratio = exp(logprobs - old_logprobs)
        loss  = mean of max(-A ratio, -A clip(ratio, 1 - clip_range, 1 + clip_range))

    The advantage multiplies both terms. `old_logprobs` belong to the policy that sampled, not to
    the SFT model. On the first minibatch ratio = 1 and the loss is -mean(A).

    Source:  Schulman et al. 2017, eq. 7 (arXiv:1707.06347).
    Args:    logprobs, old_logprobs (B, R), nats; advantages (B, R); response_mask (B, R) bool,
             True = counts; clip_range > 0, or None for no clipping: mean of -A ratio.
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


def reinforce_loss(
    logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    count: float | Tensor | None = None,
) -> Tensor:
    """REINFORCE on whole responses: all tokens of a response are one action.

        loss = -mean over responses of A log pi(y|x),   log pi(y|x) = sum_t log pi(y_t)

    Its value says nothing; its gradient is the policy gradient, for samples of the policy as it is.

    Source:  Williams 1992; Ahmadian et al. 2024, section 3 (arXiv:2402.14740).
    Args:    logprobs (B, R), nats; advantages (B,); response_mask (B, R) bool, True = counts;
             count = number of responses in the whole minibatch.
    Returns: scalar, advantage units times nats.
    Raises:  ValueError where shapes differ or count <= 0.
    >>> logprobs, mask = torch.tensor([[-1.0, -2.0], [-4.0, -9.0]]), torch.tensor([[1, 1], [1, 0]])
    >>> reinforce_loss(logprobs, torch.tensor([2.0, -1.0]), mask).item()  # (2 * 3 - 1 * 4) / 2
    1.0
    """
    whole = zero_masked(logprobs, response_mask).sum(1)
    check_shapes(responses=whole, advantages=advantages)
    return -masked_mean(advantages.detach() * whole, torch.ones_like(whole).bool(), count)


def token_weights(response_mask: Tensor, mean: str = "response", longest: int = 1) -> Tensor:
    """What each token weighs in GRPO's loss; three papers, three means.

        "response"  1 / (B length)   GRPO: responses weigh the same, so a long one's tokens less
        "token"     1 / tokens       DAPO, and PPO here: tokens weigh the same, a long response more
        "constant"  1 / (B longest)  Dr. GRPO: the same, however long responses have turned out

    Under "response" a long wrong answer is punished less per token than a short one, which rewards
    length where answers are wrong (Liu et al. 2025).

    Source:  Shao et al. 2024, eq. 3 (arXiv:2402.03300); Yu et al. 2025 (2503.14476); Liu et al.
             2025 (2503.20783).
    Args:    response_mask (B, R) bool, True = counts; longest: tokens that a response could have.
    Returns: (B, R) float32, 0 where masked.
    Raises:  ValueError for another mean, or a float mask.
    >>> token_weights(torch.tensor([[1, 1, 0], [1, 0, 0]])).tolist()
    [[0.25, 0.25, 0.0], [0.5, 0.0, 0.0]]
    """
    mask = as_mask(response_mask).float()
    if mean == "response":
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
    if mean == "token":
        return mask / mask.sum().clamp(min=1)
    if mean == "constant":
        return mask / (len(mask) * longest)
    raise ValueError(f"mean must be 'response', 'token' or 'constant', got {mean!r}")


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_range: float | None = 0.2,
    kl_coef: float = 0.04,
) -> Tensor:
    """GRPO's objective, as a loss: PPO's clipped one, one advantage per response, KL beside it.

        loss = sum of weight (max(-A ratio, -A clip(ratio)) + kl_coef k3)
        k3   = pi_ref / pi - 1 - log(pi_ref / pi)

    PPO has the KL in the reward, so that a token also pays for those after it; here each token pays
    for itself, and k3's gradient is not that of the KL (it is k2's which is).

    Source:  Shao et al. 2024, eqs. 3 and 4 (arXiv:2402.03300).
    Args:    logprobs, old_logprobs, ref_logprobs (B, R), nats; advantages (B,); weights (B, R) of
             `token_weights` for the whole minibatch, 0 = does not count; clip_range > 0, or None
             for no clipping; kl_coef >= 0, advantage units per nat.
    Returns: scalar, in the unit of the advantages.
    Raises:  ValueError where shapes differ, clip_range is not positive or kl_coef is negative.
    >>> old, new, ref = (torch.tensor([[p]]).log() for p in (0.5, 0.9, 0.45))
    >>> loss = grpo_loss(new, old, ref, torch.tensor([2.0]), torch.tensor([[1.0]]), kl_coef=1.0)
    >>> round(loss.item(), 4)  # -2 * 1.2 + (0.5 - 1 + log 2)
    -2.2069
    """
    if not kl_coef >= 0:
        raise ValueError(f"kl_coef must not be negative, got {kl_coef}")
    check_shapes(logprobs=logprobs, ref_logprobs=ref_logprobs, weights=weights)
    mask, advantages = weights > 0, advantages[:, None].expand(logprobs.shape)
    terms = _masked_terms(logprobs, old_logprobs, advantages, mask)
    unclipped, clipped = _surrogates(*terms, clip_range)
    ref_logratio = zero_masked(logprobs - ref_logprobs.detach(), mask)
    penalty = k3(ref_logratio, torch.zeros_like(ref_logratio))  # k3 sees only the difference
    return (weights * (torch.maximum(unclipped, clipped) + kl_coef * penalty)).sum()


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
    clip_range: float | None = 0.2,
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
