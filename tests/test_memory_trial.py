"""minirlhf.memory_trial: simulated against real runs, and the sums of engine.memory against it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.memory import GIB, needs
from minirlhf.engine.shapes import Shapes, table
from minirlhf.engine.simulate import FakeTokenizer, LiveBytes
from minirlhf.memory_report import job_of
from minirlhf.memory_trial import STAGES, trial, watched_stages
from minirlhf.pipeline import RunConfig, Settings
from minirlhf.stages.ppo import PPOConfig
from minirlhf.stages.reward import RewardConfig
from minirlhf.stages.sft import SFTConfig

SMALL = Shapes("qwen2", 2000, 128, 512, 3, 4, 2, 32, False, 1024)
PROMPT = 48


def settings(lora=LoRA(), ppo=None, **run):  # noqa: B008  (frozen)
    given = dict(rollout_batch_size=8, minibatch_size=8, microbatch_size=4, max_new_tokens=32)
    return Settings(
        run=RunConfig("", **run),
        lora=lora,
        sft=SFTConfig(microbatch_size=4, dropout=0.0),
        reward=RewardConfig(microbatch_size=2),
        ppo=PPOConfig(**(given | (ppo or {}))),
    )


def test_a_simulated_update_takes_what_a_real_one_takes():
    asked = settings(checkpointing=True)
    found = trial(asked, SMALL, PROMPT, torch.bfloat16, stages=("ppo",))
    real = SimpleNamespace(live=LiveBytes())
    with real.live, torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(SMALL.config(), dtype=torch.bfloat16)
        backbone = Backbone(model, FakeTokenizer(), "small", LoRA())
        measured = watched_stages(real, asked, backbone, PROMPT, stages=("ppo",))
    assert set(found) == {"rollout", "scoring", "policy", "value"}
    for phase in ("scoring", "policy", "value"):  # a real model ends its answers when it likes
        assert found[phase] == pytest.approx(measured[phase], rel=0.01), phase
    assert found["rollout"] == pytest.approx(measured["rollout"], rel=0.05)


@pytest.mark.parametrize(
    ("asked", "half", "stages"),
    [
        (settings(ppo={"ptx_coef": 0.5, "ptx_length": 40}), True, STAGES),
        (settings(quantize="4bit", checkpointing=True), True, ("reward", "ppo")),
        (settings(quantize="4bit"), False, ("ppo",)),
        (settings(full=True), False, ("ppo",)),
        (settings(LoRA(8, 8, 1), {"value_model": "shared", "ema_decay": 0.9}), False, ("ppo",)),
        (settings(ppo={"value_model": "none", "clip_range": None}), False, ("ppo",)),
    ],
    ids=[
        *("16 bits", "4 bits, checkpointing", "4 bits on a CPU", "full"),
        *("upper layers, one value", "no value"),
    ],
)
def test_the_sums_are_within_a_tenth_of_the_simulated_run(asked, half, stages):
    dtype = torch.bfloat16 if half else torch.float32
    found = trial(asked, SMALL, PROMPT, dtype, stages=stages)
    sums = needs(SMALL, job_of(asked, half, PROMPT, responses=4))
    assert found.keys() == sums.keys() - ({"sft", "reward"} - set(stages))
    for stage, size in found.items():
        assert sums[stage].total == pytest.approx(size, rel=0.1), stage


def extrapolated(asked: Settings, shapes: Shapes, prompt_tokens: int = 256) -> dict[str, int]:
    """A trial at full depth from two shallow ones: each layer takes what the last one took."""
    two, three = (
        trial(asked, replace(shapes, layers=n), prompt_tokens, torch.bfloat16, stages=("ppo",))
        for n in (2, 3)
    )
    return {phase: two[phase] + (shapes.layers - 2) * (three[phase] - two[phase]) for phase in two}


def test_layers_add_up():
    asked, deep = settings(ppo={"max_new_tokens": 8}, checkpointing=True), replace(SMALL, layers=5)
    found = trial(asked, deep, PROMPT, torch.bfloat16, stages=("ppo",))
    assert extrapolated(asked, deep, PROMPT) == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize(("name", "bar"), [("Llama-3.1-8B", 12), ("Llama-3.2-3B", 8)])
def test_an_update_of_16_times_512_tokens_stays_under_its_bar(name, bar):
    """The bars of 4-bit LoRA: 8B under 12 GiB, 3B under 8 GiB; and the sums agree."""
    sizes = dict(rollout_batch_size=16, minibatch_size=16, microbatch_size=4, max_new_tokens=256)
    asked = settings(ppo=sizes, quantize="4bit", checkpointing=True)
    found = extrapolated(asked, table()[name])
    assert max(found.values()) < bar * GIB
    sums = needs(table()[name], job_of(asked, True, 256, responses=4))
    for phase, size in found.items():
        assert sums[phase].total == pytest.approx(size, rel=0.1), phase
    assert max(found.values()) == pytest.approx(max(sums[phase].total for phase in found), rel=0.1)
