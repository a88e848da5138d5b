"""From one score per response to an advantage, per token (PPO) or per response (RLOO, GRPO)."""

import torch
from torch import Tensor

from minirlhf.maths.masked import check_shapes, last_token_index, zero_masked


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor, kl_coef: float
) -> Tensor:
    """What PPO maximises: the KL penalty at every token, the score at the last one.

        r_t = -kl_coef (log pi(y_t) - log pi_ref(y_t)),   r_last += score

    Summed over a response this is R(x, y) = score - kl_coef log(pi(y|x) / pi_ref(y|x)).
    The log-probabilities are those of sampling time: computed once per rollout.

    Source:  Ouyang et al. 2022, eq. 2 (arXiv:2203.02155); placement as in Ziegler et al.'s code.
    Args:    scores (B,), RM units; logprobs, ref_logprobs (B, R), nats; response_mask (B, R)
             bool, True = counts; kl_coef >= 0, RM units per nat.
    Returns: rewards (B, R), RM units, 0 where masked.
    Raises:  ValueError where shapes differ, kl_coef < 0, or a mask row is empty or has a hole.
    >>> logprobs, ref_logprobs = torch.tensor([[-1.0, -1.0]]), torch.tensor([[-3.0, -1.0]])
    >>> token_rewards(torch.tensor([5.0]), logprobs, ref_logprobs, torch.tensor([[1, 1]]), 0.5)
    tensor([[-1.,  5.]])
    """
    check_shapes(logprobs=logprobs, ref_logprobs=ref_logprobs, response_mask=response_mask)
    if scores.shape != logprobs.shape[:1]:
        raise ValueError(
            f"scores must be ({len(logprobs)},), one per response, got {tuple(scores.shape)}"
        )
    if not kl_coef >= 0:
        raise ValueError(f"kl_coef must not be negative, got {kl_coef}")
    penalty = -kl_coef * zero_masked(logprobs - ref_logprobs, response_mask)
    last = last_token_index(response_mask).unsqueeze(-1)
    return penalty.scatter_add(1, last, scores.unsqueeze(-1).to(penalty.dtype))


@torch.no_grad()  # targets: a gradient through them would train the value model to cheat
def gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    discount: float = 1.0,
    gae_lambda: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates over response tokens.

        delta_t = r_t + discount * V(s_{t+1}) - V(s_t),   V after the last token = 0
        A_t     = delta_t + discount * gae_lambda * A_{t+1}
        return  = A_t + V(s_t)

    Source:  Schulman et al. 2016, eq. 16 (arXiv:1506.02438).
    Args:    rewards, values (B, R), RM units, V(s_t) = value of the state before token t;
             response_mask (B, R) bool, True = counts; discount, gae_lambda in [0, 1].
    Returns: advantages, returns (B, R), RM units, not whitened, without gradient, 0 where masked.
    Raises:  ValueError where shapes differ, a mask row is empty or has a hole, or a factor is
             outside [0, 1].
    >>> rewards, values = torch.tensor([[0.0, 2.0, 9.0]]), torch.tensor([[1.0, 1.5, 9.0]])
    >>> advantages, returns = gae(rewards, values, torch.tensor([[1, 1, 0]]), gae_lambda=1.0)
    >>> advantages.tolist(), returns.tolist()
    ([[1.0, 0.5, 0.0]], [[2.0, 2.0, 0.0]])
    """
    check_shapes(rewards=rewards, values=values, response_mask=response_mask)
    for name, factor in (("discount", discount), ("gae_lambda", gae_lambda)):
        if not 0 <= factor <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {factor}")
    last_token_index(response_mask)  # refuses empty rows and holes
    rewards, values = zero_masked(rewards, response_mask), zero_masked(values, response_mask)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        next_advantage = delta + discount * gae_lambda * next_advantage
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    advantages = zero_masked(advantages, response_mask)
    return advantages, advantages + values


def _check_groups(rewards: Tensor) -> None:
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards must be (B, K) with K >= 2 samples to a prompt, got {tuple(rewards.shape)}"
        )


@torch.no_grad()
def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """RLOO: a sample's reward less the mean reward of the same prompt's other samples.

        A_i = R_i - 1 / (K - 1) sum_{j != i} R_j

    Its own reward is no part of a sample's baseline, so the baseline does not depend on what it is
    a baseline for, and leaves the policy gradient unbiased. With it, the gradient would be
    (K - 1) / K as long: at K = 2 by half.

    Source:  Kool et al. 2019; Ahmadian et al. 2024, section 3 (arXiv:2402.14740).
    Args:    rewards (B, K), RM units: K samples to each of B prompts.
    Returns: (B, K), RM units, without gradient; each row sums to 0.
    Raises:  ValueError for another shape, or K < 2.
    >>> leave_one_out_advantages(torch.tensor([[1.0, 2.0, 6.0]])).tolist()
    [[-3.0, -1.5, 4.5]]
    """
    _check_groups(rewards)
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


@torch.no_grad()
def group_advantages(rewards: Tensor, scale: bool = True, epsilon: float = 1e-4) -> Tensor:
    """GRPO: how many standard deviations a sample's reward is above the mean of its prompt's.

        A_i = (r_i - mean r) / (std r + epsilon)

    Divided by the spread, a prompt whose samples hardly differ weighs as much as one whose samples
    do; Dr. GRPO (arXiv:2503.20783) does without, scale=False. The paper does not say which standard
    deviation; this one divides by K - 1, as TRL's and verl's.

    Source:  Shao et al. 2024, section 4.1.2 (arXiv:2402.03300).
    Args:    rewards (B, K), RM units: K samples to each of B prompts; epsilon, RM units.
    Returns: (B, K), 1 (RM units if not scaled), without gradient; 0 where a prompt's rewards are
             all the same.
    Raises:  ValueError for another shape, or K < 2.
    >>> [round(a, 3) for a in group_advantages(torch.tensor([[1.0, 2.0, 6.0]]))[0].tolist()]
    [-0.756, -0.378, 1.134]
    """
    _check_groups(rewards)
    advantages = rewards - rewards.mean(1, keepdim=True)
    return advantages / (rewards.std(1, keepdim=True) + epsilon) if scale else advantages
