"""Stage 3: PPO and PPO-ptx against the reward model.

One update, top to bottom:

    prompts -> collect_rollout -> score_rollout -> estimate_advantages -> improve

`PPO` is stepped, not run: `for stats in PPO(...)` hands back control after every update, so that
a loop, a widget or a test can look, change `kl_coef` or `clip_range`, and go on.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder, Passes, packed_blocks
from minirlhf.engine.health import vital_signs
from minirlhf.engine.optimisation import adam, check_finite, finite, optimiser_step, warm_up
from minirlhf.engine.records import DataError, Prompt
from minirlhf.engine.rollout import (
    Rollout,
    response_logits,
    response_logprobs,
    response_values,
    response_views,
    sample,
)
from minirlhf.engine.settings import MAX_SEED, setting, validated
from minirlhf.engine.snapshot import optimiser_state, restore_optimiser, restore_role, role_state
from minirlhf.maths.advantages import gae, token_rewards
from minirlhf.maths.kl import doubling_kl_coef, k1, k3, proportional_kl_coef
from minirlhf.maths.losses import (
    clip_fraction,
    entropy,
    policy_loss,
    policy_penalty_loss,
    ptx_loss,
    value_loss,
)
from minirlhf.maths.masked import gather_logprobs, masked_mean, masked_var, masked_whiten

STEERED = ("update", "kl_coef", "clip_range", "penalty_coef")  # what changes from update to update
RewardFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]


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
    clip_range: float = setting(0.2, "ratio is clipped to 1 +- this", paper=0.2, above=0, most=0.99)
    penalty_coef: float = setting(1.0, "PPO-penalty: price of KL(old, new) at first", above=0)
    penalty_target: float = setting(0.01, "PPO-penalty: nats per token aimed at", above=0)
    value_clip_range: float | None = setting(
        0.2, "value is clipped to old value +- this, RM units; none = not", above=0
    )
    value_model: str = setting(
        "separate",
        "a model of its own, or a head on the policy's hidden states (less to compute)",
        paper="separate",
        choices=("separate", "shared"),
    )
    value_coef: float = setting(
        0.1, "weight of the value loss in the policy's gradient, where shared", above=0
    )
    discount: float = setting(1.0, "gamma of the episode", paper=1.0, above=0, most=1)
    gae_lambda: float = setting(0.95, "lambda of GAE", least=0, most=1)
    whiten_rewards: bool = setting(False, "scale token rewards to variance 1 (mean kept)")
    whiten_advantages: bool = setting(True, "scale advantages to mean 0, variance 1")
    missing_eos: str = setting(
        "replace",
        "a response cut off before EOS: its score is replaced, lowered, or kept",
        choices=("replace", "subtract", "keep"),
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


class RatioWarning(UserWarning):
    """Sampler and trainer disagree about the policy that is being trained."""


class PPO:
    """PPO on a backbone that has `reference` and `reward`; makes `policy` and `value` from them.

    Args:    config; backbone; prompts: drawn in random order, again and again; reward: any plain
             function (prompts, responses) -> scores, None = the role `reward`; pretraining: texts
             for PPO-ptx, needed where ptx_coef > 0.
    Yields:  one dict of metrics after each update (see `minirlhf.engine.metrics.METRICS`).
    Change   `kl_coef` and `clip_range` between updates as you like.
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
        if reward is None and "reward" not in backbone.roles:
            raise DataError("reward: PPO needs a reward function or the role `reward`")
        if not prompts:
            raise DataError("prompts: there are none")
        if config.rollout_batch_size < parallel.world():
            raise DataError(f"ppo.rollout_batch_size: is below {parallel.world()} processes")
        self.config, self.backbone, self.reward = config, backbone, reward
        self.encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
        self.prompts = list(prompts)
        self._prompt_ids = [self.encoder.prompt(p, room=config.max_new_tokens) for p in prompts]
        self.value_role = "policy" if config.value_model == "shared" else "value"
        backbone.add_role("policy", copy_of="reference")
        if self.value_role == "policy":
            if not backbone.written_out:
                raise DataError("ppo.value_model: 'shared' needs a Llama-like model")
            backbone.add_head("policy")
        else:
            source = "reward" if "reward" in backbone.roles else "reference"
            backbone.add_role("value", copy_of=source)
        rates = {"policy": config.policy_learning_rate, "value": config.value_learning_rate}
        self.optimisers = {}
        for role in dict.fromkeys(("policy", self.value_role)):
            backbone.train_role(role)
            self.optimisers[role] = adam(backbone.named_parameters(role), rates[role])
        self.generator = torch.Generator().manual_seed(config.seed)
        self.sampler_generator = torch.Generator(backbone.device).manual_seed(config.seed)
        self.kl_coef, self.clip_range = config.kl_coef, config.clip_range
        self.penalty_coef = config.penalty_coef if config.loss == "penalty" else 0.0
        self.ema = backbone.weights("policy") if config.ema_decay > 0 else {}
        self.update = 0
        self._prompt_order = self._endless(len(self.prompts))
        if config.ptx_coef > 0:
            if not pretraining:
                raise DataError("ptx_coef: PPO-ptx needs pretraining texts")
            self._blocks = packed_blocks(pretraining, backbone.tokenizer, config.ptx_length)
            self._block_order = self._endless(len(self._blocks))

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
        rollout = sample(
            self.backbone,
            "policy",
            self.encoder.prompts([self._prompt_ids[i] for i in batch]),
            self.config.max_new_tokens,
            self.sampler_generator,
            self.config.temperature,
        )
        mine = parallel.own(torch.arange(len(batch)))
        trunk = self.backbone.trunk(rollout.input_ids[mine], rollout.attention_mask[mine])
        return rollout._replace(trunk=trunk)

    @torch.no_grad()
    def score_rollout(self, rollout: Rollout, prompts: Sequence[Prompt]) -> Scored:
        """One score per response; the SFT model's log-probabilities; the values before learning."""
        backbone, temperature = self.backbone, self.config.temperature
        scores, ref_logprobs, values = [], [], []
        batches = self._microbatches(rollout, torch.arange(len(prompts)))
        for rows in batches:
            part = rollout.rows(rows)
            ref_logprobs += response_logprobs(backbone, "reference", part, temperature)
            values += response_values(backbone, self.value_role, part)
            if self.reward is None:
                ids, mask = part.input_ids, part.attention_mask
                scores += backbone.scores("reward", ids, mask, part.trunk)
        back = torch.cat(batches).argsort()
        if self.reward is None:
            scores = torch.stack(scores)[back]
        else:
            mine = parallel.own(torch.arange(len(prompts)))
            part = rollout.rows(mine)
            texts = self.encoder.text(part.response_ids, part.response_mask)
            scores = self._checked(self.reward([prompts[i] for i in mine], texts), len(mine))
        scores = parallel.together(scores, len(prompts))
        width = rollout.response_ids.shape[1]
        padded = [
            parallel.together(_padded(rows, width)[back], len(prompts))
            for rows in (ref_logprobs, values)
        ]
        return Scored(self._apply_missing_eos(scores, rollout), *padded)

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
            "explained_variance": _explained_variance(scored.values, returns, mask),
        }
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
                    self._guard_ratio(stats)
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
        return means | {
            "ratio_error": ratio_error,
            "policy_learning_rate": policy_rate,
            "value_learning_rate": value_rate,
            "penalty_coef": self.penalty_coef,
        }

    # Gradients of one minibatch, micro-batch by micro-batch --------------------------------------

    def _policy_gradient(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        config = self.config
        count = experience.rollout.response_mask[rows].sum()
        stats = dict.fromkeys(("policy_loss", "entropy", "approx_kl", "clip_fraction"), 0.0)
        stats |= {"ratio_error": 0.0, "largest_logit": 0.0}
        if self.value_role == "policy":
            stats["value_loss"] = 0.0
        for part_rows in self._microbatches(experience.rollout, rows):
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
            self._describe(stats, part, logits.detach(), logprobs.detach(), count)
        largest = {name: stats.pop(name) for name in ("ratio_error", "largest_logit")}
        return parallel.total(stats) | parallel.largest(largest)

    @torch.no_grad()
    def _describe(self, stats, part: Experience, logits: Tensor, logprobs: Tensor, count) -> None:
        """Add a micro-batch's share to what is said of its minibatch."""
        old, mask = part.rollout.logprobs, part.rollout.response_mask
        share = (mask.sum() / count).item()
        clipped = clip_fraction(logprobs, old, part.advantages, mask, self.clip_range)
        off = torch.where(mask, (logprobs - old).exp() - 1, 0.0).abs().max()
        stats["entropy"] += share * masked_mean(entropy(logits), mask).item()
        stats["approx_kl"] += share * masked_mean(k3(old, logprobs), mask).item()
        stats["clip_fraction"] += share * clipped.item()
        stats["ratio_error"] = max(stats["ratio_error"], off.item())
        largest = max(abs(extreme.item()) for extreme in logits.aminmax())
        stats["largest_logit"] = max(stats["largest_logit"], largest)

    def _value_gradient(self, experience: Experience, rows: Tensor) -> float:
        count = experience.rollout.response_mask[rows].sum()
        total = 0.0
        for part_rows in self._microbatches(experience.rollout, rows):
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

    def _apply_missing_eos(self, scores: Tensor, rollout: Rollout) -> Tensor:
        config, ended = self.config, self._ended(rollout)
        if config.missing_eos == "replace":
            return torch.where(ended, scores, config.missing_eos_score)
        if config.missing_eos == "subtract":
            return torch.where(ended, scores, scores + config.missing_eos_score)
        return scores

    def _ended(self, rollout: Rollout) -> Tensor:
        return rollout.ended(self.backbone.tokenizer.eos_token_id)

    def _checked(self, scores: Sequence[float], count: int) -> Tensor:
        scores = torch.as_tensor(scores, dtype=torch.float32, device=self.backbone.device)
        if scores.shape != (count,) or not scores.isfinite().all():
            raise ValueError(f"the reward function must return {count} finite numbers")
        return scores

    def _guard_ratio(self, stats: dict[str, float]) -> None:
        """Before the first step the policy is the one that sampled, so the ratio must be 1.

        To 1e-5 in float32, or to 32 roundings of the largest logit where that is more; 16-bit
        models round every activation, so there the bound is a rough 0.1.
        """
        exact = self.backbone.model.dtype == torch.float32
        rounding = 32 * torch.finfo(torch.float32).eps * stats["largest_logit"]
        tolerance = max(1e-5, rounding) if exact else 0.1
        if stats["ratio_error"] > tolerance:
            warnings.warn(
                f"update {self.update}: ratio is off 1 by {stats['ratio_error']:.2g} before any "
                f"step (at most {tolerance:.2g} expected): sampler and trainer see different "
                "policies. Look for dropout, another temperature, wrong positions or a wrong mask.",
                RatioWarning,
                stacklevel=2,
            )

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
        for rows in self._microbatches(rollout, torch.arange(len(rollout.response_ids))):
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

    def _microbatches(self, rollout: Rollout, rows: Tensor) -> tuple[Tensor, ...]:
        """This process's rows, those of like lengths together: little is computed for padding."""
        rows = parallel.own(rows)
        lengths = (rollout.prompt_mask.sum(1) + rollout.lengths)[rows]
        parts = rows[lengths.argsort(stable=True)].split(self.config.microbatch_size)
        return parts if len(rows) else ()

    def _endless(self, count: int) -> Passes:
        """Indices in random order, each once before any comes again.

        The order is drawn by a generator of its own, so that PPO and PPO-ptx ask the same prompts.
        """
        return Passes(lambda own: torch.randperm(count, generator=own).tolist(), self.config.seed)


def _padded(rows: Sequence[Tensor], width: int) -> Tensor:
    """Rows of at most that width as one tensor (N, width), 0 at the end."""
    return torch.stack([F.pad(row, (0, width - len(row))) for row in rows])


def _explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    spread = masked_var(returns, mask)
    return (1 - masked_var(returns - values, mask) / spread).item() if spread > 0 else 0.0
