"""Stage 1: supervised fine-tuning on demonstrations.

The loss counts the response's tokens only: the prompt is given, not learned. InstructGPT trained
for 16 epochs although the validation loss rose after the first, since the reward model's score of
the answers went on rising (section 3.5); so both can select the epoch that is kept.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from minirlhf.engine import parallel
from minirlhf.engine.backbone import BASE, Backbone
from minirlhf.engine.batches import Encoder, Passes, SequenceBatch, length_grouped_batches
from minirlhf.engine.optimisation import adam, cosine, finite, optimiser_step
from minirlhf.engine.records import DataError, Demonstration, Prompt
from minirlhf.engine.rollout import answers
from minirlhf.engine.settings import MAX_SEED, setting, validated
from minirlhf.engine.snapshot import optimiser_state, restore_optimiser, restore_role, role_state
from minirlhf.maths.losses import sft_loss
from minirlhf.maths.masked import gather_logprobs

Pair = tuple[list[int], list[int]]
ScoreFunction = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]


@validated
@dataclass(frozen=True)
class SFTConfig:
    """Settings of supervised fine-tuning; paper values from appendix C.1 (1.3B and 6B)."""

    epochs: int = setting(2, "passes over the demonstrations", paper=16, least=1)
    batch_size: int = setting(32, "demonstrations per step", paper=32, least=1)
    microbatch_size: int = setting(32, "demonstrations per forward pass", least=1)
    learning_rate: float = setting(2e-3, "Adam's peak step size", paper=9.65e-6, above=0)
    final_rate: float = setting(0.1, "cosine decay ends at this share", paper=0.1, least=0, most=1)
    dropout: float = setting(0.1, "residual dropout rate", paper=0.2, least=0, most=0.9)
    pretraining_mix: float = setting(
        0.0, "pretraining texts added, as a share of the demonstrations", paper=0.1, least=0
    )
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", above=0)
    select: str = setting(
        "last",
        "which epoch is kept: the last, or the best by validation loss or score",
        paper="score",
        choices=("last", "loss", "score"),
    )
    max_new_tokens: int = setting(40, "longest sampled answer, tokens, for valid_score", least=1)
    seed: int = setting(0, "order of the data, dropout, sampling", least=0, most=MAX_SEED)


class SFT:
    """Fine-tunes the base on demonstrations, as the role `reference`, step by step.

    Args:    train, valid: demonstrations; score: any function (prompts, responses) -> scores, such
             as a reward model; pretraining: texts for `pretraining_mix`.
    Yields:  after each step `train_loss` (nats per response token), `learning_rate`, `epoch`; the
             last step of an epoch adds `valid_loss` and `valid_score` where there is data for them.
    Afterwards `reference` is frozen and holds the epoch that `select` names.
    Source:  Ouyang et al. 2022, section 3.5 and appendix C.1 (arXiv:2203.02155).
    """

    def __init__(
        self,
        config: SFTConfig,
        backbone: Backbone,
        train: Sequence[Demonstration],
        valid: Sequence[Demonstration] = (),
        score: ScoreFunction | None = None,
        pretraining: Sequence[str] = (),
        role: str = "reference",
    ):
        if config.select != "last" and not valid:
            raise DataError(f"select={config.select!r} needs validation demonstrations")
        if config.select == "score" and score is None:
            raise DataError("select='score' needs a score function, such as a reward model")
        self.config, self.backbone, self.role, self.score = config, backbone, role, score
        encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
        self.encoder, self.valid = encoder, valid
        self._pairs = [encoder.pair(d, d.response) for d in train]
        mixed = round(config.pretraining_mix * len(train))
        self._pairs += _texts_as_pairs(encoder, pretraining, mixed)
        self._valid_pairs = [encoder.pair(d, d.response) for d in valid]
        lengths = [len(p) + len(r) for p, r in self._pairs]

        backbone.add_role(role, copy_of=BASE)
        backbone.train_role(role)
        self.optimiser = adam(backbone.named_parameters(role), config.learning_rate)
        self.step = 0
        self._batches = Passes(
            lambda own: length_grouped_batches(lengths, config.batch_size, own), config.seed
        )
        self._dropout_generator = torch.Generator(backbone.device).manual_seed(config.seed)
        self._best: dict[str, Any] | None = None  # {"merit", "weights"} of the epoch to keep

    def __len__(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.epochs * math.ceil(len(self._pairs) / self.config.batch_size)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return self

    def __next__(self) -> dict[str, float]:
        if self.step >= len(self):
            if self._best is not None:
                self.backbone.load_weights(self.role, self._best["weights"])
            self.backbone.train_role(self.role, trainable=False)
            raise StopIteration
        config = self.config
        rate = config.learning_rate * cosine(self.step, len(self), config.final_rate)
        pairs = [self._pairs[i] for i in next(self._batches)]
        luck = parallel.own_generator(self._dropout_generator)
        with self.backbone.dropout(config.dropout, luck):
            loss = _accumulate(
                self.backbone, self.role, self.encoder, pairs, config.microbatch_size
            )
        optimiser_step(self.optimiser, rate, config.max_grad_norm)
        self.step += 1
        epochs = self.step / len(self) * config.epochs
        stats = {"train_loss": loss, "learning_rate": rate, "epoch": epochs}
        if self.step % (len(self) // config.epochs) == 0:
            stats |= self._validate()
            self._keep_best(stats)
        return stats

    def state(self) -> dict[str, Any]:
        """A copy of all that the next steps depend on."""
        return {
            "step": self.step,
            "role": role_state(self.backbone, self.role),
            "optimiser": optimiser_state(self.optimiser),
            "batches": self._batches.state(),
            "dropout": self._dropout_generator.get_state(),
            "best": self._best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with the same settings, base and data."""
        self.step, self._best = state["step"], state["best"]
        restore_role(self.backbone, self.role, state["role"])
        restore_optimiser(self.optimiser, state["optimiser"])
        self._batches.restore(state["batches"])
        self._dropout_generator.set_state(state["dropout"])

    def _validate(self) -> dict[str, float]:
        stats: dict[str, float] = {}
        if not self.valid:
            return stats
        config, given = self.config, (self.backbone, self.role, self.encoder)
        stats["valid_loss"] = validation_loss(*given, self._valid_pairs, config.microbatch_size)
        if self.score:
            prompts = [Prompt(d.prompt, d.id) for d in self.valid]
            asked = [p for p, _ in self._valid_pairs]
            found = answers(*given, asked, config.max_new_tokens, config.seed)
            scores = self.score(prompts, [text for text, _ in found])
            stats["valid_score"] = sum(scores) / len(scores)
        return stats

    def _keep_best(self, stats: dict[str, float]) -> None:
        if self.config.select == "last":
            return
        merit = -stats["valid_loss"] if self.config.select == "loss" else stats["valid_score"]
        if self._best is None or merit > self._best["merit"]:
            weights = self.backbone.weights(self.role)
            self._best = {"merit": merit, "weights": weights}


def response_loss(
    backbone: Backbone, role: str, batch: SequenceBatch, count: int | None = None
) -> torch.Tensor:
    """Mean negative log-likelihood of a batch's response tokens: scalar, nats per token.

    `count`: the response tokens of the whole minibatch, where this is a part of one.
    """
    logits = backbone.logits(role, batch.input_ids[:, :-1], batch.attention_mask[:, :-1])
    logprobs = gather_logprobs(logits, batch.input_ids[:, 1:])
    loss = sft_loss(logprobs, batch.response_mask[:, 1:], count)
    return finite(loss, {f"logits of {role}": logits})


def _accumulate(
    backbone: Backbone, role: str, encoder: Encoder, pairs: Sequence[Pair], size: int
) -> float:
    """Gradients of one batch, micro-batch by micro-batch; returns its loss."""
    count, total = sum(len(response) for _, response in pairs), 0.0
    pairs = parallel.deal(pairs)
    for start in range(0, len(pairs), size):
        loss = response_loss(backbone, role, encoder.sequences(pairs[start : start + size]), count)
        loss.backward()
        total += loss.item()
    return parallel.total({"loss": total})["loss"]


@torch.no_grad()
def validation_loss(
    backbone: Backbone, role: str, encoder: Encoder, pairs: Sequence[Pair], batch_size: int
) -> float:
    """`response_loss` over many pairs, each response token counted alike."""
    total = 0.0
    count, pairs = sum(len(response) for _, response in pairs), parallel.deal(pairs)
    for start in range(0, len(pairs), batch_size):
        batch = encoder.sequences(pairs[start : start + batch_size])
        total += response_loss(backbone, role, batch, count).item()
    return parallel.total({"loss": total})["loss"]


def _texts_as_pairs(encoder: Encoder, texts: Sequence[str], count: int) -> list[Pair]:
    """Pretraining texts as pairs without a prompt: the first token is given, the rest learned."""
    if count > len(texts):
        raise DataError(f"pretraining_mix needs {count} texts, got {len(texts)}")
    pairs = []
    for text in texts[:count]:
        ids = encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        pairs.append((ids[:1], ids[1 : encoder.limit]))  # a page longer than the context is cut
    return pairs
