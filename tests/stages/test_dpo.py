"""minirlhf.stages.dpo: its log-probabilities and gradient against TRL, and learning by learning."""

import math
import re

import pytest
import torch

from minirlhf.engine.backbone import Backbone
from minirlhf.engine.batches import Encoder
from minirlhf.engine.metrics import METRICS
from minirlhf.engine.optimisation import NotFinite
from minirlhf.engine.records import DataError, Ranking
from minirlhf.maths.masked import gather_logprobs
from minirlhf.stages.dpo import DPO, DPOConfig
from tests.stages.ppo_setup import close, disturb, grads

QUICK = dict(epochs=2, batch_size=2, learning_rate=3e-3, warmup_steps=0)


def config(**changes):
    return DPOConfig(**QUICK | changes)


def one_by_one(backbone, role, ranking):
    """log pi(y|x) of each response, from the transformers model on one unpadded row each."""
    encoder = Encoder(backbone.tokenizer, backbone.context_length)
    found = []
    for text in ranking.responses:
        prompt, response = encoder.pair(ranking, text)
        ids = torch.tensor([prompt + response])
        with backbone.active(role) as model:
            logits = model(ids).logits[:, len(prompt) - 1 : -1]
        found.append(gather_logprobs(logits, ids[:, len(prompt) :]).sum())
    return torch.stack(found)


@pytest.mark.parametrize("written_out", [True, False])
def test_a_responses_log_probability_is_the_sum_over_its_tokens(
    ready, rankings, monkeypatch, written_out
):
    """In the layout with each prompt once, and in the one for models of other kinds."""
    monkeypatch.setattr(Backbone, "written_out", written_out)
    dpo = DPO(config(), ready, rankings)
    disturb(ready, "policy")
    batch = dpo.encoder.rankings(rankings)
    for role in ("policy", "reference"):
        got = batch.by_prompt(ready.ranking_logprobs(role, batch))
        for row, ranking in zip(got, rankings, strict=True):
            k = len(ranking.ranks)
            assert torch.allclose(row[:k], one_by_one(ready, role, ranking), atol=1e-4)
            assert not row[k:].any()


def test_it_begins_at_the_reference_where_the_loss_is_log_2(ready, rankings):
    disturb(ready, "reference")
    first = next(DPO(config(), ready, rankings))
    assert first["dpo_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["chosen_logratio"] == pytest.approx(0, abs=1e-4)
    assert first["pair_accuracy"] == 0.5
    for one, other in zip(ready.parameters("policy"), ready.parameters("reference"), strict=True):
        assert not torch.equal(one, other)  # and has left it with its first step


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_loss_and_gradient_are_those_of_all_pairs(ready, rankings, beta):
    """Oracle: the paper's loss of each pair apart, the policy read by transformers' own forward."""
    dpo = DPO(config(beta=beta, microbatch_size=3), ready, rankings)
    disturb(ready, "policy")
    stats = dpo._accumulate(rankings, dpo._train_ref)
    ours = grads(dpo, "policy")
    total, right, chosen, rejected = 0.0, [], [], []
    for ranking in rankings:
        logratio = one_by_one(ready, "policy", ranking)
        logratio = logratio - one_by_one(ready, "reference", ranking).detach()
        losses = []
        for i, better in enumerate(ranking.ranks):
            for j, worse in enumerate(ranking.ranks):
                if better < worse:
                    lead = beta * (logratio[i] - logratio[j])
                    losses.append((1 + (-lead).exp()).log())
                    right.append(float(lead > 0))
                    chosen.append(logratio[i].item())
                    rejected.append(logratio[j].item())
        total = total + sum(losses) / len(losses) / len(rankings)
    total.backward()
    assert stats["dpo_loss"] == pytest.approx(total.item(), rel=1e-4)
    assert stats["pair_accuracy"] == pytest.approx(sum(right) / len(right))
    assert stats["chosen_logratio"] == pytest.approx(sum(chosen) / len(chosen), abs=1e-3)
    assert stats["rejected_logratio"] == pytest.approx(sum(rejected) / len(rejected), abs=1e-3)
    close(ours, grads(dpo, "policy"), 1e-3)


def test_a_step_takes_its_own_rankings_and_their_reference(ready, rankings):
    dpo, other = (DPO(config(seed=3), ready, rankings) for _ in range(2))
    disturb(ready, "policy")
    rows = next(other._batches).tolist()
    assert rows != [0, 1]
    wanted = dpo._accumulate(
        [rankings[i] for i in rows], dpo._reference([rankings[i] for i in rows])
    )
    stats = next(dpo)
    assert stats["dpo_loss"] == pytest.approx(wanted["dpo_loss"], rel=1e-5)
    assert stats["chosen_logratio"] == pytest.approx(wanted["chosen_logratio"], abs=1e-3)


@pytest.mark.parametrize("size", [1, 3])
def test_microbatches_add_up_exactly(ready, rankings, size):
    found = []
    for microbatch in (4, size):
        dpo = DPO(config(microbatch_size=microbatch), ready, rankings)
        disturb(ready, "policy")
        found.append((dpo._accumulate(rankings, dpo._train_ref), grads(dpo, "policy")))
    (whole, one), (parts, other) = found
    assert parts == pytest.approx(whole, rel=1e-4)
    close(other, one, 1e-4)


THINGS = ["Mars", "Io", "Titan", "Earth", "Venus", "Pluto", "Ceres", "Rhea", "Dione", "Ariel"]


def preferences(things):
    """Who says `It is X.` is preferred to who says it at length or sends one away."""
    return [
        Ranking(f"Tell me of {x}", (f"It is {x}, yes.", f"It is {x}.", f"Go away, {x}!"), (2, 1, 3))
        for x in things
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_preference_is_learned_and_holds_for_unseen_prompts(backbone, seed):
    """And the policy itself has changed: what is preferred has become likelier than the rest.

    Over four seeds each the loss ended at 0.18 to 0.22, and all pairs were right.
    """
    backbone.add_role("reference")
    train, valid = preferences(THINGS[:7]), preferences(THINGS[7:])
    rate = 5e-3 if backbone.lora else 1e-3
    settings = config(epochs=4, batch_size=4, learning_rate=rate, seed=seed)
    stats = list(DPO(settings, backbone, train, valid))
    assert stats[-1]["dpo_loss"] < 0.8 * math.log(2)
    assert stats[-1]["valid_dpo_loss"] < 0.9 * math.log(2)
    assert stats[-1]["valid_pair_accuracy"] > 0.8
    assert stats[-1]["chosen_logratio"] > stats[-1]["rejected_logratio"] + 2
    for ranking in valid:
        now, before = (one_by_one(backbone, role, ranking) for role in ("policy", "reference"))
        lead = now - before
        assert lead[1] > lead[2]


def test_the_run_reports_freezes_and_leaves_the_rest_alone(ready, rankings):
    before = {role: ready.weights(role) for role in ("reference", "reward")}
    dpo = DPO(config(warmup_steps=4), ready, rankings, rankings[:2])
    stats = list(dpo)
    assert len(stats) == len(dpo) == 4
    assert set().union(*stats) <= METRICS.keys()
    assert ["valid_dpo_loss" in row for row in stats] == [False, True, False, True]
    assert [row["epoch"] for row in stats] == [0.5, 1.0, 1.5, 2.0]
    share = [0.1, 0.325, 0.55, 0.775]
    assert [row["learning_rate"] for row in stats] == pytest.approx([3e-3 * s for s in share])
    assert not any(p.requires_grad for p in ready.parameters("policy"))
    for role, weights in before.items():
        assert all(torch.equal(w, weights[n]) for n, w in ready.weights(role).items()), role


def test_same_seed_same_run(ready_backbone, rankings):
    runs = [list(DPO(config(seed=seed), ready_backbone(), rankings)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_bad_input(ready, rankings):
    with pytest.raises(DataError, match="rankings: there are none"):
        DPO(config(), ready, [])
    long = Ranking("Hi", ("a", "long " * 200), (1, 2), where="ranks.jsonl:3")
    with pytest.raises(DataError, match=r"^ranks\.jsonl:3: field"):
        DPO(config(), ready, [*rankings, long])
    with pytest.raises(DataError, match=r"beta: 0\.0 must be above 0"):
        DPOConfig(beta=0.0)
    name = "logprobs of policy" if ready.lora else "gradient of policy.model.embed_tokens.weight"
    with pytest.raises(NotFinite, match=f"^{re.escape(name)}: "):
        list(DPO(config(learning_rate=1e30), ready, rankings))
