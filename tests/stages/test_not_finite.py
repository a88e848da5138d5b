"""Every stage stops at the first NaN or infinity, and says in which tensor it stood."""

import math

import pytest
import torch

from minirlhf.engine.optimisation import NotFinite
from minirlhf.stages.pretrain import Pretraining, new_model
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.stages.sft import SFT, SFTConfig
from tests.conftest import MICRO
from tests.stages.ppo_setup import config, experience, letters, new

# Adam's first step is as large as the learning rate whatever the gradient, and weights of this
# size overflow in the next pass: in its products, or, where a norm before the next product has
# shrunk them again, on the way back.
FAR_TOO_HIGH = 1e30


@torch.no_grad()
def break_weights(backbone, role):
    for parameter in backbone.parameters(role):
        parameter.fill_(math.nan)


def weights(backbone, role):
    return [p.detach().clone() for p in backbone.parameters(role)]


def same(backbone, role, before):
    now = backbone.parameters(role)
    return all(torch.equal(a, b) for a, b in zip(now, before, strict=True))


@pytest.mark.parametrize("role", ["policy", "value"])
def test_ppo_names_what_a_step_has_broken(ready, lora, prompts, role):
    ppo = new(ready, prompts, config(**{f"{role}_learning_rate": FAR_TOO_HIGH}))
    name = {"policy": "logits of policy", "value": "values"}[role]
    if role == "policy" and lora is None:
        name = r"gradient of policy\.model\.[\w.]+\.weight"
    with pytest.raises(NotFinite, match=rf"^{name}: [\d,]+ of [\d,]+ values are NaN or infinite"):
        next(ppo)
    assert ppo.update == 0


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("policy", "logprobs of policy"),
        ("reference", "logprobs of reference"),
        ("reward", "scores"),
        ("value", "values"),
    ],
)
def test_what_a_rollout_holds_is_checked_before_any_weight_moves(ready, prompts, role, name):
    ppo = new(ready, prompts)
    next(ppo)
    break_weights(ready, role)
    healthy = "value" if role == "policy" else "policy"
    before = weights(ready, healthy)
    with pytest.raises(NotFinite, match=f"^{name}: "):
        next(ppo)
    assert same(ready, healthy, before)


def test_a_reward_function_that_overflows_is_named(ready, prompts):
    def infinite(prompts, texts):
        return [math.inf for _ in texts]

    with pytest.raises(ValueError, match="the reward function must return 8 finite numbers"):
        next(new(ready, prompts, reward=infinite))


def test_the_pretraining_gradient_names_its_logits(ready, prompts, micro_texts):
    ppo = new(ready, prompts, config(ptx_coef=1.0, ptx_length=16), pretraining=micro_texts)
    break_weights(ready, "policy")
    with pytest.raises(NotFinite, match=r"^logits of policy on pretraining text: "):
        ppo._ptx_gradient(4)


def test_a_stop_half_way_leaves_no_gradient_for_the_next_try(ready_backbone, lora, prompts):
    def gradients(ppo, stopped):
        _, _, learned, _ = experience(ppo)
        if stopped:
            broken = learned.advantages.clone()
            broken[-1] = math.inf
            with pytest.raises(NotFinite, match=r"^advantages: "):  # in the last micro-batch
                ppo._policy_gradient(learned._replace(advantages=broken), torch.arange(8))
        ppo.improve(learned)
        return weights(ppo.backbone, "policy")

    settings = config(microbatch_size=2, minibatch_size=8)
    clean, stopped = (
        gradients(new(ready_backbone(lora), prompts, settings, reward=letters), flag)
        for flag in (False, True)
    )
    assert all(torch.equal(a, b) for a, b in zip(clean, stopped, strict=True))


def test_sft_names_what_a_step_has_broken(backbone, lora, demonstrations):
    settings = SFTConfig(learning_rate=FAR_TOO_HIGH, batch_size=4, dropout=0.0)
    name = "logits of reference" if lora else r"gradient of reference\.model\.embed_tokens\.weight"
    with pytest.raises(NotFinite, match=f"^{name}: "):
        list(SFT(settings, backbone, demonstrations))


def test_the_reward_model_names_its_scores(ready, rankings):
    settings = RewardConfig(learning_rate=FAR_TOO_HIGH, batch_size=2)
    with pytest.raises(NotFinite, match=r"^scores of reward: "):
        list(RewardTraining(settings, ready, rankings))


def test_pretraining_names_its_gradient(tokenizer, micro_texts):
    settings = type(MICRO)(**{**vars(MICRO), "learning_rate": FAR_TOO_HIGH, "batch_size": 4})
    with pytest.raises(NotFinite, match=r"^gradient of model\.embed_tokens\.weight: "):
        list(Pretraining(settings, new_model(settings, tokenizer), tokenizer, micro_texts[:12]))
