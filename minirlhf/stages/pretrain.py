"""Stage 0: pretrain a small base model from scratch, tokenizer and all.

The paper started from GPT-3 in three sizes. Here the start is a ladder of small Llamas that have
read nothing but the almanac's little web.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minirlhf.engine.batches import CHAT_TEMPLATE, Passes, length_grouped_batches
from minirlhf.engine.optimisation import adam, cosine, finite, optimiser_step, warm_up
from minirlhf.engine.settings import MAX_SEED, setting, validated
from minirlhf.engine.snapshot import optimiser_state, restore_optimiser
from minirlhf.maths.losses import sft_loss
from minirlhf.maths.masked import gather_logprobs

EOS, PAD = "<|endoftext|>", "<|pad|>"


@validated
@dataclass(frozen=True)
class PretrainConfig:
    """Size and training of a base model; the defaults are those of the shipped moonlet-1m."""

    vocabulary: int = setting(2048, "entries of the byte-level BPE tokenizer", least=300)
    hidden_size: int = setting(128, "width of the residual stream", least=8)
    layers: int = setting(4, "decoder layers", least=1)
    heads: int = setting(4, "attention heads", least=1)
    intermediate_size: int = setting(384, "width of the MLP", least=8)
    context_length: int = setting(256, "longest sequence, tokens", least=32)
    documents: int = setting(120_000, "documents of the corpus", least=1)
    epochs: int = setting(1, "passes over the corpus", least=1)
    batch_size: int = setting(48, "documents per step", least=1)
    learning_rate: float = setting(3e-3, "Adam's peak step size", above=0)
    warmup_steps: int = setting(50, "steps from a tenth of the rate up to it", least=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", above=0)
    seed: int = setting(0, "corpus, initial weights, order of texts", least=0, most=MAX_SEED)


# The ladder of base models: one corpus and one tokenizer, the width grows. Smaller models stand
# larger steps.
LADDER = {
    "moonlet-300k": PretrainConfig(
        hidden_size=64, heads=2, intermediate_size=192, learning_rate=5e-3
    ),
    "moonlet-1m": PretrainConfig(),
    "moonlet-4m": PretrainConfig(
        hidden_size=256, heads=8, intermediate_size=768, learning_rate=2e-3
    ),
}


def train_tokenizer(texts: Sequence[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; digits stand alone, so that numbers are spelled one way."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=EOS, pad_token=PAD, model_max_length=context
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights of `config`'s shape, drawn from its seed."""
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.context_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():  # transformers draws initial weights from the global generator
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(shape).float()


class Pretraining:
    """Trains a model on documents, each from its first token to its EOS, batched by length.

    Yields: after each step `train_loss` (nats per token), `learning_rate`, `epoch`.
    """

    def __init__(
        self,
        config: PretrainConfig,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        texts: Sequence[str],
    ):
        self.config, self.model, self._pad = config, model, tokenizer.pad_token_id
        self._documents = [
            [*ids, tokenizer.eos_token_id][: config.context_length]
            for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        ]
        lengths = [len(d) for d in self._documents]
        # not fused: the shipped models were made so, and are remade bit for bit
        self.optimiser = adam(model.named_parameters(), config.learning_rate, fused=False)
        self.step = 0
        self._batches = Passes(
            lambda own: length_grouped_batches(lengths, config.batch_size, own), config.seed
        )
        model.train()

    def __len__(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.epochs * math.ceil(len(self._documents) / self.config.batch_size)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return self

    def __next__(self) -> dict[str, float]:
        config = self.config
        if self.step >= len(self):
            self.model.eval()
            raise StopIteration
        rate = cosine(self.step, len(self)) * warm_up(self.step, config.warmup_steps)
        rate *= config.learning_rate
        documents = [self._documents[i] for i in next(self._batches)]
        loss = document_loss(self.model, documents, self._pad)
        loss.backward()
        optimiser_step(self.optimiser, rate, config.max_grad_norm)
        self.step += 1
        epochs = self.step / len(self) * config.epochs
        return {"train_loss": loss.item(), "learning_rate": rate, "epoch": epochs}

    def state(self) -> dict[str, Any]:
        """A copy of all that the next steps depend on."""
        return {
            "step": self.step,
            "weights": {n: p.detach().clone() for n, p in self.model.named_parameters()},
            "optimiser": optimiser_state(self.optimiser),
            "batches": self._batches.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with the same settings and texts."""
        self.step = state["step"]
        self.model.load_state_dict(state["weights"], strict=False)  # tied weights are there once
        restore_optimiser(self.optimiser, state["optimiser"])
        self._batches.restore(state["batches"])


def document_loss(model, documents: Sequence[list[int]], pad: int) -> torch.Tensor:
    """Mean next-token loss over documents padded on the right: scalar, nats per token.

    No attention mask: what comes before a token never holds padding.
    """
    width = max(map(len, documents))
    ids = torch.tensor([d + [pad] * (width - len(d)) for d in documents])
    mask = torch.tensor([[True] * len(d) + [False] * (width - len(d)) for d in documents])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss = sft_loss(gather_logprobs(logits, ids[:, 1:]), mask[:, 1:])
    return finite(loss, {"logits": logits})
