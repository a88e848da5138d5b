"""Every stage's state: saved between two steps and restored elsewhere, it goes on exactly."""

import pytest
import torch

from minirlhf.engine.snapshot import load_snapshot, save_snapshot
from minirlhf.stages.dpo import DPO, DPOConfig
from minirlhf.stages.grpo import GRPO, GRPOConfig
from minirlhf.stages.pretrain import Pretraining, new_model
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.stages.rloo import RLOO, RLOOConfig
from minirlhf.stages.sft import SFT, SFTConfig
from tests.conftest import MICRO
from tests.stages.ppo_setup import config, letters, new


def follow(steps):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in steps]


def goes_on(make, weights, tmp_path, stops=(1, 4)):
    """Compare an unbroken stage with one that goes on in a new place after each of `stops`.

    make: () -> (what holds the weights, the stage); weights: holder -> {name: tensor}.
    """
    holder, stage = make()
    total, rows = len(stage), follow(stage)
    kept = weights(holder)
    assert len(rows) == total > stops[-1]
    found, state = [], None
    for stop in (*stops, total):
        holder, stage = make()
        if state is not None:
            stage.restore(load_snapshot(tmp_path / "state"))
        found += follow(next(stage) for _ in range(stop - len(found)))
        state = stage.state()
        if stop < total:
            next(stage)  # what comes after must not reach into what was saved before
        save_snapshot(tmp_path / "state", state)
    assert follow(stage) == []  # it ends, and does what is left to do at the end
    assert found == rows
    again = weights(holder)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def of(*roles):
    def weights(backbone):
        found = {
            f"{role}.{name}": weight
            for role in roles
            for name, weight in backbone.weights(role).items()
        }
        heads = [role for role in roles if role in backbone.heads]
        return found | {f"{role}.bias": backbone.heads[role].bias.clone() for role in heads}

    return weights


def test_sft(new_backbone, demonstrations, micro_texts, tmp_path):
    """Dropout, pretraining texts, and the best epoch."""
    settings = SFTConfig(
        epochs=3, batch_size=4, learning_rate=0.05, dropout=0.2, select="loss", pretraining_mix=0.5
    )
    valid = demonstrations[:3]

    def make():
        backbone = new_backbone()
        train = demonstrations[3:]
        return backbone, SFT(settings, backbone, train, valid, pretraining=micro_texts)

    goes_on(make, of("reference"), tmp_path, stops=(1, 3, 5))


def test_reward(ready_backbone, rankings, demonstrations, tmp_path):
    settings = RewardConfig(epochs=3, batch_size=2, learning_rate=1e-2)

    def make():
        backbone = ready_backbone()
        return backbone, RewardTraining(settings, backbone, rankings, rankings, demonstrations)

    goes_on(make, of("reward"), tmp_path)


def test_other_rankings_are_refused(ready_backbone, rankings):
    settings = RewardConfig(batch_size=2)
    state = RewardTraining(settings, ready_backbone(), rankings).state()
    other = RewardTraining(settings, ready_backbone(), rankings[::-1])
    with pytest.raises(ValueError, match="the rankings are not those that it began with"):
        other.restore(state)


@pytest.mark.parametrize("value_model", ["separate", "shared", "none"])
def test_ppo(ready_backbone, prompts, micro_texts, tmp_path, value_model):
    settings = config(
        updates=4,
        kl_controller="proportional",
        target_kl=0.5,
        kl_horizon=50,
        ema_decay=0.9,
        ptx_coef=0.1,
        ptx_length=16,
        warmup_updates=3,
        value_model=value_model,
        clip_range=None if value_model == "none" else 0.2,
    )
    roles = ("policy", "value") if value_model == "separate" else ("policy",)

    def make():
        backbone = ready_backbone()
        return backbone, new(backbone, prompts, settings, pretraining=micro_texts)

    goes_on(make, of(*roles), tmp_path, stops=(1, 3))


def test_ppo_penalty(ready_backbone, prompts, tmp_path):
    settings = config(updates=3, loss="penalty", penalty_target=1e-9, whiten_rewards=True)

    def make():
        backbone = ready_backbone()
        return backbone, new(backbone, prompts, settings, reward=letters)

    goes_on(make, of("policy"), tmp_path, stops=(1, 2))


def test_dpo(ready_backbone, rankings, tmp_path):
    settings = DPOConfig(epochs=3, batch_size=2, learning_rate=1e-2, warmup_steps=3)

    def make():
        backbone = ready_backbone()
        return backbone, DPO(settings, backbone, rankings, rankings[:2])

    goes_on(make, of("policy"), tmp_path)


def test_dpo_refuses_other_rankings(ready_backbone, rankings):
    settings = DPOConfig(batch_size=2)
    state = DPO(settings, ready_backbone(), rankings).state()
    other = DPO(settings, ready_backbone(), rankings[::-1])
    with pytest.raises(ValueError, match="the rankings are not those that it began with"):
        other.restore(state)


@pytest.mark.parametrize(("stage", "settings"), [(RLOO, RLOOConfig), (GRPO, GRPOConfig)])
def test_rloo_and_grpo(ready_backbone, prompts, tmp_path, stage, settings):
    asked = dict(updates=4, rollout_batch_size=8, samples=2, max_new_tokens=8, warmup_updates=3)
    asked |= dict(minibatch_size=4, inner_epochs=2) if stage is GRPO else {}

    def make():
        backbone = ready_backbone()
        return backbone, stage(settings(**asked), backbone, prompts)

    goes_on(make, of("policy"), tmp_path, stops=(1, 3))


def test_what_was_changed_by_hand_goes_on(ready_backbone, prompts):
    ppo, other = (new(ready_backbone(), prompts) for _ in range(2))
    ppo.kl_coef, ppo.clip_range = 0.7, 0.03
    other.restore(ppo.state())
    assert (other.kl_coef, other.clip_range) == (0.7, 0.03)


def test_the_average_goes_on_too(ready_backbone, prompts):
    settings = config(updates=2, ema_decay=0.9)
    ppo = new(ready_backbone(), prompts, settings)
    next(ppo)
    state = ppo.state()
    list(ppo)
    backbone = ready_backbone()
    other = new(backbone, prompts, settings)
    other.restore(state)
    list(other)
    for each in (ppo, other):
        each.adopt_average()
    for name, weight in ppo.backbone.weights("policy").items():
        assert torch.equal(weight, backbone.weights("policy")[name])


def test_pretraining(tokenizer, micro_texts, tmp_path):
    def make():
        model = new_model(MICRO, tokenizer)
        return model, Pretraining(MICRO, model, tokenizer, micro_texts[:40])

    def weights(model):
        assert not model.training
        return {name: weight.clone() for name, weight in model.state_dict().items()}

    goes_on(make, weights, tmp_path, stops=(2, 3, 17))
