"""minirlhf.stages.sft: the response is learned, the prompt given, the right epoch kept."""

import math

import pytest
import torch

from minirlhf.engine.batches import Encoder
from minirlhf.engine.metrics import METRICS
from minirlhf.engine.records import DataError, Demonstration
from minirlhf.engine.rollout import answers
from minirlhf.stages.sft import (
    SFT,
    SFTConfig,
    _accumulate,
    _texts_as_pairs,
    response_loss,
    validation_loss,
)

QUICK = SFTConfig(epochs=3, batch_size=4, learning_rate=1e-2, dropout=0.0)


def config(**changes):
    return SFTConfig(**{**vars(QUICK), **changes})


def train(backbone, demonstrations, settings=QUICK, **options):
    return list(SFT(settings, backbone, demonstrations, **options))


def encoded(backbone, demonstrations):
    encoder = Encoder(backbone.tokenizer, backbone.context_length)
    return encoder, [encoder.pair(d, d.response) for d in demonstrations]


# The loss ---------------------------------------------------------------------------------------


def test_loss_is_transformers_own_with_the_prompt_masked(ready, demonstrations):
    encoder, pairs = encoded(ready, demonstrations)
    batch = encoder.sequences(pairs)
    labels = torch.where(batch.response_mask, batch.input_ids, -100)
    with ready.active("reference") as model:
        theirs = model(batch.input_ids, attention_mask=batch.attention_mask.long(), labels=labels)
    ours = response_loss(ready, "reference", batch)
    assert ours.item() == pytest.approx(theirs.loss.item(), rel=1e-5)


def test_each_response_token_counts_alike(ready, demonstrations):
    """The loss of a batch is not the mean of its rows' losses: long responses weigh more."""
    encoder, pairs = encoded(ready, demonstrations)
    total = count = 0.0
    for pair in pairs:
        n = len(pair[1])
        total += n * response_loss(ready, "reference", encoder.sequences([pair])).item()
        count += n
    for size in (1, 3, 8):
        found = validation_loss(ready, "reference", encoder, pairs, size)
        assert found == pytest.approx(total / count, rel=1e-5)


def test_microbatches_add_up_exactly(ready, demonstrations):
    encoder, pairs = encoded(ready, demonstrations)
    parameters, found = ready.train_role("reference"), {}
    for size in (8, 3, 1):
        for parameter in parameters:
            parameter.grad = None
        loss = _accumulate(ready, "reference", encoder, pairs, size)
        found[size] = loss, [p.grad.clone() for p in parameters]
    batch = encoder.sequences(pairs)
    for loss, grads in found.values():
        assert loss == pytest.approx(response_loss(ready, "reference", batch).item(), rel=1e-5)
        scale = max(g.abs().max() for g in found[8][1])
        for one, other in zip(grads, found[8][1], strict=True):
            assert (one - other).abs().max() <= 3e-5 * scale


# Learning ---------------------------------------------------------------------------------------


def test_four_demonstrations_are_learned_by_heart(backbone, demonstrations):
    few = demonstrations[:4]
    settings = config(epochs=100, learning_rate=1e-2)
    stats = train(backbone, few, settings)
    assert stats[0]["train_loss"] > 2
    assert stats[-1]["train_loss"] < 0.2
    encoder, pairs = encoded(backbone, few)
    found = answers(backbone, "reference", encoder, [p for p, _ in pairs], 20, 0, temperature=0)
    assert found == [(d.response, True) for d in few]


def test_the_base_is_not_touched_and_the_role_is_frozen_afterwards(backbone, demonstrations):
    before = [p.clone() for p in backbone.model.parameters()]
    train(backbone, demonstrations)
    plain = [p for n, p in backbone.model.named_parameters() if ".lora_" not in n]
    assert all(torch.equal(a, b) for a, b in zip(plain, before, strict=True))
    assert not any(p.requires_grad for p in backbone.parameters("reference"))


def test_training_starts_from_the_base_each_time(backbone, demonstrations):
    first, again = (train(backbone, demonstrations) for _ in range(2))
    assert first == again


# Schedule and dropout ---------------------------------------------------------------------------


def test_rate_falls_by_a_cosine_to_a_tenth(backbone, demonstrations):
    training = SFT(config(epochs=5, learning_rate=0.004), backbone, demonstrations)
    stats = list(training)
    assert len(stats) == len(training) == 10
    for step, row in enumerate(stats):
        share = (1 + math.cos(math.pi * step / 10)) / 2
        assert row["learning_rate"] == pytest.approx(0.0004 + 0.0036 * share)
    assert [row["epoch"] for row in stats] == [e / 2 for e in range(1, 11)]


def test_dropout_acts_in_training_only_and_repeats(new_backbone, lora, demonstrations):
    runs = {}
    for name, rate, seed in (("a", 0.2, 0), ("b", 0.2, 0), ("off", 0.0, 0), ("seed", 0.2, 1)):
        backbone = new_backbone(lora)
        settings = config(epochs=1, batch_size=8, dropout=rate, seed=seed)
        stats = train(backbone, demonstrations, settings, valid=demonstrations[:3])
        runs[name] = stats[-1]
        encoder, pairs = encoded(backbone, demonstrations[:3])
        exact = validation_loss(backbone, "reference", encoder, pairs, 8)
        assert stats[-1]["valid_loss"] == exact  # nothing was dropped there
    assert runs["a"] == runs["b"]
    assert len({runs[name]["train_loss"] for name in ("a", "off", "seed")}) == 3


# Which epoch is kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["last", "loss"])
def test_the_epoch_of_the_best_loss_is_kept(backbone, demonstrations, select):
    valid = [Demonstration("Where is Rome?", "In Italy, on the Tiber.")]
    settings = config(epochs=6, learning_rate=0.03, select=select)
    losses = [
        row["valid_loss"]
        for row in train(backbone, demonstrations[:4], settings, valid=valid)
        if "valid_loss" in row
    ]
    encoder, pairs = encoded(backbone, valid)
    kept = validation_loss(backbone, "reference", encoder, pairs, 4)
    assert len(losses) == 6
    assert min(losses) < losses[-1]  # it did over-fit
    assert kept == pytest.approx(min(losses) if select == "loss" else losses[-1], rel=1e-6)


def test_the_epoch_of_the_best_score_is_kept(backbone, demonstrations):
    """A made-up score, best after the second epoch; the loss would keep another one."""
    scores, asked, weights = iter([0.5, 3.0, 3.0, 1.0]), [], []

    def score(prompts, texts):
        asked.append(([p.prompt for p in prompts], texts))
        return [next(scores)] * len(texts)

    steps = SFT(
        config(epochs=4, select="score"), backbone, demonstrations, demonstrations[:2], score
    )
    found = []
    for row in steps:
        if "valid_score" in row:
            found.append(row["valid_score"])
            weights.append(backbone.weights("reference"))
    assert found == [0.5, 3.0, 3.0, 1.0]
    assert all(prompts == [d.prompt for d in demonstrations[:2]] for prompts, _ in asked)
    assert all(isinstance(text, str) for _, texts in asked for text in texts)
    for name, weight in backbone.weights("reference").items():
        assert torch.equal(weight, weights[1][name])
    assert not all(torch.equal(w, weights[3][n]) for n, w in weights[1].items())


def test_selection_needs_something_to_select_by(backbone, demonstrations):
    with pytest.raises(DataError, match="select='loss' needs validation demonstrations"):
        train(backbone, demonstrations, config(select="loss"))
    with pytest.raises(DataError, match="select='score' needs a score function"):
        train(backbone, demonstrations, config(select="score"), valid=demonstrations)


# Pretraining mix --------------------------------------------------------------------------------


def test_pretraining_texts_are_mixed_in(backbone, demonstrations, micro_texts):
    settings = config(epochs=1, batch_size=2, pretraining_mix=0.5)
    assert len(SFT(settings, backbone, demonstrations, pretraining=micro_texts)) == 6
    assert len(train(backbone, demonstrations, settings, pretraining=micro_texts)) == 6
    with pytest.raises(DataError, match="pretraining_mix needs 4 texts, got 1"):
        train(backbone, demonstrations, settings, pretraining=micro_texts[:1])


def test_a_text_counts_from_its_second_token_and_ends_with_the_context(backbone, micro_texts):
    """Documents of the web are longer than a small context; that is no reason to stop."""
    encoder = Encoder(backbone.tokenizer, 16)
    text = next(t for t in micro_texts if len(t) > 100)
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    [(given, learned)] = _texts_as_pairs(encoder, [text], 1)
    assert given + learned == ids[:16]
    assert len(given) == 1


def test_mixing_keeps_the_pretraining_loss_down(new_backbone, lora, demonstrations, micro_texts):
    texts = [t for t in micro_texts if len(t) > 40][:8]
    losses = {}
    for mix in (0.0, 1.0):
        backbone = new_backbone(lora)
        train(backbone, demonstrations, config(epochs=10, pretraining_mix=mix), pretraining=texts)
        ids = [backbone.tokenizer(t, add_special_tokens=False)["input_ids"][:60] for t in texts]
        encoder = Encoder(backbone.tokenizer, 128)
        pairs = [(i[:1], i[1:]) for i in ids]
        losses[mix] = validation_loss(backbone, "reference", encoder, pairs, 8)
    assert losses[1.0] < losses[0.0] - 0.2


# The rest ---------------------------------------------------------------------------------------


def test_every_metric_is_registered(backbone, demonstrations):
    stats = train(backbone, demonstrations, valid=demonstrations, score=lambda p, t: [0.0] * len(t))
    names = set().union(*stats)
    assert names == {
        "train_loss", "valid_loss", "valid_score", "learning_rate", "epoch"
    }  # fmt: skip
    assert names <= METRICS.keys()


def test_a_demonstration_over_the_context_names_its_line(backbone, demonstrations):
    long = Demonstration("Tell me.", "very " * 200, where="demos.jsonl:12")
    with pytest.raises(DataError, match=r"^demos\.jsonl:12: field 'prompt'"):
        train(backbone, [*demonstrations, long])
    assert "reference" not in backbone.roles
