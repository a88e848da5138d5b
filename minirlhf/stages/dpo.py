"""A neighbour of stages 2 and 3: DPO learns a policy from the rankings themselves.

    rankings -> log pi(y|x) and log pi_ref(y|x) of each response -> dpo_loss -> step

No reward model, no value model, no sampling: a policy is a reward model of its own,
r(x, y) = beta log(pi(y|x) / pi_ref(y|x)), and is trained with the reward model's loss. What it
leaves out of PPO it leaves out of the data, too: it learns only about the responses in the
rankings, not about those that it would give by now.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder, Passes
from minirlhf.engine.optimisation import adam, finite, optimiser_step, warm_up
from minirlhf.engine.records import DataError, Ranking, checksum
from minirlhf.engine.settings import MAX_SEED, setting, validated
from minirlhf.engine.snapshot import optimiser_state, restore_optimiser, restore_role, role_state
from minirlhf.maths.preferences import dpo_loss, ranking_to_pairs

TIE = 1e-4  # nats: less is rounding; at the first step all leads are, and the accuracy is 0.5


@validated
@dataclass(frozen=True)
class DPOConfig:
    """Settings of DPO; paper values from Rafailov et al. 2023, appendix B."""

    epochs: int = setting(1, "passes over the rankings", least=1)
    batch_size: int = setting(16, "prompts per step, all their pairs with them", paper=64, least=1)
    microbatch_size: int = setting(16, "prompts per forward pass", least=1)
    beta: float = setting(0.1, "price of a nat of KL to SFT, RM units", paper=0.1, above=0)
    learning_rate: float = setting(3e-4, "Adam's peak step size", paper=1e-6, above=0)
    warmup_steps: int = setting(
        10, "steps from a tenth of the rate up to it, constant then", paper=150, least=0
    )
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", above=0)
    seed: int = setting(0, "order of the data", least=0, most=MAX_SEED)


class DPO:
    """Trains the role `policy`, a copy of `reference`, on rankings, step by step.

    Args:    train, valid: rankings, K may vary; a tie gives no pair. All pairs of a prompt stand in
             one batch element and weigh 1 / pairs, as in the reward model's training.
    Yields:  after each step `dpo_loss`, `pair_accuracy` (of beta log(pi / pi_ref) as a score),
             `chosen_logratio`, `rejected_logratio`, `policy_grad_norm`, `learning_rate`, `epoch`;
             the last step of an epoch adds `valid_dpo_loss` and `valid_pair_accuracy`.
    Afterwards `policy` is frozen. What the reference says is computed once, at the start.
    Source:  Rafailov et al. 2023 (arXiv:2305.18290), with Adam in place of RMSprop.
    """

    def __init__(
        self,
        config: DPOConfig,
        backbone: Backbone,
        train: Sequence[Ranking],
        valid: Sequence[Ranking] = (),
    ):
        if not train:
            raise DataError("rankings: there are none")
        self.config, self.backbone = config, backbone
        self.train, self.valid = train, valid
        self.encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
        for ranking in (*train, *valid):  # a response that is too long is said now, not half-way
            for response in ranking.responses:
                self.encoder.pair(ranking, response)
        backbone.add_role("policy", copy_of="reference")
        backbone.train_role("policy")
        self.optimiser = adam(backbone.named_parameters("policy"), config.learning_rate)
        self._train_ref = self._reference(train)
        self._valid_ref = self._reference(valid)
        self.step = 0
        self._batches = Passes(
            lambda own: torch.randperm(len(train), generator=own).split(config.batch_size),
            config.seed,
        )

    def __len__(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.epochs * math.ceil(len(self.train) / self.config.batch_size)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return self

    def __next__(self) -> dict[str, float]:
        config = self.config
        if self.step >= len(self):
            self.backbone.train_role("policy", trainable=False)
            raise StopIteration
        rate = config.learning_rate * warm_up(self.step, config.warmup_steps)
        rows = next(self._batches)
        stats = self._accumulate([self.train[i] for i in rows.tolist()], self._train_ref[rows])
        stats["policy_grad_norm"] = optimiser_step(self.optimiser, rate, config.max_grad_norm)
        self.step += 1
        stats |= {"learning_rate": rate, "epoch": self.step / len(self) * config.epochs}
        if self.step % (len(self) // config.epochs) == 0 and self.valid:
            with torch.no_grad():
                found = self._accumulate(self.valid, self._valid_ref)
            stats |= {f"valid_{name}": found[name] for name in ("dpo_loss", "pair_accuracy")}
        return stats

    def _accumulate(self, rankings: Sequence[Ranking], ref: Tensor) -> dict[str, float]:
        """Gradients of one batch, micro-batch by micro-batch; `count` makes them add up exactly.

        Args: ref (B, K) nats: the reference's log-probabilities.
        """
        names = ("dpo_loss", "pair_accuracy", "chosen_logratio", "rejected_logratio", "pairs")
        stats, size = dict.fromkeys(names, 0.0), self.config.microbatch_size
        rankings, count = parallel.deal(list(rankings)), len(rankings)
        ref = parallel.deal(ref)
        for start in range(0, len(rankings), size):
            batch = self.encoder.rankings(rankings[start : start + size])
            ref_logprobs = ref[start : start + size, : batch.ranks.shape[1]]
            logprobs = batch.by_prompt(self.backbone.ranking_logprobs("policy", batch))
            loss = dpo_loss(logprobs, ref_logprobs, batch.ranks, self.config.beta, count)
            finite(loss, {"logprobs of policy": logprobs, "logprobs of reference": ref_logprobs})
            if loss.requires_grad:
                loss.backward()
            stats["dpo_loss"] += loss.item()
            pairs = _pairs(logprobs - ref_logprobs, batch.ranks)
            stats["pairs"] += len(pairs)
            stats["pair_accuracy"] += sum(
                (a > b + TIE) + 0.5 * (abs(a - b) <= TIE) for a, b in pairs
            )
            stats["chosen_logratio"] += sum(a for a, _ in pairs)
            stats["rejected_logratio"] += sum(b for _, b in pairs)
        stats = parallel.total(stats)
        pairs = stats.pop("pairs")
        return {name: s if name == "dpo_loss" else s / pairs for name, s in stats.items()}

    @torch.no_grad()
    def _reference(self, rankings: Sequence[Ranking]) -> Tensor:
        """log pi_ref(y|x) of each response: (N, K) nats, 0 in empty slots."""
        if not rankings:
            return torch.zeros(0, 0)
        mine, size, rows = parallel.share(list(rankings)), self.config.microbatch_size, []
        for start in range(0, len(mine), size):
            batch = self.encoder.rankings(mine[start : start + size])
            rows += batch.by_prompt(self.backbone.ranking_logprobs("reference", batch))
        width = max(len(ranking.ranks) for ranking in rankings)
        table = torch.stack([F.pad(row, (0, width - len(row))) for row in rows])
        return parallel.together(table, len(rankings))

    def state(self) -> dict[str, Any]:
        """A copy of all that the next steps depend on."""
        return {
            "step": self.step,
            "role": role_state(self.backbone, "policy"),
            "optimiser": optimiser_state(self.optimiser),
            "batches": self._batches.state(),
            "rankings": checksum([self.train, self.valid]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with the same settings, reference and rankings.

        Raises ValueError where the rankings are others.
        """
        if state["rankings"] != checksum([self.train, self.valid]):
            raise ValueError("the rankings are not those that it began with")
        self.step = state["step"]
        restore_role(self.backbone, "policy", state["role"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self._batches.restore(state["batches"])


def _pairs(logratios: Tensor, ranks: Tensor) -> list[tuple[float, float]]:
    """log(pi / pi_ref) of the better and of the worse response of each pair, (B, K) nats."""
    return [
        (row[better], row[worse])
        for row, own in zip(logratios.tolist(), ranks.tolist(), strict=True)
        for better, worse in ranking_to_pairs(own)
    ]
