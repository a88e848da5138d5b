"""A neighbour of stage 3: GRPO, PPO's clipped ratio with a group of samples as the baseline.

One update, top to bottom:

    prompts -> collect_rollout (G samples each) -> score_rollout -> estimate_advantages -> improve

Of PPO it leaves out the value model and GAE: all tokens of a response share one advantage, its
score among those of the same prompt's samples, in standard deviations. The KL to the SFT model
moves from the reward into the loss. It pays with samples, G answers to a prompt.

The mean that the loss takes over tokens is `loss_mean`: each response's own mean first, as in the
paper ("response"); all tokens alike, as DAPO and PPO have it ("token"); or a constant, Dr. GRPO's
("constant"), which also leaves out the standard deviation (`scale_advantages: false`).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder
from minirlhf.engine.episodes import (
    MISSING_EOS,
    RewardFunction,
    ask,
    check_given,
    check_groups,
    describe,
    guard_ratio,
    judge,
    microbatches,
    price_missing_eos,
    read_rows,
    shuffled,
)
from minirlhf.engine.health import vital_signs
from minirlhf.engine.optimisation import adam, check_finite, finite, optimiser_step, warm_up
from minirlhf.engine.records import Prompt
from minirlhf.engine.rollout import Rollout, response_logits, response_logprobs
from minirlhf.engine.settings import MAX_SEED, setting, validated
from minirlhf.engine.snapshot import optimiser_state, restore_optimiser, restore_role, role_state
from minirlhf.maths.advantages import group_advantages
from minirlhf.maths.kl import k1, k3
from minirlhf.maths.losses import clip_fraction, grpo_loss, token_weights
from minirlhf.maths.masked import gather_logprobs, masked_mean

STEERED = ("update", "kl_coef", "clip_range")  # what changes from update to update


@validated
@dataclass(frozen=True)
class GRPOConfig:
    """Settings of GRPO; paper values from Shao et al. 2024, section 4.2 (arXiv:2402.03300)."""

    updates: int = setting(60, "rounds of sampling and learning", least=1)
    rollout_batch_size: int = setting(128, "episodes per update", paper=1024, least=2)
    samples: int = setting(4, "G, episodes per prompt", paper=64, least=2)
    minibatch_size: int = setting(64, "episodes per optimiser step", paper=1024, least=1)
    microbatch_size: int = setting(64, "episodes per forward pass", least=1)
    inner_epochs: int = setting(1, "passes over a rollout, the paper's mu", paper=1, least=1)
    max_new_tokens: int = setting(40, "longest response, tokens", paper=1024, least=1)
    temperature: float = setting(1.0, "sampling temperature", above=0)
    learning_rate: float = setting(1e-3, "Adam's peak step size", paper=1e-6, above=0)
    warmup_updates: int = setting(10, "updates from a tenth of the rate up to it", least=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", above=0)
    kl_coef: float = setting(0.15, "beta, price of KL to SFT in the loss", paper=0.04, least=0)
    clip_range: float | None = setting(
        0.2, "ratio is clipped to 1 +- this; none = not", above=0, most=0.99
    )
    scale_advantages: bool = setting(
        True, "divide by the standard deviation of a prompt's scores", paper=True
    )
    loss_mean: str = setting(
        "response",
        "mean over each response's tokens first (GRPO), over all tokens (DAPO), or a constant (Dr. "
        "GRPO)",
        paper="response",
        choices=("response", "token", "constant"),
    )
    missing_eos: str = setting(
        "replace",
        "a response cut off before EOS: its score is replaced, lowered, or kept",
        choices=MISSING_EOS,
    )
    missing_eos_score: float = setting(-1.0, "the score put in its place, or added to it")
    seed: int = setting(0, "order of prompts, sampling, minibatches", least=0, most=MAX_SEED)


class Experience(NamedTuple):
    """A rollout with what it is learned from."""

    rollout: Rollout
    ref_logprobs: Tensor  # (B, R) nats
    advantages: Tensor  # (B,)


class GRPO:
    """GRPO on a backbone that has `reference` and `reward`; makes `policy` from the reference.

    Args:    config; backbone; prompts: drawn in random order, again and again; reward: any plain
             function (prompts, responses) -> scores, None = the role `reward`.
    Yields:  one dict of metrics after each update (see `minirlhf.engine.metrics.METRICS`).
    Change   `kl_coef` and `clip_range` between updates as you like.
    Source:  Shao et al. 2024, section 4.1, outcome supervision (arXiv:2402.03300).
    """

    def __init__(
        self,
        config: GRPOConfig,
        backbone: Backbone,
        prompts: Sequence[Prompt],
        reward: RewardFunction | None = None,
    ):
        check_groups(config.rollout_batch_size, config.samples)
        check_given("GRPO", backbone, prompts, reward)
        self.config, self.backbone, self.reward = config, backbone, reward
        self.encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
        self.prompts = list(prompts)
        self._prompt_ids = [self.encoder.prompt(p, room=config.max_new_tokens) for p in prompts]
        backbone.add_role("policy", copy_of="reference")
        backbone.train_role("policy")
        self.optimiser = adam(backbone.named_parameters("policy"), config.learning_rate)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.sampler_generator = torch.Generator(backbone.device).manual_seed(config.seed)
        self.kl_coef, self.clip_range, self.update = config.kl_coef, config.clip_range, 0
        self._prompt_order = shuffled(len(self.prompts), config.seed)

    def __len__(self) -> int:
        return self.config.updates

    def __iter__(self) -> Iterator[dict[str, float]]:
        return self

    def __next__(self) -> dict[str, float]:
        config = self.config
        if self.update >= config.updates:
            self.backbone.train_role("policy", trainable=False)
            raise StopIteration
        started = time.perf_counter()
        count = config.rollout_batch_size // config.samples
        batch = [next(self._prompt_order) for _ in range(count)]
        rollout = self.collect_rollout(batch)
        asked = [self.prompts[i] for i in batch for _ in range(config.samples)]
        experience, stats = self.estimate_advantages(rollout, *self.score_rollout(rollout, asked))
        stats |= self.improve(experience)
        self.update += 1
        return stats | {"seconds": time.perf_counter() - started}

    # The four phases of an update -------------------------------------------------------------

    def collect_rollout(self, batch: Sequence[int]) -> Rollout:
        """Let the policy answer the prompts with these indices, G times each, side by side."""
        config = self.config
        prompts = self.encoder.prompts([self._prompt_ids[i] for i in batch])
        luck, length = self.sampler_generator, config.max_new_tokens
        return ask(self.backbone, prompts, length, luck, config.temperature, config.samples)

    @torch.no_grad()
    def score_rollout(self, rollout: Rollout, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """Scores (B,), the rule for a missing EOS applied; the SFT model's logprobs (B, R)."""
        config, size = self.config, self.config.microbatch_size

        def reference(part: Rollout) -> Tensor:
            return response_logprobs(self.backbone, "reference", part, config.temperature)

        scores = judge(self.backbone, self.encoder, rollout, prompts, size, self.reward)
        rule = config.missing_eos, config.missing_eos_score
        scores = price_missing_eos(scores, self._ended(rollout), *rule)
        return scores, read_rows(rollout, size, reference)

    def estimate_advantages(
        self, rollout: Rollout, scores: Tensor, ref_logprobs: Tensor
    ) -> tuple[Experience, dict[str, float]]:
        """A response's advantage: its score among those of its prompt. KL waits for the loss."""
        check_finite({"logprobs of policy": rollout.logprobs, "scores": scores,
                      "logprobs of reference": ref_logprobs})  # fmt: skip
        rewards = scores.view(-1, self.config.samples)
        advantages = group_advantages(rewards, self.config.scale_advantages).flatten()
        ended = self._ended(rollout)
        stats = {
            "scores": scores.mean().item(),
            "reward_spread": rewards.std(1).mean().item(),
            "ref_kl": k1(rollout.logprobs, ref_logprobs).sum(1).mean().item(),
            "kl_coef": self.kl_coef,
            "response_length": rollout.lengths.float().mean().item(),
            "missing_eos": 1 - ended.float().mean().item(),
        }
        stats |= vital_signs(rollout, scores, ended)
        return Experience(rollout, ref_logprobs, advantages), stats

    def improve(self, experience: Experience) -> dict[str, float]:
        """`inner_epochs` passes over the experience, one optimiser step per minibatch each."""
        config = self.config
        rate = config.learning_rate * warm_up(self.update, config.warmup_updates)
        self.optimiser.zero_grad()  # an update that was stopped half-way leaves gradients behind
        steps: list[dict[str, float]] = []
        for _ in range(config.inner_epochs):
            order = torch.randperm(len(experience.advantages), generator=self.generator)
            for rows in order.split(config.minibatch_size):
                stats = self._policy_gradient(experience, rows)
                if not steps:
                    guard_ratio(self.update, stats, self.backbone.model.dtype)
                    ratio_error = stats["ratio_error"]
                del stats["largest_logit"]
                stats["policy_grad_norm"] = optimiser_step(
                    self.optimiser, rate, config.max_grad_norm
                )
                steps.append(stats)
        means = {name: sum(s[name] for s in steps) / len(steps) for name in steps[0]}
        return means | {"ratio_error": ratio_error, "learning_rate": rate}

    def _policy_gradient(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        """The gradient of one minibatch, micro-batch by micro-batch."""
        config, (rollout, ref_logprobs, advantages) = self.config, experience
        mask = rollout.response_mask[rows]
        weights = torch.zeros_like(ref_logprobs)
        weights[rows] = token_weights(mask, config.loss_mean, config.max_new_tokens)
        stats = dict.fromkeys(("policy_loss", "entropy", "approx_kl", "clip_fraction"), 0.0)
        stats |= {"ratio_error": 0.0, "largest_logit": 0.0}
        for part_rows in microbatches(rollout, rows, config.microbatch_size):
            part = rollout.rows(part_rows)
            width, old = part.response_ids.shape[1], part.logprobs
            logits = response_logits(self.backbone, "policy", part, config.temperature)
            logprobs = gather_logprobs(logits, part.response_ids)
            loss = grpo_loss(
                logprobs,
                old,
                ref_logprobs[part_rows, :width],
                advantages[part_rows],
                weights[part_rows, :width],
                self.clip_range,
                self.kl_coef,
            )
            finite(loss, {"logits of policy": logits, "advantages": advantages}).backward()
            stats["policy_loss"] += loss.item()
            logprobs, counted = logprobs.detach(), part.response_mask
            share = describe(stats, part, logits.detach(), logprobs, mask.sum())
            spread = advantages[part_rows, None].expand(counted.shape)
            clipped = clip_fraction(logprobs, old, spread, counted, self.clip_range)
            stats["approx_kl"] += share * masked_mean(k3(old, logprobs), counted).item()
            stats["clip_fraction"] += share * clipped.item()
        largest = {name: stats.pop(name) for name in ("ratio_error", "largest_logit")}
        return parallel.total(stats) | parallel.largest(largest)

    # Bookkeeping --------------------------------------------------------------------------------

    def _ended(self, rollout: Rollout) -> Tensor:
        return rollout.ended(self.backbone.tokenizer.eos_token_id)

    def state(self) -> dict[str, Any]:
        """A copy of all that the next updates depend on."""
        return {
            **{name: getattr(self, name) for name in STEERED},
            "role": role_state(self.backbone, "policy"),
            "optimiser": optimiser_state(self.optimiser),
            "minibatches": self.generator.get_state(),
            "sampler": self.sampler_generator.get_state(),
            "prompts": self._prompt_order.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, on a backbone with the same reference and reward."""
        for name in STEERED:
            setattr(self, name, state[name])
        restore_role(self.backbone, "policy", state["role"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self.generator.set_state(state["minibatches"])
        self.sampler_generator.set_state(state["sampler"])
        self._prompt_order.restore(state["prompts"])
