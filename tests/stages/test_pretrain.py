"""minirlhf.stages.pretrain: a tokenizer and a model from nothing but text."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minirlhf.engine.metrics import METRICS
from minirlhf.stages.pretrain import (
    PretrainConfig,
    Pretraining,
    document_loss,
    new_model,
    train_tokenizer,
)

TINY = PretrainConfig(
    vocabulary=300,
    hidden_size=16,
    layers=1,
    heads=2,
    intermediate_size=32,
    context_length=32,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=2,
    epochs=2,
)


@pytest.fixture(scope="module")
def small_tokenizer(micro_texts):
    return train_tokenizer(micro_texts, TINY.vocabulary, TINY.context_length)


@pytest.mark.parametrize("text", ["The moon is round.", "  two  spaces", "Ünïcödé 月 🌙", "a\nb\t"])
def test_any_text_survives_the_tokenizer(small_tokenizer, text):
    ids = small_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert small_tokenizer.decode(ids) == text


def test_digits_stand_alone(small_tokenizer):
    tokens = small_tokenizer.tokenize("In 1969 and 2024")
    assert [t for t in tokens if t.isdigit()] == list("19692024")
    assert not any(len(t) > 1 and any(c.isdigit() for c in t) for t in tokens)


def test_special_tokens_are_two_and_stand_apart(small_tokenizer):
    assert small_tokenizer.eos_token != small_tokenizer.pad_token
    assert len(small_tokenizer) == TINY.vocabulary
    text = f"a{small_tokenizer.eos_token}b"
    assert small_tokenizer(text, add_special_tokens=False)["input_ids"][1] == 0


def test_the_seed_decides_the_weights_and_nothing_else_is_drawn(small_tokenizer):
    state = torch.get_rng_state()
    models = [
        new_model(dataclasses.replace(TINY, seed=seed), small_tokenizer) for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = ([p for p in m.parameters()] for m in models)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_loss_is_transformers_own_over_every_token_but_the_first(small_tokenizer):
    model = new_model(TINY, small_tokenizer)
    documents = [[5, 6, 7, 8, 0], [9, 10, 0]]
    pad = small_tokenizer.pad_token_id
    ids = torch.tensor([documents[0], documents[1] + [pad] * 2])
    labels = torch.tensor([documents[0], documents[1] + [-100] * 2])
    mask = (labels != -100).long()
    theirs = model(ids, attention_mask=mask, labels=labels).loss
    assert document_loss(model, documents, pad).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_it_learns_and_reports(small_tokenizer, micro_texts):
    model, texts = new_model(TINY, small_tokenizer), micro_texts[:100]
    training = Pretraining(TINY, model, small_tokenizer, texts)
    stats = list(training)
    assert len(stats) == len(training) == 26
    assert stats[-1]["train_loss"] < stats[0]["train_loss"] - 0.5
    assert stats[-1]["epoch"] == 2.0
    assert set().union(*stats) <= METRICS.keys()
    rates = [row["learning_rate"] for row in stats]
    assert rates[0] == pytest.approx(1e-3)  # a tenth, before the warm-up
    assert max(rates) == max(rates[2:4])
    assert rates[-1] < 0.15 * 1e-2
    assert not model.training


def test_long_documents_are_cut_and_short_ones_end(small_tokenizer, monkeypatch):
    from minirlhf.stages import pretrain as stage

    seen, loss = [], stage.document_loss

    def watched(model, documents, pad):
        seen.extend(documents)
        return loss(model, documents, pad)

    monkeypatch.setattr(stage, "document_loss", watched)
    config = dataclasses.replace(TINY, epochs=1)
    model, texts = new_model(TINY, small_tokenizer), ["Io", "word " * 50]
    list(Pretraining(config, model, small_tokenizer, texts))
    short, long = sorted(seen, key=len)
    assert short[-1] == small_tokenizer.eos_token_id
    assert len(long) == TINY.context_length
    assert small_tokenizer.eos_token_id not in long


def test_what_is_made_is_a_plain_llama(small_tokenizer, tmp_path):
    model = new_model(TINY, small_tokenizer)
    model.save_pretrained(tmp_path)
    small_tokenizer.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.config.model_type == "llama"
    assert plain.num_parameters() == model.num_parameters()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(plain(ids).logits, model.eval()(ids).logits, atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == small_tokenizer.get_vocab()
