"""Stage 3: PPO and PPO-ptx against the reward model.

One update, top to bottom:

    prompts -> collect_rollout -> score_rollout -> estimate_advantages -> improve

`PPO` is stepped, not run: `for stats in PPO(...)` hands back control after every update, so that
a loop, a widget or a test can look, change `kl_coef` or `clip_range`, and go on.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder, packed_blocks
from minirlhf.engine.episodes import (
    MISSING_EOS,
    RewardFunction,
    ask,
    check_given,
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
from minirlhf.engine.records import DataError, Prompt
from minirlhf.engine.rollout import (
    Rollout,
    response_logits,
    response_logprobs,
    response_values,
    response_views,
)
from minirlhf.engine.settings import MAX_SEED, setting, validated
from minirlhf.engine.snapshot import optimiser_state, restore_optimiser, restore_role, role_state
from minirlhf.maths.advantages import gae, token_rewards
from minirlhf.maths.kl import doubling_kl_coef, k1, k3, proportional_kl_coef
from minirlhf.maths.losses import (
    clip_fraction,
    policy_loss,
    policy_penalty_loss,
    ptx_loss,
    value_loss,
)
from minirlhf.maths.masked import gather_logprobs, masked_mean, masked_var, masked_whiten

STEERED = ("update", "kl_coef", "clip_range", "penalty_coef")  # what changes from update to update


@validated
@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; paper values from Ouyang et al. 2022, appendix C.4."""

    updates: int = setting(60, "rounds of sampling and learning", paper=500, least=1)
    rollout_batch_size: int = setting(128, "episodes per update", paper=512, least=1)
    minibatch_size: int = setting(64, "episodes per optimiser step", paper=64, least=1)
    microbatch_size: int = setting(64, "episodes per forward pass", least=1)
    ppo_epochs: int = setting(1, "inner epochs over a rollout", paper=1, least=1)
    max_new_tokens: int = setting(40, "longest response, tokens", paper=1024, least=1)
    temperature: float = setting(1.0, "sampling temperature", paper=1.0, above=0)
    policy_learning_rate: float = setting(1e-3, "Adam's peak step size, policy", above=0)
    value_learning_rate: float = setting(2e-3, "the same, value model", paper=9e-6, above=0)
    warmup_updates: int = setting(
        10, "updates from a tenth of the rate up to it", paper=10, least=0
    )
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", above=0)
    kl_coef: float = setting(0.15, "beta, RM units per nat of KL to SFT", paper=0.02, least=0)
    kl_controller: str = setting(
        "fixed",
        "what steers kl_coef: nothing, or Ziegler's proportional rule",
        paper="fixed",
        choices=("fixed", "proportional"),
    )
    target_kl: float = setting(6.0, "nats per response that the controller aims at", above=0)
    kl_horizon: int = setting(10_000, "episodes over which the controller corrects", least=1)
    loss: str = setting(
        "clip",
        "PPO-clip, or PPO-penalty with its own adaptive coefficient",
        paper="clip",
        choices=("clip", "penalty"),
    )
    clip_range: float | None = setting(
        0.2, "ratio is clipped to 1 +- this; none = not", paper=0.2, above=0, most=0.99
    )
    penalty_coef: float = setting(1.0, "PPO-penalty: price of KL(old, new) at first", above=0)
    penalty_target: float = setting(0.01, "PPO-penalty: nats per token aimed at", above=0)
    value_clip_range: float | None = setting(
        0.2, "value is clipped to old value +- this, RM units; none = not", above=0
    )
    value_model: str = setting(
        "separate",
        "one of its own, a head on the policy's hidden states (less to compute), or no baseline",
        paper="separate",
        choices=("separate", "shared", "none"),
    )
    value_init: str = setting(
        "reward",
        "what a separate one starts from: the RM (SFT where there is none), or SFT or the base "
        "with a new head",
        paper="reward",
        choices=("reward", "reference", "base"),
    )
    value_coef: float = setting(
        0.1, "weight of the value loss in the policy's gradient, where shared", above=0
    )
    discount: float = setting(1.0, "gamma of the episode", paper=1.0, above=0, most=1)
    gae_lambda: float = setting(
        0.95, "lambda of GAE; 1 = rewards to come less the value", least=0, most=1
    )
    whiten_rewards: bool = setting(False, "scale token rewards to variance 1 (mean kept)")
    whiten_advantages: bool = setting(True, "scale advantages to mean 0, variance 1")
    missing_eos: str = setting(
        "replace",
        "a response cut off before EOS: its score is replaced, lowered, or kept",
        choices=MISSING_EOS,
    )
    missing_eos_score: float = setting(-1.0, "the score put in its place, or added to it")
    ema_decay: float = setting(
        0.0, "decay of the averaged policy kept; 0 = off", paper=0.992, least=0, most=1
    )
    ptx_coef: float = setting(0.0, "weight of the pretraining loss; 0 = PPO", paper=27.8, least=0)
    ptx_ratio: float = setting(0.5, "pretraining blocks per episode", paper=8, above=0)
    ptx_length: int = setting(64, "tokens of a pretraining block", least=2)
    seed: int = setting(0, "order of prompts, sampling, minibatches", least=0, most=MAX_SEED)


class Scored(NamedTuple):
    """What the frozen roles and the value model say of a rollout; nothing here takes gradients."""

    scores: Tensor  # (B,) RM units, the rule for a missing EOS applied
    ref_logprobs: Tensor  # (B, R) nats
    values: Tensor  # (B, R) RM units


class Experience(NamedTuple):
    """A rollout with its learning targets."""

    rollout: Rollout
    old_values: Tensor  # (B, R) RM units
    advantages: Tensor  # (B, R) whitened if so set
    returns: Tensor  # (B, R) RM units

    def rows(self, index: Tensor) -> "Experience":
        """The rows that `index` picks, without columns in which all of them are padding."""
        rollout = self.rollout.rows(index)
        width = rollout.response_ids.shape[1]
        return Experience(rollout, *(tensor[index, :width] for tensor in self[1:]))


class PPO:
    """PPO on a backbone that has `reference` and `reward`; makes `policy` and `value` from them.

    Args:    config; backbone; prompts: drawn in random order, again and again; reward: any plain
             function (prompts, responses) -> scores, None = the role `reward`; pretraining: texts
             for PPO-ptx, needed where ptx_coef > 0.
    Yields:  one dict of metrics after each update (see `minirlhf.engine.metrics.METRICS`).
    Change   `kl_coef` and `clip_range` between updates as you like.
    Without  a value model all values are 0, and an advantage is what is still to come,
             sum_l (discount * gae_lambda)^l r_{t+l}. So gae_lambda has to be 1 for the plain sum of
             REINFORCE: at 0.95 a token 20 places before the end gets 0.36 of the score.
    Source:  Ouyang et al. 2022, section 3.5, equation 2; Schulman et al. 2017 (arXiv:1707.06347).
    """

    def __init__(
        self,
        config: PPOConfig,
        backbone: Backbone,
        prompts: Sequence[Prompt],
        reward: RewardFunction | None = None,
        pretraining: Sequence[str] = (),
    ):
        check_given("PPO", backbone, prompts, reward)
        if config.rollout_batch_size < parallel.world():
            raise DataError(f"ppo.rollout_batch_size: is below {parallel.world()} processes")
        self.config, self.backbone, self.reward = config, backbone, reward
        self.encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
        self.prompts = list(prompts)
        self._prompt_ids = [self.encoder.prompt(p, room=config.max_new_tokens) for p in prompts]
        self.value_role = {"separate": "value", "shared": "policy"}.get(config.value_model)
        backbone.add_role("policy", copy_of="reference")
        if self.value_role == "policy":
            if not backbone.written_out:
                raise DataError("ppo.value_model: 'shared' needs a Llama-like model")
            backbone.add_head("policy")
        elif self.value_role == "value":
            known = config.value_init in backbone.roles
            backbone.add_role("value", copy_of=config.value_init if known else "reference")
        rates = {"policy": config.policy_learning_rate, "value": config.value_learning_rate}
        self.optimisers = {}
        for role in ("policy", "value") if self.value_role == "value" else ("policy",):
            backbone.train_role(role)
            self.optimisers[role] = adam(backbone.named_parameters(role), rates[role])
        self.generator = torch.Generator().manual_seed(config.seed)
        self.sampler_generator = torch.Generator(backbone.device).manual_seed(config.seed)
        self.kl_coef, self.clip_range = config.kl_coef, config.clip_range
        self.penalty_coef = config.penalty_coef if config.loss == "penalty" else 0.0
        self.ema = backbone.weights("policy") if config.ema_decay > 0 else {}
        self.update = 0
        self._prompt_order = shuffled(len(self.prompts), config.seed)
        if config.ptx_coef > 0:
            if not pretraining:
                raise DataError("ptx_coef: PPO-ptx needs pretraining texts")
            self._blocks = packed_blocks(pretraining, backbone.tokenizer, config.ptx_length)
            self._block_order = shuffled(len(self._blocks), config.seed)

    def __len__(self) -> int:
        return self.config.updates

    def __iter__(self) -> Iterator[dict[str, float]]:
        return self

    def __next__(self) -> dict[str, float]:
        if self.update >= self.config.updates:
            for role in self.optimisers:  # kernels may round otherwise for what can be trained
                self.backbone.train_role(role, trainable=False)
            raise StopIteration
        started = time.perf_counter()
        batch = [next(self._prompt_order) for _ in range(self.config.rollout_batch_size)]
        rollout = self.collect_rollout(batch)
        scored = self.score_rollout(rollout, [self.prompts[i] for i in batch])
        experience, stats = self.estimate_advantages(rollout, scored)
        stats |= self.improve(experience)
        self._steer(stats, experience)
        self.update += 1
        return stats | {"seconds": time.perf_counter() - started}

    # The four phases of an update -------------------------------------------------------------

    def collect_rollout(self, batch: Sequence[int]) -> Rollout:
        """Let the policy answer the prompts with these indices, once each."""
        config = self.config
        prompts = self.encoder.prompts([self._prompt_ids[i] for i in batch])
        luck, length = self.sampler_generator, config.max_new_tokens
        return ask(self.backbone, prompts, length, luck, config.temperature)

    @torch.no_grad()
    def score_rollout(self, rollout: Rollout, prompts: Sequence[Prompt]) -> Scored:
        """One score per response; the SFT model's log-probabilities; the values before learning."""
        config, backbone, size = self.config, self.backbone, self.config.microbatch_size
        scores = judge(backbone, self.encoder, rollout, prompts, size, self.reward)
        rule = config.missing_eos, config.missing_eos_score
        scores = price_missing_eos(scores, self._ended(rollout), *rule)

        def reference(part: Rollout) -> Tensor:
            return response_logprobs(backbone, "reference", part, config.temperature)

        def value(part: Rollout) -> Tensor:
            return response_values(backbone, self.value_role, part)

        ref_logprobs = read_rows(rollout, size, reference)
        values = torch.zeros_like(ref_logprobs)
        if self.value_role:
            values = read_rows(rollout, size, value)
        return Scored(scores, ref_logprobs, values)

    def estimate_advantages(
        self, rollout: Rollout, scored: Scored
    ) -> tuple[Experience, dict[str, float]]:
        """Scores and KL become token rewards, and these become advantages and returns."""
        config, mask = self.config, rollout.response_mask
        check_finite({"logprobs of policy": rollout.logprobs, "scores": scored.scores,
                      "logprobs of reference": scored.ref_logprobs,
                      "values": scored.values})  # fmt: skip
        rewards = token_rewards(
            scored.scores, rollout.logprobs, scored.ref_logprobs, mask, self.kl_coef
        )
        reward_mean = rewards.sum(1).mean().item()
        if config.whiten_rewards:
            rewards = masked_whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, scored.values, mask, config.discount, config.gae_lambda)
        stats = {
            "scores": scored.scores.mean().item(),
            "rewards": reward_mean,
            "ref_kl": k1(rollout.logprobs, scored.ref_logprobs).sum(1).mean().item(),
            "kl_coef": self.kl_coef,
            "response_length": rollout.lengths.float().mean().item(),
            "missing_eos": 1 - self._ended(rollout).float().mean().item(),
            "advantages": masked_mean(advantages, mask).item(),
            "returns": masked_mean(returns, mask).item(),
        }
        if self.value_role:
            stats["explained_variance"] = _explained_variance(scored.values, returns, mask)
        stats |= vital_signs(rollout, scored.scores, self._ended(rollout))
        if config.whiten_advantages:
            advantages = masked_whiten(advantages, mask)
        return Experience(rollout, scored.values, advantages, returns), stats

    def improve(self, experience: Experience) -> dict[str, float]:
        """`ppo_epochs` passes over the experience, one optimiser step per minibatch each."""
        config = self.config
        factor = warm_up(self.update, config.warmup_updates)
        policy_rate = config.policy_learning_rate * factor
        value_rate = config.value_learning_rate * factor
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()  # an update that was stopped half-way leaves gradients behind
        count = len(experience.advantages)
        steps: list[dict[str, float]] = []
        for _ in range(config.ppo_epochs):
            order = torch.randperm(count, generator=self.generator)
            for rows in order.split(config.minibatch_size):
                stats = self._policy_gradient(experience, rows)
                if not steps:
                    guard_ratio(self.update, stats, self.backbone.model.dtype)
                    ratio_error = stats["ratio_error"]
                del stats["largest_logit"]
                if config.ptx_coef > 0:
                    stats["ptx_loss"] = self._ptx_gradient(len(rows))
                stats["policy_grad_norm"] = optimiser_step(
                    self.optimisers["policy"], policy_rate, config.max_grad_norm
                )
                if self.value_role == "value":
                    stats["value_loss"] = self._value_gradient(experience, rows)
                    stats["value_grad_norm"] = optimiser_step(
                        self.optimisers["value"], value_rate, config.max_grad_norm
                    )
                self._average_weights()
                steps.append(stats)
        means = {name: sum(s[name] for s in steps) / len(steps) for name in steps[0]}
        means |= {"ratio_error": ratio_error, "policy_learning_rate": policy_rate}
        if self.value_role:
            means["value_learning_rate"] = value_rate
        return means | {"penalty_coef": self.penalty_coef}

    # Gradients of one minibatch, micro-batch by micro-batch --------------------------------------

    def _policy_gradient(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        config = self.config
        count = experience.rollout.response_mask[rows].sum()
        stats = dict.fromkeys(("policy_loss", "entropy", "approx_kl", "clip_fraction"), 0.0)
        stats |= {"ratio_error": 0.0, "largest_logit": 0.0}
        if self.value_role == "policy":
            stats["value_loss"] = 0.0
        for part_rows in microbatches(experience.rollout, rows, config.microbatch_size):
            part = experience.rows(part_rows)
            sampled, mask = part.rollout, part.rollout.response_mask
            if self.value_role == "policy":
                logits, values = response_views(
                    self.backbone, "policy", sampled, config.temperature
                )
            else:
                logits = response_logits(self.backbone, "policy", sampled, config.temperature)
            logprobs = gather_logprobs(logits, sampled.response_ids)
            if config.loss == "clip":
                loss = policy_loss(
                    logprobs, sampled.logprobs, part.advantages, mask, self.clip_range, count
                )
            else:
                loss = policy_penalty_loss(
                    logprobs, sampled.logprobs, part.advantages, mask, self.penalty_coef, count
                )
            stats["policy_loss"] += loss.item()
            if self.value_role == "policy":
                value_term = self._value_loss(part, values, count)
                stats["value_loss"] += value_term.item()
                loss = loss + config.value_coef * value_term
            causes = {"logits of policy": logits, "advantages": part.advantages}
            finite(loss, causes).backward()
            logprobs, old = logprobs.detach(), sampled.logprobs
            share = describe(stats, sampled, logits.detach(), logprobs, count)
            clipped = clip_fraction(logprobs, old, part.advantages, mask, self.clip_range)
            stats["approx_kl"] += share * masked_mean(k3(old, logprobs), mask).item()
            stats["clip_fraction"] += share * clipped.item()
        largest = {name: stats.pop(name) for name in ("ratio_error", "largest_logit")}
        return parallel.total(stats) | parallel.largest(largest)

    def _value_gradient(self, experience: Experience, rows: Tensor) -> float:
        config, total = self.config, 0.0
        count = experience.rollout.response_mask[rows].sum()
        for part_rows in microbatches(experience.rollout, rows, config.microbatch_size):
            part = experience.rows(part_rows)
            loss = self._value_loss(
                part, response_values(self.backbone, "value", part.rollout), count
            )
            loss.backward()
            total += loss.item()
        return parallel.total({"loss": total})["loss"]

    def _value_loss(self, part: Experience, values: Tensor, count: Tensor) -> Tensor:
        loss = value_loss(
            values,
            part.old_values,
            part.returns,
            part.rollout.response_mask,
            self.config.value_clip_range,
            count,
        )
        return finite(loss, {"values": values, "returns": part.returns})

    def _ptx_gradient(self, episodes: int) -> float:
        """Adds ptx_coef * gradient of the mean token loss on pretraining text to the policy's."""
        blocks = max(1, round(episodes * self.config.ptx_ratio))
        rows = parallel.deal([next(self._block_order) for _ in range(blocks)])
        total, size = 0.0, self.config.microbatch_size
        for part_rows in (rows[i : i + size] for i in range(0, len(rows), size)):
            ids = self._blocks[part_rows].to(self.backbone.device)
            mask = torch.ones_like(ids, dtype=torch.bool)
            logits = self.backbone.logits("policy", ids[:, :-1], mask[:, :-1])
            logprobs = gather_logprobs(logits, ids[:, 1:])
            loss = ptx_loss(logprobs, mask[:, 1:], count=blocks * (ids.shape[1] - 1))
            causes = {"logits of policy on pretraining text": logits}
            (self.config.ptx_coef * finite(loss, causes)).backward()
            total += loss.item()
        return parallel.total({"loss": total})["loss"]

    # Rules and bookkeeping ----------------------------------------------------------------------

    def _ended(self, rollout: Rollout) -> Tensor:
        return rollout.ended(self.backbone.tokenizer.eos_token_id)

    def _steer(self, stats: dict[str, float], experience: Experience) -> None:
        config = self.config
        if config.kl_controller == "proportional":
            self.kl_coef = proportional_kl_coef(
                self.kl_coef,
                stats["ref_kl"],
                config.target_kl,
                config.rollout_batch_size,
                config.kl_horizon,
            )
        if config.loss == "penalty":
            self.penalty_coef = doubling_kl_coef(
                self.penalty_coef, self._step_kl(experience.rollout), config.penalty_target
            )

    @torch.no_grad()
    def _step_kl(self, rollout: Rollout) -> float:
        """KL(old, new) after the update's last step, nats per token: PPO-penalty steers by it.

        `approx_kl` will not do: it is taken before each step, so its first minibatch has none.
        """
        total = 0.0
        whole, size = torch.arange(len(rollout.response_ids)), self.config.microbatch_size
        for rows in microbatches(rollout, whole, size):
            part = rollout.rows(rows)
            logprobs = response_logprobs(self.backbone, "policy", part, self.config.temperature)
            total += k3(part.logprobs, logprobs)[part.response_mask].sum().item()
        return parallel.total({"kl": total})["kl"] / rollout.response_mask.sum().item()

    @torch.no_grad()
    def _average_weights(self) -> None:
        if self.ema:
            for name, weight in self.backbone.weights("policy").items():
                self.ema[name].lerp_(weight, 1 - self.config.ema_decay)

    def adopt_average(self) -> None:
        """Make the averaged weights the policy, as the paper did before evaluating."""
        if self.ema:
            self.backbone.load_weights("policy", self.ema)

    def state(self) -> dict[str, Any]:
        """A copy of all that the next updates depend on."""
        return {
            **{name: getattr(self, name) for name in STEERED},
            "roles": {role: role_state(self.backbone, role) for role in self.optimisers},
            "optimisers": {role: optimiser_state(o) for role, o in self.optimisers.items()},
            "ema": {name: average.to("cpu", copy=True) for name, average in self.ema.items()},
            "minibatches": self.generator.get_state(),
            "sampler": self.sampler_generator.get_state(),
            "prompts": self._prompt_order.state(),
            "blocks": self._block_order.state() if self.config.ptx_coef > 0 else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, on a backbone with the same reference and reward."""
        for name in STEERED:
            setattr(self, name, state[name])
        for role, optimiser in self.optimisers.items():
            restore_role(self.backbone, role, state["roles"][role])
            restore_optimiser(optimiser, state["optimisers"][role])
        for name, average in self.ema.items():
            average.copy_(state["ema"][name])
        self.generator.set_state(state["minibatches"])
        self.sampler_generator.set_state(state["sampler"])
        self._prompt_order.restore(state["prompts"])
        if self.config.ptx_coef > 0:
            self._block_order.restore(state["blocks"])


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    spread = masked_var(returns, mask)
    return (1 - masked_var(returns - values, mask) / spread).item() if spread > 0 else 0.0
