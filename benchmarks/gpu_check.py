"""Does all of it work on your card, and are the sums right there? Prints a table to paste.

    python benchmarks/gpu_check.py > table.md

Downloads nothing: the model has the shapes of one from the shipped table and random weights; the
largest one that fits the card in 16 bits is taken, or the one that --model names. Without a card it
runs on the CPU, on a small model, counts bytes itself, and says what is left out.
"""

import argparse
import contextlib
import gc
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from types import SimpleNamespace

import bitsandbytes
import torch
from sampler import generate, ours
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from minirlhf import __version__
from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.batches import Encoder
from minirlhf.engine.memory import GIB, needs, peak, usable
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import DataError, Prompt
from minirlhf.engine.shapes import Shapes, find_shapes, table
from minirlhf.engine.simulate import FakeTokenizer, LiveBytes
from minirlhf.memory_report import TITLES, job_of
from minirlhf.memory_trial import watched_stages
from minirlhf.pipeline import RunConfig, Settings
from minirlhf.stages.ppo import PPO, PPOConfig

CARD = torch.cuda.is_available()
DEVICE = "cuda" if CARD else "cpu"
NEEDS_CARD = "left out: needs a card"
MIB = 2**20
Row = tuple[str, str]


class Endless(FakeTokenizer):
    """A tokenizer whose EOS no model can draw, so that every answer has its full length."""

    eos_token_id = -1


class CardPeak:
    """The card's memory that PyTorch gave out at its highest since `restart`, bytes."""

    def restart(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    @property
    def peak(self) -> int:
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()


# The model ----------------------------------------------------------------------------------------


def random_model(shapes: Shapes, bits: int, device: str) -> PreTrainedModel:
    """A causal LM with random weights, in 4, 16 or 32 bits; 4 bits compute in 16 on a card."""
    dtype = torch.bfloat16 if bits == 16 or (bits == 4 and device == "cuda") else torch.float32
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shapes.config(), dtype=dtype)
    if bits == 4:
        for module in [*model.get_decoder().layers.modules()]:
            for name, child in [*module.named_children()]:
                if isinstance(child, nn.Linear):
                    setattr(module, name, four_bits(child, dtype, device))
        model.is_quantized = True
    model.generation_config.eos_token_id = None
    return model


def four_bits(linear: nn.Linear, dtype: torch.dtype, device: str) -> nn.Module:
    packed = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = bitsandbytes.nn.Params4bit(
        linear.weight.data, requires_grad=False, quant_type="nf4", module=packed
    )
    packed.bias = linear.bias
    return packed.to(device)


def settings_for(bits: int, small: bool) -> Settings:
    tokens, rows, episodes = (32, 2, 4) if small else (256, 4, 16)
    return Settings(
        run=RunConfig("", "4bit" if bits == 4 else "none", checkpointing=True),
        ppo=PPOConfig(
            rollout_batch_size=episodes, microbatch_size=rows, max_new_tokens=tokens, updates=1
        ),
    )


def choose(name: str | None) -> tuple[str, Shapes]:
    """The model asked for; else the largest one that fits the card, on a CPU the shipped one."""
    if name or not CARD:
        return find_shapes(name or "moonlet-1m")
    room = usable(torch.cuda.get_device_properties(0).total_memory / GIB)
    job = job_of(settings_for(16, small=False), True, 256, 4)
    fitting = [
        (shapes.parameters, name, shapes)
        for name, shapes in table().items()
        if peak(shapes, job) <= room
    ]
    if not fitting:
        raise DataError("no model of the table fits this card in 16 bits; name one with --model")
    return max(fitting)[1:]


# The rows -----------------------------------------------------------------------------------------


def machine() -> Iterator[Row]:
    versions = [f"{name} {version(name)}" for name in ("torch", "bitsandbytes", "transformers")]
    yield "minirlhf, Python", f"{__version__}, {platform.python_version()}"
    yield "libraries", ", ".join(versions)
    if CARD:
        card = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        yield "card", f"{card.name}, {total / GIB:.2f} GiB, CUDA {torch.version.cuda}"
        taken = total - free - torch.cuda.memory_reserved()
        yield "taken by CUDA and other programs", f"{taken / GIB:.2f} GiB"
    else:
        yield "card", f"none; {torch.get_num_threads()} CPU threads"


def products(dtype: torch.dtype) -> str:
    """Rate of square matrix products."""
    size = 4096 if CARD else 1024
    matrix = torch.randn(size, size, device=DEVICE).to(dtype)
    best = min(seconds(lambda: matrix @ matrix) for _ in range(10))
    return f"{2 * size**3 / best / 1e12:.3g} TFLOP/s"


def seconds(work: Callable) -> float:
    if CARD:
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if CARD:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def update(shapes: Shapes, bits: int, small: bool) -> Iterator[Row]:
    """Memory of a PPO update beside the sums, the sampler's speed, the first minibatch's ratio."""
    settings = settings_for(bits, small)
    tokens = settings.ppo.max_new_tokens
    meter = SimpleNamespace(live=CardPeak() if CARD else LiveBytes())
    with contextlib.nullcontext() if CARD else meter.live:
        backbone = Backbone(random_model(shapes, bits, DEVICE), Endless(), "random", LoRA())
        measured = watched_stages(meter, settings, backbone, tokens, stages=("ppo",))
    half = CARD or bits == 16
    sums = needs(shapes, job_of(settings, half, tokens, 4))
    for stage, size in measured.items():
        total = sums[stage].total
        both = f"{total / MIB:,.1f} and {size / MIB:,.1f} MiB, ratio {total / size:.2f}"
        yield f"{TITLES[stage]}, sum and {'measured' if CARD else 'counted'}", both
    if CARD:
        yield "PyTorch reserved at most", f"{torch.cuda.max_memory_reserved() / GIB:.2f} GiB"
    yield "tokens/s at batch 8, ours and `generate`", speeds(backbone, tokens)
    backbone.checkpointing = False
    prompts = [Prompt("x" * (8 + i)) for i in range(4)]
    few = PPOConfig(updates=1, rollout_batch_size=4, minibatch_size=4, max_new_tokens=16)
    stats = next(PPO(few, backbone, prompts))
    yield "ratio of the first minibatch, off 1 by", f"{stats['ratio_error']:.1e}"


def speeds(backbone: Backbone, tokens: int) -> str:
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    prompts = encoder.prompts([encoder.prompt(Prompt("x" * 24)) for _ in range(8)])
    rates = []
    for sampler in (ours, generate):
        sampler(backbone, prompts, tokens)  # warms up
        rates.append(8 * tokens / seconds(lambda: sampler(backbone, prompts, tokens)))  # noqa: B023
    return f"{rates[0]:.0f} and {rates[1]:.0f}, ratio {rates[0] / rates[1]:.2f}"


def gradients(other: str = "cuda") -> str:
    """moonlet-1m's LoRA gradients in float32, another device's against the CPU's."""
    found = []
    for device in ("cpu", other):
        backbone = load_backbone("moonlet-1m", device="cpu")
        backbone.model.to(device)
        backbone.add_role("reference")
        parameters = backbone.train_role("reference")
        ids = torch.arange(5, 101, device=device).view(4, 24)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[0, :7] = False
        backbone.logits("reference", ids, mask).logsumexp(-1)[mask].mean().backward()
        found.append(torch.cat([p.grad.flatten().cpu() for p in parameters]))
    off = (found[1] - found[0]).norm() / found[0].norm()
    return f"{off:.1e} of their norm"


def attempt(what: str, work: Callable[[], str | Iterator[Row]]) -> None:
    """Print the rows of some work; what fails is a row, too, and the next work goes on."""
    try:
        found = work()
        for row in [(what, found)] if isinstance(found, str) else found:
            print("| " + " | ".join((what, row[1]) if row[0] == what else row) + " |", flush=True)
    except Exception as error:  # whatever it is, the one who reads the table wants to know
        first = (str(error).splitlines() or [""])[0]
        print(f"| {what} | **failed**: {type(error).__name__}: {first} |", flush=True)
    gc.collect()
    if CARD:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="whose shapes: a name of the table, or as for minirlhf run")
    parser.add_argument("--small", action="store_true", help="4 x (32 + 32) tokens at a time")
    args = parser.parse_args()
    try:
        name, shapes = choose(args.model)
    except DataError as error:
        parser.error(str(error))
    small = args.small or not CARD
    episodes = settings_for(16, small).ppo
    size = f"{episodes.rollout_batch_size} x 2 x {episodes.max_new_tokens} tokens"
    print("| what | found |\n|---|---|")
    attempt("machine", machine)
    attempt("matrix products, float32", lambda: products(torch.float32))
    attempt("matrix products, bfloat16", lambda: products(torch.bfloat16))
    attempt("gradients, card against CPU", gradients if CARD else lambda: NEEDS_CARD)
    for bits in (16, 4):
        print(f"| **{name}, random weights, {bits} bits, LoRA, checkpointing, {size}** | |")
        attempt("a PPO update", lambda: update(shapes, bits, small))  # noqa: B023
    if not CARD:
        print(f"| memory of the card, its fragmentation, 16-bit speed | {NEEDS_CARD} |")


if __name__ == "__main__":
    main()
