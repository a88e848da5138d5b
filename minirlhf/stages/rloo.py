"""A neighbour of stage 3: RLOO, REINFORCE with the other samples of a prompt as the baseline.

One update, top to bottom:

    prompts -> collect_rollout (k samples each) -> score_rollout -> estimate_advantages -> improve

Of PPO it leaves out the value model and GAE (a whole response is one action, with one reward and
one advantage), the ratio and its clip (each rollout is learned from once, while the policy is the
one that sampled it), and whitening. It pays with samples: k answers to a prompt where PPO asks one.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from minirlhf.maths.advantages import leave_one_out_advantages
from minirlhf.maths.kl import k1
from minirlhf.maths.losses import reinforce_loss
from minirlhf.maths.masked import gather_logprobs

STEERED = ("update", "kl_coef")  # what changes from update to update


@validated
@dataclass(frozen=True)
class RLOOConfig:
    """Settings of RLOO; paper values from Ahmadian et al. 2024 (arXiv:2402.14740)."""

    updates: int = setting(60, "rounds of sampling, each with one optimiser step", least=1)
    rollout_batch_size: int = setting(128, "episodes per update", least=2)
    samples: int = setting(4, "k, episodes per prompt; the paper has 2 and 4", paper=4, least=2)
    microbatch_size: int = setting(64, "episodes per forward pass", least=1)
    max_new_tokens: int = setting(40, "longest response, tokens", least=1)
    temperature: float = setting(1.0, "sampling temperature", above=0)
    learning_rate: float = setting(1e-3, "Adam's peak step size", above=0)
    warmup_updates: int = setting(10, "updates from a tenth of the rate up to it", least=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", above=0)
    kl_coef: float = setting(0.15, "beta, RM units per nat of KL to SFT", least=0)
    missing_eos: str = setting(
        "replace",
        "a response cut off before EOS: its score is replaced, lowered, or kept",
        choices=MISSING_EOS,
    )
    missing_eos_score: float = setting(-1.0, "the score put in its place, or added to it")
    seed: int = setting(0, "order of prompts, sampling", least=0, most=MAX_SEED)


class RLOO:
    """RLOO on a backbone that has `reference` and `reward`; makes `policy` from the reference.

    Args:    config; backbone; prompts: drawn in random order, again and again; reward: any plain
             function (prompts, responses) -> scores, None = the role `reward`.
    Yields:  one dict of metrics after each update (see `minirlhf.engine.metrics.METRICS`).
    Change   `kl_coef` between updates as you like.
    Source:  Ahmadian et al. 2024 (arXiv:2402.14740); the baseline is Kool et al. 2019's.
    """

    def __init__(
        self,
        config: RLOOConfig,
        backbone: Backbone,
        prompts: Sequence[Prompt],
        reward: RewardFunction | None = None,
    ):
        check_groups(config.rollout_batch_size, config.samples)
        check_given("RLOO", backbone, prompts, reward)
        self.config, self.backbone, self.reward = config, backbone, reward
        self.encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
        self.prompts = list(prompts)
        self._prompt_ids = [self.encoder.prompt(p, room=config.max_new_tokens) for p in prompts]
        backbone.add_role("policy", copy_of="reference")
        backbone.train_role("policy")
        self.optimiser = adam(backbone.named_parameters("policy"), config.learning_rate)
        self.sampler_generator = torch.Generator(backbone.device).manual_seed(config.seed)
        self.kl_coef, self.update = config.kl_coef, 0
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
        advantages, stats = self.estimate_advantages(rollout, *self.score_rollout(rollout, asked))
        stats |= self.improve(rollout, advantages)
        self.update += 1
        return stats | {"seconds": time.perf_counter() - started}

    # The four phases of an update -------------------------------------------------------------

    def collect_rollout(self, batch: Sequence[int]) -> Rollout:
        """Let the policy answer the prompts with these indices, k times each, side by side."""
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
    ) -> tuple[Tensor, dict[str, float]]:
        """A response's reward is score and KL in one sum; its advantage, the lead over the others.

        Returns: advantages (B,), RM units; metrics.
        """
        check_finite({"logprobs of policy": rollout.logprobs, "scores": scores,
                      "logprobs of reference": ref_logprobs})  # fmt: skip
        kl = k1(rollout.logprobs, ref_logprobs).sum(1)  # nats per response
        rewards = (scores - self.kl_coef * kl).view(-1, self.config.samples)
        advantages = leave_one_out_advantages(rewards).flatten()
        ended = self._ended(rollout)
        stats = {
            "scores": scores.mean().item(),
            "rewards": rewards.mean().item(),
            "reward_spread": rewards.std(1).mean().item(),
            "ref_kl": kl.mean().item(),
            "kl_coef": self.kl_coef,
            "response_length": rollout.lengths.float().mean().item(),
            "missing_eos": 1 - ended.float().mean().item(),
        }
        return advantages, stats | vital_signs(rollout, scores, ended)

    def improve(self, rollout: Rollout, advantages: Tensor) -> dict[str, float]:
        """One optimiser step, its gradient gathered micro-batch by micro-batch."""
        config, episodes = self.config, len(advantages)
        rate = config.learning_rate * warm_up(self.update, config.warmup_updates)
        self.optimiser.zero_grad()  # an update that was stopped half-way leaves gradients behind
        tokens = rollout.response_mask.sum()
        stats = dict.fromkeys(("policy_loss", "entropy", "ratio_error", "largest_logit"), 0.0)
        for rows in microbatches(rollout, torch.arange(episodes), config.microbatch_size):
            part = rollout.rows(rows)
            logits = response_logits(self.backbone, "policy", part, config.temperature)
            logprobs = gather_logprobs(logits, part.response_ids)
            loss = reinforce_loss(logprobs, advantages[rows], part.response_mask, episodes)
            finite(loss, {"logits of policy": logits, "advantages": advantages}).backward()
            stats["policy_loss"] += loss.item()
            describe(stats, part, logits.detach(), logprobs.detach(), tokens)
        largest = {name: stats.pop(name) for name in ("ratio_error", "largest_logit")}
        stats = parallel.total(stats) | parallel.largest(largest)
        guard_ratio(self.update, stats, self.backbone.model.dtype)
        del stats["largest_logit"]
        norm = optimiser_step(self.optimiser, rate, config.max_grad_norm)
        return stats | {"policy_grad_norm": norm, "learning_rate": rate}

    # Bookkeeping --------------------------------------------------------------------------------

    def _ended(self, rollout: Rollout) -> Tensor:
        return rollout.ended(self.backbone.tokenizer.eos_token_id)

    def state(self) -> dict[str, Any]:
        """A copy of all that the next updates depend on."""
        return {
            **{name: getattr(self, name) for name in STEERED},
            "role": role_state(self.backbone, "policy"),
            "optimiser": optimiser_state(self.optimiser),
            "sampler": self.sampler_generator.get_state(),
            "prompts": self._prompt_order.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, on a backbone with the same reference and reward."""
        for name in STEERED:
            setattr(self, name, state[name])
        restore_role(self.backbone, "policy", state["role"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self.sampler_generator.set_state(state["sampler"])
        self._prompt_order.restore(state["prompts"])
