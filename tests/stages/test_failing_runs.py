"""Runs built to fail, each in its own way: the guards say so; and healthy ones: they are silent.

Each was tried with seeds 0 to 3, and went as it does here with all of them.
"""

import random

import pytest

from minirlhf.engine.health import findings
from minirlhf.engine.records import Ranking
from minirlhf.stages.ppo import PPO
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.stages.sft import SFT, SFTConfig
from tests.stages.ppo_setup import config, letters


def run(backbone, prompts, reward=None, **changes):
    """What the guards find in a run of PPO, with the update at which each spoke."""
    usual = dict(rollout_batch_size=32, minibatch_size=16, microbatch_size=16, missing_eos="keep")
    settings = config(**{**usual, "max_new_tokens": 10, "value_learning_rate": 1e-2, **changes})
    return {f.name: f.step for f in findings(PPO(settings, backbone, prompts, reward=reward))}


def test_too_large_steps_at_no_price_explode_the_kl(ready_backbone, prompts):
    settings = dict(kl_coef=0.0, policy_learning_rate=1e-2, updates=8)
    assert run(ready_backbone(), prompts, letters, **settings)["exploding KL"] <= 6


def test_a_reward_for_saying_little_ends_in_one_answer(ready_backbone, prompts):
    """The empty answer, to whatever is asked, and soon nothing else is tried."""
    settings = dict(kl_coef=0.0, policy_learning_rate=6e-3, updates=22, max_new_tokens=6)
    found = run(
        ready_backbone(),
        prompts,
        lambda prompts, texts: [-float(len(text)) for text in texts],
        warmup_updates=2,
        **settings,
    )
    assert found["one answer for all prompts"] <= found["entropy collapse"]
    assert "answers that do not end" not in found


def test_a_reward_for_saying_much_is_hacked_by_length(ready_backbone, prompts):
    settings = dict(kl_coef=0.0, policy_learning_rate=3e-3, updates=13, max_new_tokens=30)
    found = run(
        ready_backbone(), prompts, lambda prompts, texts: [len(t) / 10 for t in texts], **settings
    )
    assert "reward hacking by length" in found
    assert "one answer for all prompts" not in found


def test_an_end_that_costs_more_than_none_is_put_off(ready_backbone, prompts):
    """Every finished answer gets -5, every other one the rule's -1: the footgun of `replace`."""
    settings = dict(kl_coef=0.05, policy_learning_rate=3e-3, updates=12, max_new_tokens=12)
    found = run(
        ready_backbone(),
        prompts,
        lambda prompts, texts: [-5.0] * len(texts),
        missing_eos="replace",
        **settings,
    )
    assert "answers that do not end" in found
    assert "reward hacking by length" not in found


def test_a_value_model_that_does_not_learn_is_dead(ready_backbone, prompts):
    found = run(
        ready_backbone(),
        prompts,
        rollout_batch_size=16,
        minibatch_size=8,
        policy_learning_rate=1e-3,
        value_learning_rate=1e-9,
        updates=14,
    )
    assert list(found) == ["dead value function"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_healthy_run_is_left_in_peace(ready_backbone, prompts, seed):
    settings = dict(kl_coef=0.2, policy_learning_rate=3e-3, updates=12, max_new_tokens=12)
    assert run(ready_backbone(), prompts, missing_eos="replace", seed=seed, **settings) == {}


def comparisons(rule, count, seed=0):
    """Rankings of three answers of one to three words, in the order of `rule(answer)`."""
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        answers = [" ".join(chance.choices(["moon", "star", "sun"], k=k)) for k in (1, 2, 3)]
        order = sorted(answers, key=rule)
        found.append(Ranking("Say.", tuple(answers), tuple(order.index(a) + 1 for a in answers)))
    return found


def train_reward(backbone, rule):
    settings = RewardConfig(epochs=3, batch_size=8, learning_rate=3e-3)
    train, valid = comparisons(rule, 32), comparisons(rule, 24, seed=1)
    return [f.name for f in findings(RewardTraining(settings, backbone, train, valid))]


def test_rankings_without_a_rule_make_a_coin(ready_backbone):
    chance = random.Random(2)
    assert "no better than a coin" in train_reward(ready_backbone(), lambda text: chance.random())


def test_rankings_with_a_rule_do_not(ready_backbone):
    assert train_reward(ready_backbone(), len) == []


def fine_tune(backbone, demonstrations, epochs):
    settings = SFTConfig(epochs=epochs, learning_rate=1e-2, batch_size=4, dropout=0.0)
    train, valid = demonstrations[:4], demonstrations[4:]
    return [f.name for f in findings(SFT(settings, backbone, train, valid))]


def test_four_demonstrations_learned_by_heart_are_over_fitted(new_backbone, demonstrations):
    assert fine_tune(new_backbone(), demonstrations, epochs=40) == ["over-fitting"]
    assert fine_tune(new_backbone(), demonstrations, epochs=4) == []
