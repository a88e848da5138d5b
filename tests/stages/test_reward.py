"""minirlhf.stages.reward: the loss of all pairs from one forward pass per prompt."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from minirlhf.engine import decoder
from minirlhf.engine.batches import Encoder
from minirlhf.engine.metrics import METRICS
from minirlhf.engine.records import DataError, Ranking
from minirlhf.engine.rollout import score_texts
from minirlhf.stages.reward import (
    RewardConfig,
    RewardTraining,
    _accumulate,
    _loss_function,
    centre,
    evaluate,
)

LOSSES = [("pairs", t) for t in ("drop", "half", "rao_kupper")]
LOSSES += [("plackett_luce", "drop"), ("best_of_k", "drop")]


@pytest.fixture
def encoder(tokenizer):
    return Encoder(tokenizer, 128)


def gradients(ready, encoder, rankings, **settings):
    """Loss and gradients of one batch of rankings by the stage's own code."""
    config = RewardConfig(**settings)
    parameters = ready.train_role("reward")
    for parameter in parameters:
        parameter.grad = None
    stats = _accumulate(config, ready, encoder, rankings, _loss_function(config))
    return stats, [p.grad.clone() for p in parameters]


def close(ours, theirs, rel):
    scale = max(g.abs().max() for g in theirs)
    assert scale > 1e-4
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).abs().max() <= rel * scale


# The loss ---------------------------------------------------------------------------------------


def test_one_pass_equals_the_naive_double_loop(ready, encoder, rankings, monkeypatch):
    """Oracle: every pair apart, two forward passes each; half of the work is done again."""
    read, places = [], decoder.places

    def counted(model, positions, mask):
        read.append(positions.numel())
        return places(model, positions, mask)

    monkeypatch.setattr(decoder, "places", counted)
    stats, ours = gradients(ready, encoder, rankings)
    assert sum(read) == encoder.rankings(rankings).tree.input_ids.numel()  # each prompt once
    once = sum(read)
    read.clear()

    def score(ranking, text):
        batch = encoder.sequences([encoder.pair(ranking, text)])
        return ready.scores("reward", batch.input_ids, batch.attention_mask)[0]

    parameters = ready.train_role("reward")
    for parameter in parameters:
        parameter.grad = None
    total = 0.0
    for ranking in rankings:
        better = [
            (ranking.responses[i], ranking.responses[j])
            for i, j in itertools.permutations(range(len(ranking.ranks)), 2)
            if ranking.ranks[i] < ranking.ranks[j]
        ]
        for winner, loser in better:
            loss = -logsigmoid(score(ranking, winner) - score(ranking, loser))
            (loss / len(better) / len(rankings)).backward()
            total += loss.item() / len(better) / len(rankings)
    assert stats["ranking_loss"] == pytest.approx(total, rel=1e-5)
    close(ours, [p.grad for p in parameters], 1e-5)
    # by hand: 1 + 2 + 5 + 9 untied pairs, each with two forward rows
    assert len(read) == 2 * (1 + 2 + 5 + 9) == 34
    assert sum(read) > 3 * once


@pytest.mark.parametrize("loss, ties", LOSSES)
def test_microbatches_add_up_exactly(ready, encoder, rankings, loss, ties):
    whole, theirs = gradients(ready, encoder, rankings, loss=loss, ties=ties)
    for size in (1, 3):
        part, ours = gradients(ready, encoder, rankings, loss=loss, ties=ties, microbatch_size=size)
        close(ours, theirs, 1e-5)  # float32 sums in another order
        for name in whole:
            assert part[name] == pytest.approx(whole[name], rel=1e-5), name


def test_losses_and_rules_for_ties_differ(ready, encoder, rankings):
    found = [
        gradients(ready, encoder, rankings, loss=loss, ties=ties)[0]["ranking_loss"]
        for loss, ties in LOSSES
    ]
    assert len({round(loss, 3) for loss in found}) == len(LOSSES)


def test_accuracy_counts_untied_pairs(ready, encoder, rankings):
    right = total = 0
    for ranking in rankings:
        scores = score_texts(ready, [ranking] * len(ranking.ranks), ranking.responses)
        for i, j in itertools.permutations(range(len(scores)), 2):
            if ranking.ranks[i] < ranking.ranks[j]:
                right += scores[i] > scores[j]
                total += 1
    found = evaluate(RewardConfig(microbatch_size=2), ready, rankings)["pair_accuracy"]
    assert total == 17
    assert found == pytest.approx(right / total, abs=1e-6)


def test_order_of_the_responses_changes_nothing(ready, encoder, rankings):
    turned = [Ranking(r.prompt, r.responses[::-1], r.ranks[::-1]) for r in rankings]
    one, ours = gradients(ready, encoder, rankings)
    other, theirs = gradients(ready, encoder, turned)
    assert one["ranking_loss"] == pytest.approx(other["ranking_loss"], rel=1e-6)
    close(ours, theirs, 1e-5)


# Learning ---------------------------------------------------------------------------------------


def preferences(things, seed):
    """Answers that name the thing asked for are best, then others, then silence."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i, thing in enumerate(things):
        other = things[(i + 1) % len(things)]
        responses = [f"It is {thing}.", f"It is {thing}, yes.", f"Go away, {other}!", "Go away!"]
        ranks = [1, 1, 2, 3]
        order = torch.randperm(4, generator=generator).tolist()
        made.append(
            Ranking(
                f"Tell me of {thing}",
                tuple(responses[j] for j in order),
                tuple(ranks[j] for j in order),
            )
        )
    return made


THINGS = ["Mars", "Io", "Titan", "Earth", "Venus", "Pluto", "Ceres", "Rhea", "Dione", "Ariel"]
THINGS += ["Oberon", "Triton", "Halley", "Vega"]


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce", "best_of_k"])
def test_a_preference_is_learned_and_holds_for_unseen_prompts(backbone, loss):
    """With these settings four seeds each ended at 0.95 or more; best-of-K, which sees the winner
    alone, at 0.9 or more on unseen prompts and 0.8 or more on the last batch."""
    train, valid = preferences(THINGS[:10], 0), preferences(THINGS[10:], 1)
    backbone.add_role("reference")
    epochs, rate = (6, 1e-2) if backbone.lora else (8, 5e-3)
    settings = RewardConfig(epochs=epochs, batch_size=5, learning_rate=rate, loss=loss)
    stats = list(RewardTraining(settings, backbone, train, valid))
    bar = 0.7 if loss == "best_of_k" else 0.85
    assert stats[-1]["valid_pair_accuracy"] > bar  # a coin has 0.5; 20 pairs
    assert stats[-1]["pair_accuracy"] > bar
    if loss == "pairs":
        assert stats[-1]["valid_ranking_loss"] < 0.8 * math.log(2)


# The run ----------------------------------------------------------------------------------------


def test_the_run_reports_and_freezes(ready, rankings):
    before = {role: ready.weights(role) for role in ("reference", "base")}
    settings = RewardConfig(epochs=2, batch_size=3, microbatch_size=2, learning_rate=1e-2)
    training = RewardTraining(settings, ready, rankings, rankings[:2])
    stats = list(training)
    assert len(stats) == len(training) == 4
    assert [set(row) >= {"valid_ranking_loss", "valid_pair_accuracy"} for row in stats] == [
        False, True, False, True
    ]  # fmt: skip
    assert set().union(*stats) <= METRICS.keys()
    assert [row["epoch"] for row in stats] == [0.5, 1.0, 1.5, 2.0]
    cosine = [0.1 + 0.45 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [row["learning_rate"] for row in stats] == pytest.approx([1e-2 * c for c in cosine])
    assert not any(p.requires_grad for p in ready.parameters("reward"))
    for role, weights in before.items():
        for name, weight in ready.weights(role).items():
            assert torch.equal(weight, weights[name])


def test_same_seed_same_run(ready_backbone, lora, rankings):
    runs = []
    for seed in (0, 0, 1):
        settings = RewardConfig(epochs=2, batch_size=2, learning_rate=1e-2, seed=seed)
        runs.append(list(RewardTraining(settings, ready_backbone(lora), rankings)))
    assert runs[0] == runs[1] != runs[2]


def test_it_starts_from_the_role_that_is_named(ready, rankings):
    settings = RewardConfig(epochs=1, learning_rate=1e-12)
    for init in ("reference", "base"):
        list(RewardTraining(settings, ready, rankings, init=init))
        start = ready.weights(init) if init == "reference" or ready.lora is None else None
        for name, weight in ready.weights("reward").items():
            if start:
                assert torch.allclose(weight, start[name], atol=1e-6)
            elif "lora_B" in name:
                assert weight.abs().max() < 1e-9


def test_demonstrations_score_0_on_average(ready, rankings, demonstrations):
    settings = RewardConfig(learning_rate=1e-2)
    list(RewardTraining(settings, ready, rankings, demonstrations=demonstrations))
    scores = score_texts(ready, demonstrations, [d.response for d in demonstrations])
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-5)
    assert max(scores) - min(scores) > 1e-2


def test_centring_shifts_and_does_no_more(ready, demonstrations, rankings, encoder):
    texts = [d.response for d in demonstrations]
    before = score_texts(ready, demonstrations, texts)
    loss = evaluate(RewardConfig(), ready, rankings)
    shift = centre(ready, demonstrations)
    assert shift == pytest.approx(-sum(before) / len(before), abs=1e-6)
    after = score_texts(ready, demonstrations, texts)
    assert after == pytest.approx([score + shift for score in before], abs=1e-5)
    assert evaluate(RewardConfig(), ready, rankings) == pytest.approx(loss, abs=1e-5)


def test_a_response_over_the_context_names_its_line(ready, rankings):
    long = Ranking("Hi", ("a", "long " * 200), (1, 2), where="ranks.jsonl:3")
    with pytest.raises(DataError, match=r"^ranks\.jsonl:3: field"):
        list(RewardTraining(RewardConfig(), ready, [*rankings, long]))
