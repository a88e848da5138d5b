"""Stage 2: the reward model, from people's rankings of K responses.

Each response goes through the model once; all C(K, 2) pairs of a prompt then stand in one batch
element. Taken apart and shuffled, the same response would be trained on K - 1 times in an epoch,
and InstructGPT saw that over-fit (section 3.5).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder, Passes
from minirlhf.engine.optimisation import adam, cosine, finite, optimiser_step
from minirlhf.engine.records import Demonstration, Ranking, checksum
from minirlhf.engine.rollout import score_texts
from minirlhf.engine.settings import MAX_SEED, setting, validated
from minirlhf.engine.snapshot import optimiser_state, restore_optimiser, restore_role, role_state
from minirlhf.maths.preferences import (
    best_of_k_loss,
    pair_accuracy,
    plackett_luce_loss,
    ranking_loss,
    ranking_to_pairs,
)


@validated
@dataclass(frozen=True)
class RewardConfig:
    """Settings of the reward model; paper values from appendix C.2 (6B)."""

    epochs: int = setting(3, "passes over the rankings", paper=1, least=1)
    batch_size: int = setting(16, "prompts per step, all their pairs with them", paper=64, least=1)
    microbatch_size: int = setting(16, "prompts per forward pass", least=1)
    learning_rate: float = setting(1e-3, "Adam's peak step size", paper=9e-6, above=0)
    final_rate: float = setting(0.1, "cosine decay ends at this share", paper=0.1, least=0, most=1)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", above=0)
    loss: str = setting(
        "pairs",
        "all pairs (Bradley-Terry), the whole order (Plackett-Luce), or the best of K",
        paper="pairs",
        choices=("pairs", "plackett_luce", "best_of_k"),
    )
    ties: str = setting(
        "drop",
        "tied pairs, for loss=pairs: dropped, labelled half-half, or a tie model",
        paper="drop",
        choices=("drop", "half", "rao_kupper"),
    )
    seed: int = setting(0, "order of the data", least=0, most=MAX_SEED)


class RewardTraining:
    """Trains the role `reward`, an adapter that starts from `init` and a scalar head, stepwise.

    Args:    train, valid: rankings, K may vary; demonstrations: the bias is set so that they score
             0 on average; init: the role to start from, as the paper from SFT or GPT-3.
    Yields:  after each step `ranking_loss`, `pair_accuracy`, `learning_rate`, `epoch`; the last
             step of an epoch adds `valid_ranking_loss` and `valid_pair_accuracy`.
    Afterwards `reward` is frozen.
    Source:  Ouyang et al. 2022, equation 1 and appendix C.2 (arXiv:2203.02155).
    """

    def __init__(
        self,
        config: RewardConfig,
        backbone: Backbone,
        train: Sequence[Ranking],
        valid: Sequence[Ranking] = (),
        demonstrations: Sequence[Demonstration] = (),
        init: str = "reference",
    ):
        self.config, self.backbone = config, backbone
        self.train, self.valid, self.demonstrations = train, valid, demonstrations
        self.encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
        for ranking in (*train, *valid):  # a response that is too long is said now, not half-way
            for response in ranking.responses:
                self.encoder.pair(ranking, response)
        backbone.add_role("reward", copy_of=init)
        backbone.train_role("reward")
        self.optimiser = adam(backbone.named_parameters("reward"), config.learning_rate)
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
            self.backbone.train_role("reward", trainable=False)
            if self.demonstrations:
                # about as many texts at once as a micro-batch has responses
                centre(self.backbone, self.demonstrations, 4 * config.microbatch_size)
            raise StopIteration
        rate = config.learning_rate * cosine(self.step, len(self), config.final_rate)
        rankings = [self.train[i] for i in next(self._batches).tolist()]
        loss_of = _loss_function(config)
        stats = _accumulate(config, self.backbone, self.encoder, rankings, loss_of)
        optimiser_step(self.optimiser, rate, config.max_grad_norm)
        self.step += 1
        stats |= {"learning_rate": rate, "epoch": self.step / len(self) * config.epochs}
        if self.step % (len(self) // config.epochs) == 0 and self.valid:
            found = evaluate(config, self.backbone, self.valid)
            stats |= {f"valid_{name}": value for name, value in found.items()}
        return stats

    def state(self) -> dict[str, Any]:
        """A copy of all that the next steps depend on."""
        return {
            "step": self.step,
            "role": role_state(self.backbone, "reward"),
            "optimiser": optimiser_state(self.optimiser),
            "batches": self._batches.state(),
            "rankings": checksum([self.train, self.valid]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with the same settings, `init` and rankings.

        Raises ValueError where the rankings are others.
        """
        if state["rankings"] != checksum([self.train, self.valid]):
            raise ValueError("the rankings are not those that it began with")
        self.step = state["step"]
        restore_role(self.backbone, "reward", state["role"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self._batches.restore(state["batches"])


def _loss_function(config: RewardConfig) -> Callable[..., Tensor]:
    if config.loss == "pairs":
        return partial(ranking_loss, ties=config.ties)
    return {"plackett_luce": plackett_luce_loss, "best_of_k": best_of_k_loss}[config.loss]


def _accumulate(config, backbone, encoder, rankings, loss_of) -> dict[str, float]:
    """Gradients of one batch, micro-batch by micro-batch; `count` makes them add up exactly."""
    stats = {"loss": 0.0, "right": 0.0, "pairs": 0.0}
    own = parallel.deal(list(rankings))
    for start in range(0, len(own), config.microbatch_size):
        batch = encoder.rankings(own[start : start + config.microbatch_size])
        scores = batch.by_prompt(backbone.ranking_scores("reward", batch))
        part = loss_of(scores, batch.ranks, count=len(rankings))
        finite(part, {"scores of reward": scores})
        if part.requires_grad:
            part.backward()
        stats["loss"] += part.item()
        n = sum(len(ranking_to_pairs(r)) for r in batch.ranks.tolist())
        stats["right"] += pair_accuracy(scores.detach(), batch.ranks).item() * n
        stats["pairs"] += n
    stats = parallel.total(stats)
    return {"ranking_loss": stats["loss"], "pair_accuracy": stats["right"] / stats["pairs"]}


@torch.no_grad()
def evaluate(
    config: RewardConfig, backbone: Backbone, rankings: Sequence[Ranking]
) -> dict[str, float]:
    """`ranking_loss` and `pair_accuracy` of the reward model on some rankings."""
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    return _accumulate(config, backbone, encoder, rankings, _loss_function(config))


@torch.no_grad()
def centre(
    backbone: Backbone, demonstrations: Sequence[Demonstration], batch_size: int = 64
) -> float:
    """Shift the reward model's bias so that demonstrations score 0 on average; returns the shift.

    Rankings fix only differences of scores, so the zero has to be chosen: the paper puts it here.
    """
    texts = [d.response for d in demonstrations]
    scores = score_texts(backbone, demonstrations, texts, batch_size)
    shift = -sum(scores) / len(scores)
    backbone.heads["reward"].bias += shift
    return shift
