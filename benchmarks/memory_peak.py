"""What the stages take on this machine's CPU, beside what `minirlhf memory` says they would.

    python benchmarks/memory_peak.py
    python benchmarks/memory_peak.py --model smollm2 --bits 4

Measured is the kernel's own high-water mark of the process (VmHWM), set back before each stage,
less what the process had before the model was loaded. By then a model with one layer of the same
shapes has gone through the same stages and away, so that the libraries have loaded and compiled
what they keep. Each model and precision is a process of its own, told to give freed memory back at
once.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from gpu_check import random_model
from transformers import PreTrainedModel
from transformers.utils import logging

from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.memory import needs
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import DataError
from minirlhf.engine.shapes import find_shapes
from minirlhf.engine.simulate import FakeTokenizer
from minirlhf.memory_report import TITLES, job_of
from minirlhf.memory_trial import watched_stages
from minirlhf.pipeline import RunConfig, Settings
from minirlhf.stages.ppo import PPOConfig
from minirlhf.stages.reward import RewardConfig
from minirlhf.stages.sft import SFTConfig

MIB = 2**20
# Rows and tokens: as many as make the weights of a model the smaller part, in a minute or two
SIZES = {"smollm2": dict(rows=2, prompt=48, words=48)}
OTHERS = dict(rows=48, prompt=64, words=64)


class HighWater:
    """The process's resident memory at its highest since `restart`, above a baseline, in bytes."""

    def __init__(self):
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        self.baseline = status("VmRSS")
        self.restart()

    def restart(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS

    @property
    def peak(self) -> int:
        return status("VmHWM") - self.baseline


def status(field: str) -> int:
    """A size in /proc/self/status, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def settings_for(model: str, bits: int, checkpointing: bool, sizes: dict) -> Settings:
    rows = sizes["rows"]
    return Settings(
        run=RunConfig(model, "4bit" if bits == 4 else "none", checkpointing=checkpointing),
        sft=SFTConfig(microbatch_size=rows, batch_size=2 * rows, dropout=0.0),
        reward=RewardConfig(microbatch_size=max(1, rows // 4)),
        ppo=PPOConfig(
            rollout_batch_size=2 * rows, microbatch_size=rows, max_new_tokens=sizes["words"]
        ),
    )


def measure(model: str, bits: int, checkpointing: bool, sizes: dict) -> dict[str, int]:
    """Bytes of each stage at its worst moment, measured; to be called in a fresh process."""
    torch.set_num_threads(1)  # each thread has buffers of its own
    settings = settings_for(model, bits, checkpointing, sizes)
    one_layer = replace(find_shapes(model)[1], layers=1)
    run_stages(random_model(one_layer, bits, "cpu"), settings, sizes, HighWater())
    water = HighWater()
    base = load_backbone(model, settings.run.quantize, device="cpu").model
    base = base.to(torch.bfloat16) if bits == 16 else base
    return run_stages(base, settings, sizes, water)


def run_stages(base: PreTrainedModel, settings: Settings, sizes: dict, water: HighWater) -> dict:
    backbone = Backbone(base, FakeTokenizer(), "measured", LoRA())
    return watched_stages(SimpleNamespace(live=water), settings, backbone, sizes["prompt"])


def compare(model: str, bits: int, checkpointing: bool) -> None:
    """Measure in a process of its own, and print each stage beside its sum."""
    sizes = SIZES.get(model, OTHERS)
    asked = [model, str(bits), str(int(checkpointing)), json.dumps(sizes)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--child", *asked]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    settings = settings_for(model, bits, checkpointing, sizes)
    job = job_of(settings, bits == 16, sizes["prompt"], responses=4)
    sums = needs(find_shapes(model)[1], job)
    again = ", checkpointing" if checkpointing else ""
    for stage, size in measured.items():
        total = sums[stage].total
        name = f"{model}, {bits} bits{again}"
        print(
            f"| {name} | {TITLES[stage]} | {total / MIB:.1f} | {size / MIB:.1f} "
            f"| {total / size:.2f} |",
            flush=True,
        )
    most, found = max(sums[stage].total for stage in measured), max(measured.values())
    print(f"| {name} | **peak** | {most / MIB:.1f} | {found / MIB:.1f} | {most / found:.2f} |")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        model, bits, checkpointing, sizes = sys.argv[2:]
        logging.disable_progress_bar()
        found = measure(model, int(bits), checkpointing == "1", json.loads(sizes))
        print(json.dumps(found))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", nargs="+", default=["moonlet-1m", "smollm2"])
    parser.add_argument("--bits", nargs="+", type=int, choices=(32, 16, 4), default=[32, 16, 4])
    parser.add_argument("--checkpointing", action="store_true")
    args = parser.parse_args()
    print("| run | stage | sum, MiB | measured, MiB | sum / measured |\n|---|---|---|---|---|")
    try:
        for model in args.model:
            for bits in args.bits:
                compare(model, bits, args.checkpointing)
    except DataError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
