"""What two processes do in tests/engine/test_parallel.py, and what one does to compare with.

Each run returns {"stats": a dict per step, "gradients": what each optimiser step took,
"weights": of all trained roles at the end}.
"""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

from minirlhf.cli import main
from minirlhf.engine import parallel
from minirlhf.engine.backbone import LoRA
from minirlhf.engine.checkpoint import load_role
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import Demonstration, Prompt, Ranking
from minirlhf.stages.dpo import DPO, DPOConfig
from minirlhf.stages.grpo import GRPO, GRPOConfig
from minirlhf.stages.ppo import PPO, PPOConfig
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.stages.rloo import RLOO, RLOOConfig
from minirlhf.stages.sft import SFT, SFTConfig


class Given(NamedTuple):
    """What the runs start from."""

    base: Path
    roles: Path  # holds the folders `reference` and `reward`
    lora: LoRA
    demonstrations: list[Demonstration]
    rankings: list[Ranking]
    texts: list[str]
    data: Path  # a project's data folder, for the command
    flags: list[str]  # under which a whole run is short


def follow(stage, optimisers, backbone, roles):
    gradients = []

    def note(optimiser, *_):
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        gradients.append(torch.cat([p.grad.flatten() for p in parameters]))

    for optimiser in optimisers:
        optimiser.register_step_pre_hook(note)
    stats = [{name: step[name] for name in step if name != "seconds"} for step in stage]
    weights = {role: torch.cat([p.flatten() for p in backbone.parameters(role)]) for role in roles}
    return {"stats": stats, "gradients": gradients, "weights": weights}


def sft(given, lora):
    backbone = load_backbone(str(given.base), lora=lora, device="cpu")
    config = SFTConfig(
        epochs=2, batch_size=5, microbatch_size=2, dropout=0.0, select="loss", learning_rate=1e-2
    )
    train, valid = given.demonstrations, given.demonstrations[:3]
    stage = SFT(config, backbone, train, valid, pretraining=given.texts)
    return follow(stage, [stage.optimiser], backbone, ["reference"])


def reward(given):
    backbone = load_backbone(str(given.base), lora=given.lora, device="cpu")
    load_role(backbone, "reference", given.roles / "reference")
    config = RewardConfig(epochs=2, batch_size=3, microbatch_size=1, learning_rate=1e-2)
    stage = RewardTraining(
        config, backbone, given.rankings, given.rankings[:1], given.demonstrations
    )
    return follow(stage, [stage.optimiser], backbone, ["reward"])


PPO_SHORT = PPOConfig(
    updates=2,
    rollout_batch_size=5,
    minibatch_size=3,
    microbatch_size=2,
    ppo_epochs=2,
    max_new_tokens=10,
    warmup_updates=0,
    policy_learning_rate=1e-3,
    ptx_coef=0.5,
    ptx_ratio=1.0,
    ptx_length=16,
    ema_decay=0.5,
)


def ppo(given):
    backbone = load_backbone(str(given.base), lora=given.lora, device="cpu")
    for role in ("reference", "reward"):
        load_role(backbone, role, given.roles / role)
    prompts = [Prompt(d.prompt) for d in given.demonstrations]
    stage = PPO(PPO_SHORT, backbone, prompts, pretraining=given.texts)
    run = follow(stage, stage.optimisers.values(), backbone, ["policy", "value"])
    run["weights"]["ema"] = torch.cat([average.flatten() for average in stage.ema.values()])
    return run


def ppo_shared(given):
    """A trunk, a value head on the policy, PPO-penalty, and a plain function as reward."""
    lora = LoRA(rank=4, alpha=8, first_layer=1)
    backbone = load_backbone(str(given.base), lora=lora, device="cpu")
    backbone.add_role("reference")
    prompts = [Prompt(d.prompt) for d in given.demonstrations]
    changes = {"loss": "penalty", "value_model": "shared", "ptx_coef": 0.0, "ema_decay": 0.0}
    config = PPOConfig(**{**vars(PPO_SHORT), **changes, "rollout_batch_size": 7})
    stage = PPO(config, backbone, prompts, reward=lambda prompts, texts: [*map(len, texts)])
    return follow(stage, stage.optimisers.values(), backbone, ["policy"])


def dpo(given):
    backbone = load_backbone(str(given.base), lora=given.lora, device="cpu")
    load_role(backbone, "reference", given.roles / "reference")
    config = DPOConfig(epochs=2, batch_size=3, microbatch_size=1, learning_rate=1e-2)
    stage = DPO(config, backbone, given.rankings, given.rankings[:1])
    return follow(stage, [stage.optimiser], backbone, ["policy"])


def _in_groups(given, make):
    backbone = load_backbone(str(given.base), lora=given.lora, device="cpu")
    for role in ("reference", "reward"):
        load_role(backbone, role, given.roles / role)
    stage = make(backbone, [Prompt(d.prompt) for d in given.demonstrations])
    return follow(stage, [stage.optimiser], backbone, ["policy"])


GROUPS = dict(rollout_batch_size=6, samples=2, microbatch_size=2, max_new_tokens=10)
GROUPS |= dict(learning_rate=1e-3, warmup_updates=0)


def rloo(given):
    config = RLOOConfig(updates=4, **GROUPS)
    return _in_groups(given, lambda backbone, prompts: RLOO(config, backbone, prompts))


def grpo(given):
    config = GRPOConfig(updates=2, minibatch_size=5, inner_epochs=2, **GROUPS)
    return _in_groups(given, lambda backbone, prompts: GRPO(config, backbone, prompts))


def plain_fsdp(given):
    """A step of SFT with what is exported: a plain model, split over the processes by FSDP2."""
    model = AutoModelForCausalLM.from_pretrained(given.roles / "merged", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(given.roles / "merged")
    if parallel.world() > 1:
        mesh = init_device_mesh("cpu", (parallel.world(),))
        for layer in (*model.model.layers, model):
            fully_shard(layer, mesh=mesh)
        assert sum(p.to_local().numel() for p in model.parameters()) < 0.6 * model.num_parameters()
    texts = parallel.deal(given.texts[:6])
    ids = tokenizer(
        texts, return_tensors="pt", padding="max_length", max_length=32, truncation=True
    )
    labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
    loss = model(**ids, labels=labels, num_items_in_batch=100).loss
    (loss * parallel.world()).backward()  # FSDP takes the mean, our losses want the sum
    gradients = [
        p.grad.full_tensor() if parallel.world() > 1 else p.grad for p in model.parameters()
    ]
    stats = [parallel.total({"loss": loss.item()})]
    return {"stats": stats, "gradients": gradients, "weights": {}}


def dealt(given):
    """The small parts: what is dealt comes together again, for any number of rows."""
    rows = [torch.arange(2 * n).view(n, 2) for n in range(1, 6)]
    back = [parallel.together(parallel.share(part), len(part)) for part in rows]
    parameter = torch.nn.Parameter(torch.zeros(2))
    other = torch.nn.Parameter(torch.zeros(3))
    if parallel.is_main():
        parameter.grad = torch.tensor([1.0, 2.0])
    other.grad = torch.ones(3)
    parallel.sum_gradients([parameter, other])
    luck = parallel.own_generator(torch.Generator().manual_seed(0))
    return {
        "back": back,
        "dealt": parallel.deal([0, 1, 2, 3, 4]),
        "own": parallel.own(torch.tensor([4, 1, 3, 0])),
        "gradients": [parameter.grad, other.grad],
        "total": parallel.total({"a": 1.5, "b": float(parallel.rank())}),
        "largest": parallel.largest({"a": 1.5, "b": float(parallel.rank())}),
        "luck": torch.rand(1, generator=luck),
    }


RUNS = {
    "dealt": dealt,
    "sft": lambda given: sft(given, given.lora),
    "sft in full": lambda given: sft(given, None),
    "reward": reward,
    "ppo": ppo,
    "export under FSDP": plain_fsdp,
    "ppo shared": ppo_shared,
    "dpo": dpo,
    "rloo": rloo,
    "grpo": grpo,
}


def command(given, folder: Path) -> None:
    """`minirlhf run`, with `folder` as the working directory."""
    folder.mkdir()
    os.chdir(folder)
    os.environ["MINIRLHF_DATA"] = str(given.data)
    assert main(["run", "--name", "mine", "--sft.dropout", "0", *given.flags]) == 0


def process(rank: int, world: int, port: int, given: Given, out: Path) -> None:
    """One of `world` processes, as a launcher starts it: does all runs."""
    torch.set_num_threads(1)
    os.environ |= {
        "ACCELERATE_USE_CPU": "true",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with parallel.session():
        found = {name: run(given) for name, run in RUNS.items()}
        torch.save(found, out / f"{rank}.pt")
        command(given, out / f"cwd{rank}")
