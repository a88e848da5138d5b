"""The stages of a run on tensors without memory: what the sums of `engine/memory.py` answer to.

The stages are the real ones. Two things are cut short, since no peak depends on them: the sampler
stops after its second token, with the cache for all of them made, and then the answers go on at
full length; and each stage takes two micro-batches where it would take many.
"""

import warnings
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from minirlhf.engine.backbone import Backbone
from minirlhf.engine.episodes import RatioWarning
from minirlhf.engine.records import Demonstration, Prompt, Ranking
from minirlhf.engine.rollout import Rollout
from minirlhf.engine.shapes import Shapes
from minirlhf.engine.simulate import EOS, WORD, Simulation, fake_backbone, simulation
from minirlhf.pipeline import Settings
from minirlhf.stages.ppo import PPO, PPOConfig
from minirlhf.stages.reward import RewardTraining
from minirlhf.stages.sft import SFT

STAGES = ("sft", "reward", "ppo")


class WatchedPPO(PPO):
    """PPO with a note of what each phase of an update took at its worst moment, in bytes."""

    def __init__(self, simulated: Simulation, *args, **options):
        super().__init__(*args, **options)
        self.simulated, self.peaks = simulated, {}

    def _watch(self, phase: str, method, *args):
        self.simulated.live.restart()
        out = method(*args)
        self.peaks[phase] = max(self.peaks.get(phase, 0), self.simulated.live.peak)
        return out

    def collect_rollout(self, batch):
        self.simulated.draw = _ending()
        rollout = self._watch("rollout", super().collect_rollout, batch)
        shape = (len(batch), self.config.max_new_tokens)
        ids = torch.full(shape, WORD)
        whole = Rollout(*rollout[:2], ids, ids > 0, torch.zeros(shape))
        trunk = self.backbone.trunk(whole.input_ids, whole.attention_mask)
        return whole._replace(trunk=trunk)

    def score_rollout(self, *args):
        return self._watch("scoring", super().score_rollout, *args)

    def _policy_gradient(self, *args):
        return self._watch("policy", super()._policy_gradient, *args)

    def _ptx_gradient(self, *args):
        return self._watch("ptx", super()._ptx_gradient, *args)

    def _value_gradient(self, *args):
        return self._watch("value", super()._value_gradient, *args)


def _ending():
    """A model whose first answer ends at its first token, and all others at their second."""
    first = True

    def draw(shape: torch.Size) -> Tensor:
        nonlocal first
        ids = torch.full(shape, EOS)
        if first and len(shape):
            ids[1:], first = WORD, False
        return ids

    return draw


def trial(
    settings: Settings,
    shapes: Shapes,
    prompt_tokens: int,
    dtype: torch.dtype,
    responses: int = 4,
    stages: tuple[str, ...] = STAGES,
) -> dict[str, int]:
    """Bytes at the worst moment of each stage, of PPO phase by phase.

    Args:    settings: of the run; shapes: of the model; prompt_tokens: of each prompt but one,
             which is a token shorter, so that there is a mask; a response has `ppo.max_new_tokens`;
             dtype: of the base; responses: to each ranked prompt; stages: some of STAGES, a role
             whose stage is left out is made untrained.
    """
    with simulation() as simulated:
        lora = None if settings.run.full else settings.lora
        backbone = fake_backbone(shapes.config(), settings.run.quantize, lora, dtype)
        return watched_stages(simulated, settings, backbone, prompt_tokens, responses, stages)


def watched_stages(
    simulated: Simulation,
    settings: Settings,
    backbone: Backbone,
    prompt_tokens: int,
    responses: int = 4,
    stages: tuple[str, ...] = STAGES,
) -> dict[str, int]:
    """What `trial` does, on a backbone with a `FakeTokenizer`.

    Args: simulated: its `live` counts bytes; with true tensors, anything with a `live` like that.
    """
    backbone.checkpointing = settings.run.checkpointing
    answer = "x" * (settings.ppo.max_new_tokens - 1)  # EOS makes one more
    peaks = {}
    if "sft" in stages:
        rows = min(settings.sft.microbatch_size, settings.sft.batch_size)
        data = [Demonstration(prompt, answer) for prompt in _prompts(2 * rows, prompt_tokens)]
        config = replace(settings.sft, epochs=2, select="last", **_two(rows))
        peaks["sft"] = _worst(simulated, SFT(config, backbone, data))
    else:
        backbone.add_role("reference")
    if "reward" in stages:
        rows = min(settings.reward.microbatch_size, settings.reward.batch_size)
        ranks = tuple(range(1, responses + 1))
        answers = (answer,) * responses
        data = [Ranking(prompt, answers, ranks) for prompt in _prompts(2 * rows, prompt_tokens)]
        config = replace(settings.reward, epochs=2, **_two(rows))
        peaks["reward"] = _worst(simulated, RewardTraining(config, backbone, data))
    else:
        backbone.add_role("reward")
    if "ppo" in stages:
        peaks |= _ppo(simulated, settings.ppo, backbone, prompt_tokens)
    return peaks


def _two(rows: int) -> dict[str, int]:
    """Two micro-batches of `rows` to a step."""
    return {"batch_size": 2 * rows, "microbatch_size": rows}


def _prompts(count: int, tokens: int) -> list[str]:
    return ["x" * (tokens - (i == 0)) for i in range(count)]


def _worst(simulated: Simulation, steps: Iterable) -> int:
    simulated.live.restart()
    for _ in steps:
        pass
    return simulated.live.peak


def _ppo(
    simulated: Simulation, config: PPOConfig, backbone: Backbone, prompt_tokens: int
) -> dict[str, int]:
    """One update as it is after the first, when Adam has its moments."""
    episodes = config.rollout_batch_size
    rows = min(config.microbatch_size, config.minibatch_size, episodes)
    prompts = [Prompt(text) for text in _prompts(max(episodes, 2 * rows), prompt_tokens)]
    pretraining = ["x" * config.ptx_length * 2 * rows]
    few = replace(
        config, rollout_batch_size=2 * rows, minibatch_size=2 * rows, microbatch_size=rows
    )
    ppo = WatchedPPO(simulated, few, backbone, prompts, pretraining=pretraining)
    for optimiser in ppo.optimisers.values():
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad()
    held = ppo.collect_rollout(range(episodes))  # with its trunk, as long as it is learned from
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RatioWarning)  # numbers that nobody knows agree with none
        next(ppo)
    del held
    return ppo.peaks
