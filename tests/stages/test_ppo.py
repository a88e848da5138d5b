"""minirlhf.stages.ppo: each phase against an oracle, the run against its invariants."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from minirlhf.engine.metrics import METRICS
from minirlhf.engine.optimisation import NotFinite
from minirlhf.engine.records import DataError, Prompt
from minirlhf.engine.rollout import Rollout, response_logprobs, sample
from minirlhf.maths.advantages import gae, token_rewards
from minirlhf.stages import ppo as stage
from minirlhf.stages.ppo import PPO, PPOConfig, RatioWarning, Scored

QUICK = PPOConfig(
    updates=3,
    rollout_batch_size=8,
    minibatch_size=4,
    microbatch_size=4,
    ppo_epochs=2,
    max_new_tokens=12,
    policy_learning_rate=3e-3,
    value_learning_rate=3e-3,
    warmup_updates=0,
    kl_coef=0.05,
    ptx_ratio=1.0,
)


def config(**changes):
    return PPOConfig(**{**vars(QUICK), **changes})


def new(backbone, prompts, settings=QUICK, **options):
    return PPO(settings, backbone, prompts, **options)


def letters(prompts, texts):
    """A plain Python reward: how many of an answer's letters are an `a`."""
    return [10 * text.count("a") / max(len(text), 1) for text in texts]


def experience(ppo, count=8):
    """The first three phases, from the first prompts: rollout, scored, experience, stats."""
    indices = list(range(count))
    rollout = ppo.collect_rollout(indices)
    scored = ppo.score_rollout(rollout, [ppo.prompts[i] for i in indices])
    return (rollout, scored, *ppo.estimate_advantages(rollout, scored))


def grads(ppo, role):
    parameters = ppo.backbone.parameters(role)
    found = [None if p.grad is None else p.grad.clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


def close(ours, theirs, rel=1e-5):
    scale = max(g.abs().max() for g in theirs if g is not None)
    assert scale > 1e-6
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() <= rel * scale


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
    assert torch.equal(scored.scores[scored.scores != -1], end[scored.scores != -1])


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
    assert max(row["ratio_error"] for row in stats) < 1e-5 / temperature
    assert max(row["approx_kl"] for row in stats) > 1e-6


# The run ----------------------------------------------------------------------------------------


def test_only_policy_and_value_move(ready, prompts, micro_texts):
    before = {role: ready.weights(role) for role in ("reference", "reward")}
    heads = ready.heads["reward"].weight.clone()
    base = [p.clone() for n, p in ready.model.named_parameters() if ".lora_" not in n]
    ppo = new(ready, prompts, config(ptx_coef=0.1, ptx_length=16), pretraining=micro_texts)
    start = {role: [p.clone() for p in ready.parameters(role)] for role in ("policy", "value")}
    list(ppo)
    for role, weights in before.items():
        assert all(torch.equal(w, weights[n]) for n, w in ready.weights(role).items()), role
    assert torch.equal(ready.heads["reward"].weight, heads)
    now = [p for n, p in ready.model.named_parameters() if ".lora_" not in n]
    assert all(torch.equal(a, b) for a, b in zip(now, base, strict=True))
    for role, parameters in start.items():
        moved = [
            not torch.equal(a, b) for a, b in zip(ready.parameters(role), parameters, strict=True)
        ]
        assert all(moved), role


def test_it_is_stepped(ready, prompts):
    ppo = new(ready, prompts)
    assert len(ppo) == 3
    assert iter(ppo) is ppo
    assert ppo.update == 0
    next(ppo)
    assert ppo.update == 1
    assert len(list(ppo)) == 2
    with pytest.raises(StopIteration):
        next(ppo)


def test_same_seed_same_metrics(ready_backbone, lora, prompts):
    runs = []
    for seed in (0, 0, 1):
        stats = list(new(ready_backbone(lora), prompts, config(updates=2, seed=seed)))
        runs.append([{k: v for k, v in row.items() if k != "seconds"} for row in stats])
    assert runs[0] == runs[1]  # bit for bit
    assert runs[0] != runs[2]


def test_the_global_generator_is_left_alone(ready, prompts):
    state = torch.get_rng_state()
    next(new(ready, prompts))
    assert torch.equal(torch.get_rng_state(), state)


def test_metrics_are_the_registered_ones_and_finite(ready, prompts, micro_texts):
    settings = config(ptx_coef=0.1, ptx_length=16)
    stats = list(new(ready, prompts, settings, pretraining=micro_texts))
    names = list(METRICS)
    ppo_only = set(names[names.index("scores") :]) | {"seconds"}
    for row in stats:
        assert set(row) == ppo_only
        assert all(math.isfinite(value) for value in row.values())
    assert "ptx_loss" not in next(new(ready, prompts))


def test_reported_rewards_are_scores_less_the_price_of_kl(ready, prompts):
    for row in new(ready, prompts, config(kl_coef=0.3, updates=4)):
        assert row["rewards"] == pytest.approx(row["scores"] - 0.3 * row["ref_kl"], abs=1e-5)


def test_each_prompt_comes_once_before_any_comes_again(ready, prompts):
    ppo = new(ready, prompts)
    drawn = [next(ppo._prompt_order) for _ in range(24)]
    for start in (0, 8, 16):
        assert sorted(drawn[start : start + 8]) == list(range(8))
    assert drawn[:8] != drawn[8:16]


def test_rates_warm_up_from_a_tenth(ready, prompts):
    settings = config(warmup_updates=4, updates=6, value_learning_rate=6e-3)
    stats = list(new(ready, prompts, settings))
    share = [0.1, 0.325, 0.55, 0.775, 1.0, 1.0]  # a straight line in 4 updates
    assert [r["policy_learning_rate"] for r in stats] == pytest.approx([3e-3 * s for s in share])
    assert [r["value_learning_rate"] for r in stats] == pytest.approx([6e-3 * s for s in share])


def test_ema_is_the_slow_average(ready, prompts, monkeypatch):
    ppo = new(ready, prompts, config(ema_decay=0.9, updates=2))
    name = next(n for n, p in ready._named_parameters("policy").items() if "q_proj" in n)
    average, step = ready.weights("policy")[name].double(), stage.optimiser_step

    def watched(optimiser, rate, limit):
        nonlocal average
        norm = step(optimiser, rate, limit)
        if optimiser is ppo.policy_optimiser:
            average = 0.9 * average + 0.1 * ready.weights("policy")[name].double()
        return norm

    monkeypatch.setattr(stage, "optimiser_step", watched)
    list(ppo)
    last = ready.weights("policy")[name]
    ppo.adopt_average()
    adopted = ready.weights("policy")[name]
    assert torch.allclose(adopted.double(), average, atol=1e-6)
    assert not torch.allclose(adopted, last, atol=1e-4)


def test_without_ema_the_policy_stays(ready, prompts):
    ppo = new(ready, prompts)
    next(ppo)
    before = ready.weights("policy")
    ppo.adopt_average()
    assert all(torch.equal(w, before[n]) for n, w in ready.weights("policy").items())


# Controllers and live changes -------------------------------------------------------------------


def test_the_proportional_controller_steers_kl_coef(ready, prompts):
    settings = config(kl_controller="proportional", target_kl=0.5, kl_horizon=100, updates=4)
    stats = list(new(ready, prompts, settings))
    expected = 0.05
    for row in stats:
        assert row["kl_coef"] == pytest.approx(expected, rel=1e-6)
        error = min(max((row["ref_kl"] - 0.5) / 0.5, -0.2), 0.2)
        expected *= 1 + error * 8 / 100
    assert stats[1]["kl_coef"] == pytest.approx(0.05 * (1 - 0.2 * 0.08))


@pytest.mark.parametrize("target, factor", [(1e-9, 2), (1e3, 0.5)])
def test_the_penalty_doubles_or_halves(ready, prompts, target, factor):
    settings = config(loss="penalty", penalty_coef=1.0, penalty_target=target)
    stats = list(new(ready, prompts, settings))
    assert [row["penalty_coef"] for row in stats] == [1, factor, factor**2]


def test_the_penalty_sees_the_step_of_an_update_with_one_minibatch(ready, prompts):
    # Before its only step the ratio is 1, so a KL taken there would be 0 and the price would halve.
    settings = config(loss="penalty", penalty_coef=1.0, penalty_target=1e-9, updates=3)
    settings = replace(settings, minibatch_size=settings.rollout_batch_size, ppo_epochs=1)
    stats = list(new(ready, prompts, settings))
    assert stats[0]["approx_kl"] < 1e-9
    assert [row["penalty_coef"] for row in stats] == [1, 2, 4]


def test_the_penalty_holds_the_policy_back(ready_backbone, lora, prompts):
    kl = {}
    for price in (1e-6, 1e3):
        settings = config(loss="penalty", penalty_coef=price, updates=1, ppo_epochs=4)
        kl[price] = next(new(ready_backbone(lora), prompts, settings))["approx_kl"]
    assert kl[1e3] < kl[1e-6] / 3


def test_clipping_has_no_penalty(ready, prompts):
    assert next(new(ready, prompts))["penalty_coef"] == 0


def test_changes_between_updates_act_on_the_next(ready, prompts, monkeypatch):
    ppo = new(ready, prompts, config(updates=3))
    ranges, loss = [], stage.policy_loss

    def watched(*args):
        ranges.append(args[4])
        return loss(*args)

    monkeypatch.setattr(stage, "policy_loss", watched)
    assert next(ppo)["kl_coef"] == 0.05
    ppo.kl_coef, ppo.clip_range = 0.4, 0.05
    row = next(ppo)
    assert row["kl_coef"] == 0.4
    assert row["rewards"] == pytest.approx(row["scores"] - 0.4 * row["ref_kl"], abs=1e-5)
    steps = len(ranges) // 2
    assert ranges == [0.2] * steps + [0.05] * steps


# Rewards of one's own ---------------------------------------------------------------------------


def test_a_plain_function_is_asked_with_prompts_and_texts(ready, prompts):
    asked = []

    def reward(prompts, texts):
        asked.append((list(prompts), list(texts)))
        return range(len(texts))

    ppo = new(ready, prompts, config(missing_eos="keep", updates=1), reward=reward)
    assert next(ppo)["scores"] == pytest.approx(3.5)
    [(given, texts)] = asked
    assert sorted(p.prompt for p in given) == sorted(p.prompt for p in prompts)
    assert all(isinstance(text, str) and "<|" not in text for text in texts)


@pytest.mark.parametrize("answer", [[1.0], [float("nan")] * 8, [float("inf")] * 8, [[1.0]] * 8])
def test_a_reward_function_that_returns_nonsense_is_refused(ready, prompts, answer):
    ppo = new(ready, prompts, reward=lambda prompts, texts: answer)
    with pytest.raises(ValueError, match="must return 8 finite numbers"):
        next(ppo)


def test_no_reward_model_is_needed_then(new_backbone, lora, prompts):
    backbone = new_backbone(lora)
    backbone.add_role("reference")
    next(new(backbone, prompts, reward=letters))
    assert backbone.roles == ["base", "reference", "policy", "value"]
    assert "reward" not in backbone.heads


def test_without_any_reward_it_does_not_start(new_backbone, lora, prompts):
    backbone = new_backbone(lora)
    backbone.add_role("reference")
    with pytest.raises(DataError, match="needs a reward function or the role `reward`"):
        new(backbone, prompts)
    assert backbone.roles == ["base", "reference"]


def test_a_plain_reward_goes_up_while_kl_stays_bounded(ready, prompts):
    """Learning: more of one letter within 30 updates, the KL paid for and within reason."""
    settings = config(
        updates=30,
        rollout_batch_size=16,
        minibatch_size=8,
        microbatch_size=16,
        policy_learning_rate=1e-2,
        value_learning_rate=1e-2,
        kl_coef=0.3,
        missing_eos="keep",
        max_new_tokens=10,
    )
    if ready.lora is None:
        settings = PPOConfig(**{**vars(settings), "policy_learning_rate": 2e-3})
    stats = list(new(ready, prompts, settings, reward=letters))
    first = sum(row["scores"] for row in stats[:5]) / 5
    last = sum(row["scores"] for row in stats[-5:]) / 5
    assert last > 2 * first
    assert 0 < stats[-1]["ref_kl"] < 15
    assert all(math.isfinite(v) for row in stats for v in row.values())


# Bad input --------------------------------------------------------------------------------------


def test_a_prompt_without_room_for_an_answer_names_its_line(ready, prompts):
    long = Prompt("word " * 60, where="prompts.jsonl:4")
    with pytest.raises(
        DataError, match=r"^prompts\.jsonl:4: field 'prompt': has \d+ tokens; with 12"
    ):
        new(ready, [*prompts, long])
    assert "policy" not in ready.roles


def test_no_prompts_is_said(ready):
    with pytest.raises(DataError, match="prompts: there are none"):
        next(new(ready, []))


def test_four_bits_go_through_all_three_stages(
    micro_folder, demonstrations, rankings, prompts, micro_texts
):
    from minirlhf.engine.backbone import LoRA
    from minirlhf.engine.models import load_backbone
    from minirlhf.stages.reward import RewardConfig, train_reward
    from minirlhf.stages.sft import SFTConfig, sft

    backbone = load_backbone(str(micro_folder), quantize="4bit", lora=LoRA(8, 16), device="cpu")
    sizes = backbone.sizes()["base"]
    packed = [p.clone() for n, p in backbone.model.named_parameters() if ".lora_" not in n]
    learned = list(sft(SFTConfig(epochs=8, learning_rate=1e-2), backbone, demonstrations))
    assert learned[-1]["train_loss"] < learned[0]["train_loss"] - 0.3
    list(train_reward(RewardConfig(learning_rate=1e-2), backbone, rankings))
    settings = config(updates=2, ptx_coef=0.1, ptx_length=16)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RatioWarning)
        stats = list(new(backbone, prompts, settings, pretraining=micro_texts))
    assert abs(stats[0]["ref_kl"]) < 1e-3
    assert backbone.sizes()["base"] == sizes
    assert all(math.isfinite(v) for row in stats for v in row.values())
    now = [p for n, p in backbone.model.named_parameters() if ".lora_" not in n]
    assert all(torch.equal(a, b) for a, b in zip(now, packed, strict=True))
