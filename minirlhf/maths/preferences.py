"""From rankings to likelihoods: pairs, Bradley-Terry, Plackett-Luce, best-of-K, tie models.

Everywhere: ranks 1 = best, equal = tied, 0 = an empty slot, so that K may vary in a batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from minirlhf.maths.masked import check_shapes, masked_mean, zero_masked


def ranking_to_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """The comparisons in one ranking: (index of the better, index of the worse) response.

    Source:  Ouyang et al. 2022, section 3.5 and appendix C.2 (arXiv:2203.02155): ties dropped.
    Args:    ranks, K whole numbers; ties and empty slots give no pair.
    Returns: at most K (K - 1) / 2 pairs, in the order of the responses.
    Raises:  ValueError, naming it, for a rank that is no whole number or below 0.
    >>> ranking_to_pairs([3, 3, 2, 1])  # D > C > A = B
    [(2, 0), (3, 0), (2, 1), (3, 1), (3, 2)]
    """
    for rank in ranks:
        if rank % 1 or rank < 0:
            raise ValueError(f"ranks are whole numbers from 1, or 0 for an empty slot; got {rank}")
    return [
        (i, j) if ranks[i] < ranks[j] else (j, i)
        for i in range(len(ranks))
        for j in range(i + 1, len(ranks))
        if ranks[i] and ranks[j] and ranks[i] != ranks[j]
    ]


def bradley_terry_loss(
    chosen_scores: Tensor, rejected_scores: Tensor, margin: float | Tensor = 0.0
) -> Tensor:
    """Negative log-likelihood that the chosen response wins, per pair.

        -log sigmoid(r_chosen - r_rejected - margin)

    ln 2 = 0.693 when the scores are equal; only score differences matter.

    Source:  Ouyang et al. 2022, eq. 1; the margin is Llama 2's (arXiv:2307.09288, eq. 2).
    Args:    chosen_scores, rejected_scores (M,), RM units; margin, RM units.
    Returns: (M,), nats.
    Raises:  ValueError where shapes differ.
    >>> round(bradley_terry_loss(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)
    0.6931
    """
    check_shapes(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
    return -logsigmoid(chosen_scores - rejected_scores - margin)


def _compare(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with 0 in empty slots (B, K); better, tied (B, K, K) bool: i against j."""
    check_shapes(scores=scores, ranks=ranks)
    ranked = ranks > 0
    both = ranked[:, :, None] & ranked[:, None, :]
    better = both & (ranks[:, :, None] < ranks[:, None, :])
    tied = both & (ranks[:, :, None] == ranks[:, None, :])
    return zero_masked(scores, ranked), better, tied


def _mean_over_prompts(losses: Tensor, usable: Tensor, count: float | Tensor | None) -> Tensor:
    if count is None and not usable.any():
        raise ValueError("no ranking here prefers one response to another: nothing to learn")
    return masked_mean(losses, usable, count)


def ranking_loss(
    scores: Tensor,
    ranks: Tensor,
    ties: str = "drop",
    count: float | Tensor | None = None,
    theta: float = 1.5,
) -> Tensor:
    """The reward model's loss: mean over a prompt's pairs, then over prompts.

        loss = mean over prompts of mean over pairs of -log sigmoid(r_better - r_worse)

    Every prompt weighs the same, however many pairs it has; pooling all pairs would let K = 9
    (36 pairs) outweigh K = 4 (6 pairs). Ties: "drop" as in the paper; "half" counts a tie as
    half a win for each side (Christiano et al. 2017); "rao_kupper" gives it its own probability.

    Source:  Ouyang et al. 2022, eq. 1 (arXiv:2203.02155).
    Args:    scores (B, K), RM units; ranks (B, K) int; count = number of prompts in the whole
             batch that have a pair, for micro-batches; theta > 1, for "rao_kupper" only.
    Returns: scalar, nats per pair.
    Raises:  ValueError where shapes differ, `ties` is unknown, or no prompt has a pair.
    >>> scores, ranks = torch.tensor([[5.4, 5.4, 8.2, 9.4]]), torch.tensor([[3, 3, 2, 1]])
    >>> round(ranking_loss(scores, ranks).item(), 4)
    0.0835
    """
    if ties not in ("drop", "half", "rao_kupper"):
        raise ValueError(f"ties must be 'drop', 'half' or 'rao_kupper', got {ties!r}")
    if ties == "rao_kupper" and not theta > 1:
        raise ValueError(f"theta must be above 1, or ties have no probability; got {theta}")
    scores, better, tied = _compare(scores, ranks)
    delta = scores[:, :, None] - scores[:, None, :]
    # softplus(log theta - delta) = -log P(i beats j); theta = 1 is Bradley-Terry.
    shift = math.log(theta) if ties == "rao_kupper" else 0.0
    losses = zero_masked(softplus(shift - delta), better).sum((1, 2))
    pairs = better.sum((1, 2))
    if ties != "drop":
        tied = tied.triu(1)
        draw = softplus(shift - delta) + softplus(shift + delta)
        draw = draw / 2 if ties == "half" else draw - math.log(theta**2 - 1)
        losses = losses + zero_masked(draw, tied).sum((1, 2))
        pairs = pairs + tied.sum((1, 2))
    return _mean_over_prompts(losses / pairs.clamp(min=1), pairs > 0, count)


def dpo_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    ranks: Tensor,
    beta: float,
    count: float | Tensor | None = None,
) -> Tensor:
    """DPO: the reward model's loss, with the policy as a reward model of its own.

        r(x, y) = beta (log pi(y|x) - log pi_ref(y|x))
        loss    = mean over prompts of mean over pairs of -log sigmoid(r_better - r_worse)

    For that reward the policy is the best one at KL price beta, whatever pi is: so fitting r to the
    rankings is fitting the policy. While pi = pi_ref the loss is ln 2.

    Source:  Rafailov et al. 2023, eq. 7 (arXiv:2305.18290); all pairs of a ranking as in
             `ranking_loss`.
    Args:    logprobs, ref_logprobs (B, K), nats, of whole responses: sums over their tokens; ranks
             (B, K) int; beta > 0, RM units per nat; count as in `ranking_loss`.
    Returns: scalar, nats per pair.
    Raises:  ValueError where shapes differ, beta is not positive, or no prompt has a pair.
    >>> logprobs, ref_logprobs = torch.tensor([[-1.0, -4.0]]), torch.tensor([[-2.0, -3.0]])
    >>> loss = dpo_loss(logprobs, ref_logprobs, torch.tensor([[1, 2]]), beta=0.5)
    >>> round(loss.item(), 4)  # log(1 + exp(-0.5 * (1 + 1)))
    0.3133
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    check_shapes(logprobs=logprobs, ref_logprobs=ref_logprobs, ranks=ranks)
    return ranking_loss(beta * (logprobs - ref_logprobs.detach()), ranks, count=count)


def _contest_losses(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """-log P(i is picked from itself and all strictly worse), and whether any is worse (B, K)."""
    scores, better, _ = _compare(scores, ranks)
    rivals = better | torch.eye(ranks.shape[1], dtype=torch.bool, device=ranks.device)
    # The lowest finite number and not -inf: exp() is 0 all the same and gradients stay finite.
    rival_scores = torch.where(rivals, scores[:, None, :], torch.finfo(scores.dtype).min)
    return rival_scores.logsumexp(-1) - scores, better.any(-1)


def plackett_luce_loss(
    scores: Tensor, ranks: Tensor, count: float | Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of the whole ranking: pick the best, then the best of the rest, ...

        P(ranking) = prod_k exp(r_k) / sum_{j not better than k} exp(r_j)

    Equals Bradley-Terry for K = 2. InstructGPT's pair average is another (composite) likelihood.
    Tied responses are not compared with each other, as in `ranking_loss`.

    Source:  Plackett 1975; Luce 1959.
    Args:    scores (B, K), RM units; ranks (B, K) int; count as in `ranking_loss`.
    Returns: scalar, nats per ranking (not per pair), mean over prompts.
    Raises:  ValueError where shapes differ or no prompt prefers one response to another.
    >>> scores, ranks = torch.tensor([[2.0, 1.0, 0.3, -0.7]]), torch.tensor([[1, 2, 3, 4]])
    >>> round(plackett_luce_loss(scores, ranks).item(), 4)
    1.3127
    """
    losses, has_worse = _contest_losses(scores, ranks)
    return _mean_over_prompts(zero_masked(losses, has_worse).sum(-1), has_worse.any(-1), count)


def best_of_k_loss(scores: Tensor, ranks: Tensor, count: float | Tensor | None = None) -> Tensor:
    """Cross-entropy of picking the best response: softmax over the scores of all K.

    Ziegler et al.'s labelers only picked the best of 4. Several tied winners each play against
    the strictly worse ones, and their losses are averaged.

    Source:  Ziegler et al. 2019, eq. 1 with its sign put right (arXiv:1909.08593).
    Args:    scores (B, K), RM units; ranks (B, K) int; count as in `ranking_loss`.
    Returns: scalar, nats per prompt.
    Raises:  ValueError where shapes differ or no prompt prefers one response to another.
    >>> scores, ranks = torch.tensor([[2.0, 1.0, 0.3, -0.7]]), torch.tensor([[1, 2, 3, 4]])
    >>> round(best_of_k_loss(scores, ranks).item(), 4)
    0.481
    """
    losses, has_worse = _contest_losses(scores, ranks)
    best_rank = torch.where(ranks > 0, ranks, ranks.amax() + 1).amin(-1, keepdim=True)
    winners = has_worse & (ranks == best_rank)
    losses = zero_masked(losses, winners).sum(-1) / winners.sum(-1).clamp(min=1)
    return _mean_over_prompts(losses, winners.any(-1), count)


def rao_kupper_probs(delta: Tensor, theta: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
    """Win, tie and loss under Rao and Kupper: a win needs a lead of about log theta.

        P(win) = sigmoid(delta - log theta),  P(tie) = (theta^2 - 1) P(win) P(loss)

    Source:  Rao and Kupper 1967.
    Args:    delta, score difference r_i - r_j, any shape, RM units; theta >= 1 (1 = no ties).
    Returns: win, tie, loss of i against j, each of delta's shape; they sum to 1.
    Raises:  ValueError for theta < 1.
    >>> [round(p.item(), 3) for p in rao_kupper_probs(torch.tensor(0.8), theta=1.5)]
    [0.597, 0.172, 0.231]
    """
    if not theta >= 1:
        raise ValueError(f"theta must be at least 1, got {theta}")
    win, loss = torch.sigmoid(delta - math.log(theta)), torch.sigmoid(-delta - math.log(theta))
    return win, (theta**2 - 1) * win * loss, loss


def davidson_probs(delta: Tensor, nu: float) -> tuple[Tensor, Tensor, Tensor]:
    """Win, tie and loss under Davidson: a tie weighs nu times the geometric mean of both sides.

        P(win) : P(tie) : P(loss) = exp(delta / 2) : nu : exp(-delta / 2)

    Source:  Davidson 1970.
    Args:    delta, score difference r_i - r_j, any shape, RM units; nu >= 0 (0 = no ties).
    Returns: win, tie, loss of i against j, each of delta's shape; they sum to 1.
    Raises:  ValueError for nu < 0.
    >>> [round(p.item(), 3) for p in davidson_probs(torch.tensor(0.8), nu=0.7)]
    [0.521, 0.245, 0.234]
    """
    if not nu >= 0:
        raise ValueError(f"nu must not be negative, got {nu}")
    tie = torch.full_like(delta, nu).log()
    win, tie, loss = torch.stack([delta / 2, tie, -delta / 2]).softmax(0)
    return win, tie, loss


def pair_accuracy(scores: Tensor, ranks: Tensor) -> Tensor:
    """Share of all pairs that the scores order as the labeler did; 0.5 is chance.

    Pairs tied by the labeler are skipped; equal scores count half, so that a constant reward
    model gets 0.5 and not 0 or 1.

    Args:    scores (B, K); ranks (B, K) int.
    Returns: scalar in [0, 1], pooled over the pairs of all prompts.
    Raises:  ValueError where shapes differ or there is no pair.
    >>> pair_accuracy(torch.tensor([[0.1, 0.2, 0.9]]), torch.tensor([[2, 3, 1]])).item()
    0.6666666865348816
    """
    scores, better, _ = _compare(scores.detach(), ranks)
    delta = scores[:, :, None] - scores[:, None, :]
    return _mean_over_prompts((delta.sign() + 1) / 2, better, None)
