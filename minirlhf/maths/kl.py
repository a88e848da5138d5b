"""KL divergence: three per-token estimators, the exact sum, and what steers its coefficient."""

import math

import torch
from torch import Tensor

from minirlhf.maths.masked import check_shapes, full_precision


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The log-ratio: unbiased, often negative for a single sample, and what PPO's reward uses.

        k1 = log pi(x) - log pi_ref(x),   x drawn from pi

    As a *loss* it teaches nothing: the mean of its gradient is 0. It belongs in the reward.

    Source:  Schulman 2020, joschu.net/blog/kl-approx.html.
    Args:    logprobs, ref_logprobs, any one shape, nats.
    Returns: the same shape, nats; its mean over samples from pi is KL(pi || pi_ref).
    Raises:  ValueError where shapes differ.
    >>> k1(torch.tensor([-1.0]), torch.tensor([-3.0])).tolist()
    [2.0]
    """
    check_shapes(logprobs=logprobs, ref_logprobs=ref_logprobs)
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio: biased but never negative; its on-policy gradient is right.

    Source:  Schulman 2020; PPO's `approx_kl` is its mean with the sampling policy as reference.
    Args:    logprobs, ref_logprobs, any one shape, nats.
    Returns: the same shape, >= 0.
    Raises:  ValueError where shapes differ.
    >>> k2(torch.tensor([-1.0]), torch.tensor([-3.0])).tolist()
    [2.0]
    """
    return k1(logprobs, ref_logprobs) ** 2 / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased and never negative: k1 plus a term whose mean is 0.

        k3 = pi_ref(x) / pi(x) - 1 - log(pi_ref(x) / pi(x)),   x drawn from pi

    Source:  Schulman 2020.
    Args:    logprobs, ref_logprobs, any one shape, nats.
    Returns: the same shape, >= 0, nats.
    Raises:  ValueError where shapes differ.
    >>> round(k3(torch.tensor([-1.0]), torch.tensor([-3.0])).item(), 4)  # exp(-2) - 1 + 2
    1.1353
    """
    log_ratio = k1(logprobs, ref_logprobs)
    return torch.expm1(-log_ratio) + log_ratio


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(pi || pi_ref) summed over the whole vocabulary, no sampling.

        sum_v pi(v) (log pi(v) - log pi_ref(v)),   with 0 log 0 = 0

    Args:    logits, ref_logits (..., V), already divided by the temperature.
    Returns: (...), nats, >= 0; inf where pi allows a token that pi_ref forbids.
    Raises:  ValueError where shapes differ.
    >>> round(exact_kl(torch.tensor([0.0, 0.0]), torch.tensor([2.0, 0.0])).item(), 4)
    0.4338
    """
    check_shapes(logits=logits, ref_logits=ref_logits)
    logprobs = full_precision(logits).log_softmax(-1)
    ref_logprobs = full_precision(ref_logits).log_softmax(-1)
    possible = logprobs > -torch.inf
    return (logprobs.exp() * torch.where(possible, logprobs - ref_logprobs, 0.0)).sum(-1)


def best_of_n_kl(n: int) -> float:
    """How far picking the best of n samples moves from the sampler: log n - (n - 1) / n.

    Exact only when no two samples can have equal reward; otherwise an upper bound.

    Source:  Stiennon et al. 2020, appendix G.3 (arXiv:2009.01325); Beirami et al. 2024.
    Args:    n >= 1.
    Returns: nats.
    Raises:  ValueError for n < 1.
    >>> round(best_of_n_kl(64), 4)
    3.1745
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return math.log(n) - (n - 1) / n


def _check_positive(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def proportional_kl_coef(
    kl_coef: float, observed_kl: float, target_kl: float, episodes: int, horizon: int
) -> float:
    """Ziegler's controller of the KL penalty in the *reward*.

        error = clip(observed / target - 1, -0.2, 0.2)
        kl_coef <- kl_coef (1 + error * episodes / horizon)

    Source:  Ziegler et al. 2019, section 2.2, and its code: start 0.15, target 6, horizon 10,000.
    Args:    observed_kl, target_kl, nats per response against the reference; episodes since the
             last call; horizon, episodes.
    Returns: the new kl_coef; it changes by at most a factor 1 +- 0.2 episodes / horizon.
    Raises:  ValueError where a setting is not positive.
    >>> round(proportional_kl_coef(0.15, 0.0, target_kl=6.0, episodes=512, horizon=10_000), 6)
    0.148464
    """
    _check_positive(target_kl=target_kl, episodes=episodes, horizon=horizon)
    error = min(max(observed_kl / target_kl - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)


def doubling_kl_coef(kl_coef: float, observed_kl: float, target_kl: float) -> float:
    """PPO-penalty's controller of the KL(old || new) coefficient in the *loss*.

    Not to be mixed up with the penalty against the SFT model: this one is a trust region.

    Source:  Schulman et al. 2017, section 4 (arXiv:1707.06347).
    Args:    observed_kl, target_kl, nats per token between the old and the new policy.
    Returns: half the coefficient below target / 1.5, double above 1.5 target, else unchanged.
    Raises:  ValueError where the target is not positive.
    >>> [doubling_kl_coef(1.0, kl, target_kl=0.03) for kl in (0.01, 0.03, 0.06)]
    [0.5, 1.0, 2.0]
    """
    _check_positive(target_kl=target_kl)
    if observed_kl < target_kl / 1.5:
        return kl_coef / 2
    return kl_coef * 2 if observed_kl > target_kl * 1.5 else kl_coef
