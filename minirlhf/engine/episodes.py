"""What PPO, RLOO and GRPO do alike around their formulas: ask, read again, judge, look on."""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder, Passes, PromptBatch
from minirlhf.engine.records import DataError, Prompt
from minirlhf.engine.rollout import Rollout, sample
from minirlhf.maths.losses import entropy
from minirlhf.maths.masked import masked_mean

RewardFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
MISSING_EOS = ("replace", "subtract", "keep")


class RatioWarning(UserWarning):
    """Sampler and trainer disagree about the policy that is being trained."""


def check_given(
    name: str, backbone: Backbone, prompts: Sequence[Prompt], reward: RewardFunction | None
) -> None:
    """Raise DataError where the algorithm `name` has nothing to ask or to be judged by."""
    if reward is None and "reward" not in backbone.roles:
        raise DataError(f"reward: {name} needs a reward function or the role `reward`")
    if not prompts:
        raise DataError("prompts: there are none")


def check_groups(episodes: int, samples: int) -> None:
    """Raise DataError where a rollout cannot hold `samples` episodes of each of its prompts."""
    if episodes % samples:
        raise DataError(f"rollout_batch_size: {episodes} is no multiple of samples, {samples}")
    if episodes < parallel.world():
        raise DataError(f"rollout_batch_size: is below {parallel.world()} processes")


def shuffled(count: int, seed: int) -> Passes:
    """Indices in random order, each once before any comes again.

    The order is drawn by a generator of its own, so that PPO and PPO-ptx ask the same prompts.
    """
    return Passes(lambda own: torch.randperm(count, generator=own).tolist(), seed)


def ask(
    backbone: Backbone,
    prompts: PromptBatch,
    max_new_tokens: int,
    generator: torch.Generator,
    temperature: float,
    samples: int = 1,
) -> Rollout:
    """Let the policy answer prompts, `samples` times each, side by side; with the roles' trunk."""
    rollout = sample(
        backbone,
        "policy",
        prompts,
        max_new_tokens,
        generator,
        temperature,
        samples=samples,
    )
    mine = parallel.own(torch.arange(len(rollout.response_ids)))
    trunk = backbone.trunk(rollout.input_ids[mine], rollout.attention_mask[mine])
    return rollout._replace(trunk=trunk)


def microbatches(rollout: Rollout, rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """This process's share of some rows, those of like lengths together, `size` at a time.

    So little is computed for padding.
    """
    rows = parallel.own(rows)
    lengths = (rollout.prompt_mask.sum(1) + rollout.lengths)[rows]
    parts = rows[lengths.argsort(stable=True)].split(size)
    return parts if len(rows) else ()


@torch.no_grad()
def read_rows(rollout: Rollout, size: int, read: Callable[[Rollout], Tensor]) -> Tensor:
    """What `read` says of all rows of a rollout: (B,), or (B, R) with 0 at the end of a row.

    Args: size: rows in a forward pass; read: (some rows) -> a number for each, (b,), or for each of
          their response tokens, (b, r).
    """
    count, width = rollout.response_ids.shape
    parts = microbatches(rollout, torch.arange(count), size)
    rows = [row for part in parts for row in read(rollout.rows(part))]
    rows = [F.pad(row, (0, width - len(row))) if row.dim() else row for row in rows]
    back = torch.cat(parts).argsort()
    return parallel.together(torch.stack(rows)[back], count)


@torch.no_grad()
def judge(
    backbone: Backbone,
    encoder: Encoder,
    rollout: Rollout,
    prompts: Sequence[Prompt],
    size: int,
    reward: RewardFunction | None = None,
) -> Tensor:
    """One score per response: (B,) float32, RM units.

    Args:   prompts: B of them, in the rollout's order; size: rows in a forward pass; reward: any
            plain function, None = the role `reward`.
    Raises: ValueError where the function does not return a finite number for each response.
    """
    if reward is None:
        return read_rows(
            rollout,
            size,
            lambda part: backbone.scores("reward", part.input_ids, part.attention_mask, part.trunk),
        )
    mine = parallel.own(torch.arange(len(prompts)))
    part = rollout.rows(mine)
    texts = encoder.text(part.response_ids, part.response_mask)
    scores = reward([prompts[i] for i in mine], texts)
    scores = torch.as_tensor(scores, dtype=torch.float32, device=backbone.device)
    if scores.shape != (len(mine),) or not scores.isfinite().all():
        raise ValueError(f"the reward function must return {len(mine)} finite numbers")
    return parallel.together(scores, len(prompts))


def price_missing_eos(scores: Tensor, ended: Tensor, rule: str, price: float) -> Tensor:
    """Scores (B,) with one of the rules MISSING_EOS applied to responses that were cut off.

    Args: ended (B,) bool: which reached EOS; price: what replaces their score, or is added to it.
    >>> ended = torch.tensor([True, False])
    >>> price_missing_eos(torch.tensor([2.0, 3.0]), ended, "subtract", -1.0).tolist()
    [2.0, 2.0]
    """
    if rule == "replace":
        return torch.where(ended, scores, price)
    if rule == "subtract":
        return torch.where(ended, scores, scores + price)
    return scores


@torch.no_grad()
def describe(
    stats: dict[str, float], part: Rollout, logits: Tensor, logprobs: Tensor, count: Tensor
) -> float:
    """Add a micro-batch's share to what is said of its minibatch's policy; returns that share.

    Args: stats: `entropy`, and the extremes `ratio_error` and `largest_logit`; logits, logprobs:
          of the policy now; count: response tokens of the whole minibatch.
    """
    mask = part.response_mask
    share = (mask.sum() / count).item()
    off = torch.where(mask, (logprobs - part.logprobs).exp() - 1, 0.0).abs().max()
    stats["entropy"] += share * masked_mean(entropy(logits), mask).item()
    stats["ratio_error"] = max(stats["ratio_error"], off.item())
    largest = max(abs(extreme.item()) for extreme in logits.aminmax())
    stats["largest_logit"] = max(stats["largest_logit"], largest)
    return share


def guard_ratio(update: int, stats: dict[str, float], dtype: torch.dtype) -> None:
    """Before an update's first step the policy is the one that sampled: warn if the ratio is not 1.

    To 1e-5 in float32, or to 32 roundings of the largest logit where that is more; 16-bit models
    round every activation, so there the bound is a rough 0.1.
    """
    rounding = 32 * torch.finfo(torch.float32).eps * stats["largest_logit"]
    tolerance = max(1e-5, rounding) if dtype == torch.float32 else 0.1
    if stats["ratio_error"] > tolerance:
        warnings.warn(
            f"update {update}: ratio is off 1 by {stats['ratio_error']:.2g} before any step (at "
            f"most {tolerance:.2g} expected): sampler and trainer see different policies. Look for "
            "dropout, another temperature, wrong positions or a wrong mask.",
            RatioWarning,
            stacklevel=2,
        )
