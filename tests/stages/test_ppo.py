"""minirlhf.stages.ppo: each phase of an update against an oracle."""

import warnings

import pytest
import torch

from minirlhf.engine.episodes import RatioWarning
from minirlhf.engine.optimisation import NotFinite
from minirlhf.engine.records import DataError
from minirlhf.engine.rollout import Rollout, response_logprobs, response_values, sample
from minirlhf.maths.advantages import gae, token_rewards
from minirlhf.stages import ppo as stage
from minirlhf.stages.ppo import Scored
from tests.stages.ppo_setup import close, config, experience, grads, new


def made_up(texts_end, eos, width=4):
    """A rollout of one-token prompts whose rows end with EOS or are cut off."""
    ids = torch.full((len(texts_end), width), 9)
    for row, ends in enumerate(texts_end):
        if ends:
            ids[row, width // 2 :] = eos
    mask = torch.ones_like(ids, dtype=torch.bool)
    for row, ends in enumerate(texts_end):
        mask[row, width // 2 + 1 :] = not ends
    one = torch.full((len(ids), 1), 5)
    return Rollout(one, one > 0, ids, mask, torch.where(mask, -1.0, 0.0))


# Where it starts --------------------------------------------------------------------------------


def test_policy_and_value_start_as_exact_copies(ready, prompts):
    ready.heads["reward"].bias.data.fill_(2.0)
    ppo = new(ready, prompts)
    pairs = (("policy", "reference"), ("value", "reward"))
    for role, start in pairs:
        for one, other in zip(ready.parameters(role), ready.parameters(start), strict=True):
            assert torch.equal(one, other)
            assert one.requires_grad
            assert not other.requires_grad
    assert ready.heads["value"].bias.item() == 2.0
    rollout, scored, *_ = experience(ppo)
    last = rollout.lengths - 1
    ids, mask = rollout.input_ids, rollout.attention_mask
    values = ready.values("value", ids, mask)
    end = values[torch.arange(8), rollout.prompt_ids.shape[1] + last]
    scores = scored.scores
    assert torch.allclose(scores[scores != -1], end[scores != -1], atol=1e-5)


def test_kl_is_0_before_the_first_update(ready, prompts):
    first, *later = list(new(ready, prompts))
    assert abs(first["ref_kl"]) < 1e-4  # nats per response, a sum over some tokens
    assert abs(later[-1]["ref_kl"]) > 1e-3


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_first_minibatch_has_ratio_1_and_minus_the_mean_advantage_as_loss(
    ready, prompts, temperature
):
    ppo = new(ready, prompts, config(whiten_advantages=False, temperature=temperature))
    rollout, _, learned, _ = experience(ppo)
    rows = torch.tensor([6, 1, 3])
    stats = ppo._policy_gradient(learned, rows)
    assert stats["ratio_error"] < 1e-5
    mean = learned.advantages[rows].sum() / rollout.response_mask[rows].sum()
    assert abs(mean) > 1e-3
    assert stats["policy_loss"] == pytest.approx(-mean.item(), rel=1e-4)
    assert stats["clip_fraction"] == 0
    assert stats["approx_kl"] < 1e-8


def test_first_gradient_is_the_policy_gradient(ready, prompts):
    """At ratio 1 the clipped objective's gradient is -mean of A grad log pi: plain REINFORCE."""
    ppo = new(ready, prompts)
    rollout, _, learned, _ = experience(ppo)
    ppo._policy_gradient(learned, torch.arange(8))
    ours = grads(ppo, "policy")
    logprobs = response_logprobs(ready, "policy", rollout)
    (-(learned.advantages * logprobs).sum() / rollout.response_mask.sum()).backward()
    close(ours, grads(ppo, "policy"), 1e-4)


def in_improve(ppo, learned, monkeypatch):
    """The policy's gradient of the one step that `improve` takes."""
    seen = []

    def look(optimiser, rate, limit):
        seen.append(grads(ppo, "policy"))
        return 0.0

    monkeypatch.setattr(stage, "optimiser_step", look)
    stats = ppo.improve(learned)
    [gradient] = seen
    return gradient, stats


@pytest.mark.parametrize("clip_range", [0.2, None])
def test_without_a_value_model_it_is_reinforce(ready, prompts, monkeypatch, clip_range):
    """By hand: a token's gradient times what is still to come of score and KL, mean over tokens."""
    settings = config(
        value_model="none", gae_lambda=1.0, whiten_advantages=False, clip_range=clip_range,
        ppo_epochs=1, minibatch_size=8, microbatch_size=3, kl_coef=0.5,
    )  # fmt: skip
    ready.load_weights("reference", {n: 1.3 * w for n, w in ready.weights("reference").items()})
    ppo = new(ready, prompts, settings)
    ready.load_weights("policy", {n: 1.2 * w for n, w in ready.weights("policy").items()})
    rollout, scored, learned, _ = experience(ppo)
    ours, stats = in_improve(ppo, learned, monkeypatch)

    logprobs = response_logprobs(ready, "policy", rollout)
    old, reference = logprobs.tolist(), response_logprobs(ready, "reference", rollout).tolist()
    loss, kl = 0.0, 0.0
    for row, length in enumerate(rollout.lengths.tolist()):
        to_come = scored.scores[row].item()
        for t in reversed(range(length)):
            to_come -= 0.5 * (old[row][t] - reference[row][t])
            kl += old[row][t] - reference[row][t]
            loss = loss - to_come * logprobs[row, t] / rollout.lengths.sum()
    assert abs(kl) > 0.1  # the price of KL is part of the test
    loss.backward()
    close(ours, grads(ppo, "policy"), 1e-4)
    assert "value" not in ready.roles
    assert stats["clip_fraction"] == 0


def test_without_a_value_model_gae_lambda_discounts(ready, prompts):
    settings = config(value_model="none", gae_lambda=0.5, whiten_advantages=False, kl_coef=0.0)
    rollout, scored, learned, stats = experience(new(ready, prompts, settings))
    to_go = rollout.lengths[:, None] - 1 - torch.arange(rollout.response_ids.shape[1])
    wanted = torch.where(rollout.response_mask, scored.scores[:, None] * 0.5**to_go, 0.0)
    assert torch.allclose(learned.advantages, wanted, atol=1e-6)
    assert torch.equal(learned.advantages, learned.returns)
    assert not scored.values.any()
    assert "explained_variance" not in stats


@pytest.mark.parametrize("init", ["reward", "reference", "base"])
def test_a_separate_value_model_starts_where_it_is_told(ready, prompts, init):
    ready.heads["reward"].weight.data.mul_(3.0)
    new(ready, prompts, config(value_init=init))
    start = ready.weights(init) if init != "base" or ready.lora is None else None
    for name, weight in ready.weights("value").items():
        if start:
            assert torch.equal(weight, start[name])
        elif "lora_B" in name:  # scratch: an update of zero
            assert not weight.any()
    same_head = torch.equal(ready.heads["value"].weight, ready.heads["reward"].weight)
    assert same_head == (init == "reward")
    spread = ready.heads["value"].weight.std().item() * 65**0.5  # a new one has 1 / (64 + 1)
    assert (0.7 < spread < 1.4) == (init != "reward")


# Scores, rewards, advantages --------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["replace", "subtract", "keep"])
def test_a_missing_eos_follows_its_rule(ready, prompts, rule):
    eos = ready.tokenizer.eos_token_id
    rollout = made_up([True, False, True, False], eos)
    settings = config(missing_eos=rule, missing_eos_score=-2.0)
    ppo = new(ready, prompts, settings, reward=lambda p, t: [1.0, 2.0, 3.0, 4.0])
    scored = ppo.score_rollout(rollout, prompts[:4])
    expected = {
        "replace": [1.0, -2.0, 3.0, -2.0],
        "subtract": [1.0, 0.0, 3.0, 2.0],
        "keep": [1.0, 2.0, 3.0, 4.0],
    }
    assert scored.scores.tolist() == expected[rule]
    _, stats = ppo.estimate_advantages(rollout, scored)
    assert stats["missing_eos"] == 0.5
    assert stats["response_length"] == 3.5
    assert stats["scores"] == pytest.approx(sum(expected[rule]) / 4)


def test_scores_are_the_reward_models_whatever_the_microbatch(ready, prompts):
    ppo = new(ready, prompts, config(missing_eos="keep"))
    rollout, scored, *_ = experience(ppo)
    whole = ready.scores("reward", rollout.input_ids, rollout.attention_mask)
    assert torch.allclose(scored.scores, whole, atol=1e-5)
    reference = response_logprobs(ready, "reference", rollout)
    assert torch.allclose(scored.ref_logprobs, reference, atol=1e-5)
    values = response_values(ready, "value", rollout)
    assert torch.allclose(scored.values, values, atol=1e-5) and values.any()
    assert not scored.values.requires_grad


def test_rewards_price_the_kl_and_land_at_the_last_token(ready, prompts):
    ppo = new(ready, prompts, config(kl_coef=0.5, whiten_advantages=False))
    eos = ready.tokenizer.eos_token_id
    rollout = made_up([True, False], eos)
    ref = torch.where(rollout.response_mask, -1.5, 0.0)  # half a nat below, each token
    values = torch.where(rollout.response_mask, 0.25, 0.0)
    learned, stats = ppo.estimate_advantages(rollout, Scored(torch.tensor([1.0, 3.0]), ref, values))
    # by hand: 3 and 4 tokens of 0.5 nats: 1.5 and 2 nats; rewards 1 - 0.75 and 3 - 1
    assert stats["ref_kl"] == pytest.approx(1.75)
    assert stats["rewards"] == pytest.approx((0.25 + 2.0) / 2)
    rewards = torch.tensor([[-0.25, -0.25, 0.75, 0], [-0.25, -0.25, -0.25, 2.75]])
    advantages, returns = gae(rewards, values, rollout.response_mask, 1.0, 0.95)
    assert torch.allclose(learned.advantages, advantages)
    assert torch.allclose(learned.returns, returns)


def test_whitening_is_an_option(ready, prompts):
    found = {}
    for rewards in (False, True):
        for advantages in (False, True):
            settings = config(whiten_rewards=rewards, whiten_advantages=advantages)
            ppo = new(ready, prompts, settings)
            rollout, scored, learned, stats = experience(ppo)
            found[rewards, advantages] = learned, stats
    mask = rollout.response_mask
    white = found[False, True][0].advantages[mask]
    assert white.mean().item() == pytest.approx(0, abs=1e-5)
    assert white.std(unbiased=False).item() == pytest.approx(1, abs=1e-4)
    raw = found[False, False][0].advantages[mask]
    assert torch.allclose((raw - raw.mean()) / raw.std(unbiased=False), white, atol=1e-4)
    plain = token_rewards(scored.scores, rollout.logprobs, scored.ref_logprobs, mask, 0.05)
    scaled = (plain - plain[mask].mean()) / plain[mask].std(unbiased=False) + plain[mask].mean()
    scaled = torch.where(mask, scaled, 0.0)
    expected, _ = gae(scaled, scored.values, mask)
    assert torch.allclose(found[True, False][0].advantages, expected, atol=1e-4)
    # what is reported is not whitened
    assert {stats["rewards"] for _, stats in found.values()} == {found[False, False][1]["rewards"]}


def test_explained_variance_is_1_for_a_perfect_value():
    returns = torch.tensor([[1.0, 2.0, 0.0], [4.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert stage._explained_variance(returns, returns, mask) == 1
    mean = torch.full_like(returns, 7 / 3)
    assert stage._explained_variance(mean, returns, mask) == pytest.approx(0, abs=1e-6)
    assert stage._explained_variance(-returns, returns, mask) < 0
    assert stage._explained_variance(returns, torch.ones_like(returns), mask) == 0


# Gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["clip", "penalty"])
@pytest.mark.parametrize("size", [1, 3])
def test_microbatches_add_up_exactly(ready, prompts, micro_texts, loss, size):
    found = {}
    for microbatch in (8, size):
        settings = config(loss=loss, microbatch_size=microbatch, ptx_coef=0.5, ptx_length=8, seed=1)
        ppo = new(ready, prompts, settings, pretraining=micro_texts)
        _, _, learned, _ = experience(ppo)
        learned = learned._replace(  # as after some steps: ratios off 1, values off the old ones
            rollout=learned.rollout._replace(logprobs=learned.rollout.logprobs * 1.1),
            old_values=learned.old_values + 0.3,
        )
        rows = torch.arange(8)
        stats = ppo._policy_gradient(learned, rows)
        found[microbatch] = (
            stats,
            grads(ppo, "policy"),
            ppo._value_gradient(learned, rows),
            grads(ppo, "value"),
            ppo._ptx_gradient(8),
            grads(ppo, "policy"),
        )
    for whole, parts in zip(found[8], found[size], strict=True):
        if isinstance(whole, list):
            close(parts, whole, 2e-5)
        else:
            assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("coefficient", [1.0, 27.8])
def test_ptx_gradient_is_its_coefficient_times_the_token_mean(
    ready, prompts, micro_texts, coefficient
):
    """Oracle: transformers' own mean cross-entropy over the same blocks."""
    settings = config(ptx_coef=coefficient, ptx_ratio=1.5, ptx_length=16, microbatch_size=2)
    ppo = new(ready, prompts, settings, pretraining=micro_texts)
    ppo._block_order = iter(range(100))
    loss = ppo._ptx_gradient(4)
    ours = grads(ppo, "policy")
    blocks = ppo._blocks[:6]  # 1.5 for each of 4 episodes
    with ready.active("policy") as model:
        theirs = model(blocks, labels=blocks).loss
        theirs.backward()
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    close(ours, [None if g is None else coefficient * g for g in grads(ppo, "policy")], 1e-4)


def test_ppo_and_ptx_gradients_are_added(ready, prompts, micro_texts, monkeypatch):
    settings = config(ptx_coef=2.0, ptx_length=16, minibatch_size=8, ppo_epochs=1)
    ppo = new(ready, prompts, settings, pretraining=micro_texts)
    _, _, learned, _ = experience(ppo)
    seen = []

    def look(optimiser, rate, limit):
        seen.append(
            [
                None if p.grad is None else p.grad.clone()
                for p in optimiser.param_groups[0]["params"]
            ]
        )
        optimiser.zero_grad()
        return 0.0

    monkeypatch.setattr(stage, "optimiser_step", look)
    state = ppo.generator.get_state()
    order = torch.randperm(8, generator=ppo.generator)
    blocks = [next(ppo._block_order) for _ in range(8)]
    ppo.generator.set_state(state)
    ppo._block_order = iter(blocks)
    ppo.improve(learned)
    ppo._policy_gradient(learned, order)
    alone = grads(ppo, "policy")
    ppo._block_order = iter(blocks)
    ppo._ptx_gradient(8)
    ptx = grads(ppo, "policy")
    both = [p if x is None else x if p is None else x + p for x, p in zip(alone, ptx, strict=True)]
    close(seen[0], both)


def test_ptx_needs_text(ready, prompts):
    with pytest.raises(DataError, match="PPO-ptx needs pretraining texts"):
        new(ready, prompts, config(ptx_coef=1.0))


def test_infinite_gradients_stop_before_the_weights_are_touched(ready, prompts):
    ppo = new(ready, prompts)
    _, _, learned, _ = experience(ppo)
    before = ready.weights("policy")
    broken = learned._replace(advantages=learned.advantages * float("inf"))
    with pytest.raises(NotFinite, match="try a lower learning rate"):
        ppo.improve(broken)
    assert all(torch.equal(w, before[n]) for n, w in ready.weights("policy").items())


# The guard --------------------------------------------------------------------------------------


def disagree(ppo, how, monkeypatch):
    """Make sampler and trainer see different policies, in one of the ways that happen."""
    collect, logits = ppo.collect_rollout, stage.response_logits
    if how == "temperature":
        monkeypatch.setattr(
            ppo,
            "collect_rollout",
            lambda batch: sample(
                ppo.backbone,
                "policy",
                ppo.encoder.prompts([ppo._prompt_ids[i] for i in batch]),
                12,
                ppo.sampler_generator,
                0.8,
            ),
        )
    elif how == "dropout":

        def with_dropout(*args):
            with ppo.backbone.dropout(0.1, torch.Generator().manual_seed(0)):
                return logits(*args)

        monkeypatch.setattr(stage, "response_logits", with_dropout)
    elif how == "mask":

        def mask_lost(batch):
            rollout = collect(batch)
            return rollout._replace(prompt_mask=torch.ones_like(rollout.prompt_mask))

        monkeypatch.setattr(ppo, "collect_rollout", mask_lost)


@pytest.mark.parametrize("how", ["temperature", "dropout", "mask"])
def test_the_guard_fires_when_sampler_and_trainer_disagree(ready, prompts, monkeypatch, how):
    ppo = new(ready, prompts, config(ppo_epochs=1, minibatch_size=8))
    disagree(ppo, how, monkeypatch)
    with pytest.warns(RatioWarning, match="update 0: ratio is off 1 by"):
        stats = next(ppo)
    assert stats["ratio_error"] > 1e-3


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_guard_is_silent_otherwise(ready, prompts, temperature):
    ppo = new(ready, prompts, config(temperature=temperature, updates=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RatioWarning)
        stats = list(ppo)
    # at 0.5 the logits are doubled, and their rounding with them
    assert max(row["ratio_error"] for row in stats) < 5e-5 / temperature
    assert max(row["approx_kl"] for row in stats) > 1e-6
