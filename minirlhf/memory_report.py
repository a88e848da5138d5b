"""`minirlhf memory`: will a run fit, said in tables, and what to change where it will not."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from minirlhf.engine.memory import (
    CUDA_CONTEXT,
    FRAGMENTATION,
    GIB,
    Job,
    Need,
    largest,
    longest,
    needs,
    peak,
    role_bytes,
    role_parameters,
    usable,
)
from minirlhf.engine.records import DataError
from minirlhf.engine.shapes import Shapes, find_shapes, table
from minirlhf.memory_trial import trial
from minirlhf.pipeline import Settings

FLAGS = {  # of a job's settings, as `minirlhf run` takes them
    "sft_rows": "--sft.microbatch-size",
    "reward_rows": "--reward.microbatch-size",
    "rollout_rows": "--ppo.rollout-batch-size",
    "ppo_rows": "--ppo.microbatch-size",
}
TITLES = {
    "sft": "SFT",
    "reward": "reward model",
    "rollout": "PPO: sampling",
    "scoring": "PPO: scoring",
    "policy": "PPO: policy",
    "ptx": "PPO: ptx",
    "value": "PPO: value",
}


@dataclass(frozen=True)
class Question:
    """What is asked: which model, which job, and the bytes that a card leaves for it, if any."""

    name: str
    shapes: Shapes
    job: Job
    room: int | None = None

    @property
    def unit(self) -> str:
        return "GiB" if peak(self.shapes, self.job) >= GIB else "MiB"

    def show(self, size: int) -> str:
        """Bytes in this answer's unit."""
        return f"{size / GIB:.2f}" if self.unit == "GiB" else f"{size / 2**20:.1f}"


def job_of(settings: Settings, cuda: bool, prompt_tokens: int, responses: int) -> Job:
    """The job that a run's settings ask for.

    Args: cuda: whether a frozen base is in 16 bits; prompt_tokens: longest prompt; responses: to
          each ranked prompt.
    """
    run, lora, ppo = settings.run, settings.lora, settings.ppo
    return Job(
        quantize=run.quantize,
        full=run.full,
        rank=lora.rank,
        first_layer=0 if run.full else lora.first_layer,
        checkpointing=run.checkpointing,
        half=cuda,
        prompt_tokens=prompt_tokens,
        response_tokens=ppo.max_new_tokens,
        rollout_rows=ppo.rollout_batch_size,
        ppo_rows=min(ppo.microbatch_size, ppo.minibatch_size, ppo.rollout_batch_size),
        sft_rows=min(settings.sft.microbatch_size, settings.sft.batch_size),
        reward_rows=min(settings.reward.microbatch_size, settings.reward.batch_size),
        responses=responses,
        ptx_tokens=ppo.ptx_length if ppo.ptx_coef > 0 else 0,
        value_model=ppo.value_model,
        ema=ppo.ema_decay > 0,
        dropout=settings.sft.dropout > 0,
    )


def ask(
    settings: Settings,
    card: float | None = None,
    prompt_tokens: int | None = None,
    responses: int = 4,
) -> Question:
    """The question that `minirlhf memory` asks.

    Args:   card: its memory in GB, None = a CPU; prompt_tokens: None = 256, or what the model's
            context leaves for them.
    Raises: DataError where the model is unknown, or its context too short.
    """
    if settings.run.full and settings.run.quantize != "none":
        raise DataError("quantize: 4-bit weights cannot be trained in full; use LoRA with 4bit")
    name, shapes = find_shapes(settings.run.model)
    words = settings.ppo.max_new_tokens
    left = shapes.context - words
    if left < (prompt_tokens or 1):
        asked = f"{prompt_tokens or 1} + {words} tokens of prompt and response"
        raise DataError(f"{asked} are over the context of {name}, {shapes.context}")
    job = job_of(settings, card is not None, prompt_tokens or min(256, left), responses)
    return Question(name, shapes, job, None if card is None else usable(card))


def report(question: Question, card: float | None = None) -> Iterator[str]:
    """The answer, a block of text at a time."""
    yield _headline(question)
    yield _roles(question)
    yield _stages(question)
    if card is not None:
        yield _verdict(question, card)
        yield _alternatives(question)


def _headline(question: Question) -> str:
    shapes, job = question.shapes, question.job
    base = {"4bit": "a 4-bit base", "none": f"a {8 * job.width}-bit base"}[job.quantize]
    adapters = f"adapters of rank {job.rank}" + (
        f" from layer {job.first_layer} on" if job.first_layer else ""
    )
    kept = "all weights tuned, in 32 bits" if job.full else f"{base}, {adapters}"
    again = ", checkpointing" if job.checkpointing else ""
    return (
        f"{question.name}: {shapes.parameters:,} parameters; {kept}{again}\n"
        f"prompts of up to {job.prompt_tokens} tokens, responses of up to {job.response_tokens}"
    )


def _roles(question: Question) -> str:
    job, rows = question.job, []
    moments = 8 * role_parameters(question.shapes, job)
    for role, size in role_bytes(question.shapes, job).items():
        note = f"  and {question.show(moments)} for Adam" if role in ("policy", "value") else ""
        note = "  shared by all roles" if role == "base" and not job.full else note
        rows.append(f"  {role:<22}{question.show(size):>8}{note}")
    return "\n".join([f"roles, {question.unit}", *rows])


def _stages(question: Question) -> str:
    head = f"  {'':<15}" + "".join(f"{title:>12}" for title in (*Need._fields, "in all"))
    rows = [f"stages at their worst moment, {question.unit}", head]
    for stage, need in needs(question.shapes, question.job).items():
        parts = (question.show(part) if part else "-" for part in (*need, need.total))
        rows.append(f"  {TITLES[stage]:<15}" + "".join(f"{part:>12}" for part in parts))
    return "\n".join(rows)


def _verdict(question: Question, card: float) -> str:
    need, room = peak(question.shapes, question.job), question.room
    lost = f"{CUDA_CONTEXT / GIB:.1f} for CUDA and {FRAGMENTATION:.0%} for gaps are taken off"
    has = f"a card of {card:g} GB has {room / GIB:.2f} GiB for it ({lost})"
    if need > room:
        return f"It does not fit: {has}, and it needs {need / GIB:.2f}. {advice(question)}"
    tokens = longest(question.shapes, question.job, room)
    most = (
        f"  {flag:<28}{largest(question.shapes, question.job, setting, room):>5}   "
        f"now {getattr(question.job, setting)}"
        for setting, flag in FLAGS.items()
    )
    return "\n".join(
        [
            f"It fits: {has}, and it needs {need / GIB:.2f}. The most that fits of each:",
            *most,
            f"With micro-batches of 1, prompts and responses could have {tokens:,} tokens each.",
        ]
    )


def advice(question: Question) -> str:
    """One sentence on what to change so that it fits: as little, and as painlessly, as will do."""
    for flags, job in _ways(question.job):
        for setting, flag in FLAGS.items():
            rows = largest(question.shapes, job, setting, question.room)
            if 0 < rows < getattr(job, setting):
                job, flags = replace(job, **{setting: rows}), [*flags, f"{flag} {rows}"]
        if peak(question.shapes, job) <= question.room:
            return f"It would with {' '.join(flags)}."
    _, least = [*_ways(question.job)][-1]
    alone = replace(least, **dict.fromkeys(FLAGS, 1))
    fitting = {
        shapes.parameters: name
        for name, shapes in table().items()
        if peak(shapes, alone) <= question.room
    }
    if not fitting:
        return "No setting changes that, and no model of the table would."
    best = fitting[max(fitting)]
    return f"No setting changes that; the largest model of the table that would is {best}."


def _ways(job: Job) -> Iterator[tuple[list[str], Job]]:
    """(flags, job) with ever more given up: nothing, time, full tuning, exact weights."""
    flags: list[str] = []
    yield flags, job
    changes = {
        "--checkpointing true": {"checkpointing": True},
        "--full false": {"full": False},
        "--quantize 4bit": {"quantize": "4bit"},
    }
    for flag, values in changes.items():
        changed = replace(job, **values)
        if changed != job:
            job, flags = changed, [*flags, flag]
            yield flags, job


def _alternatives(question: Question) -> str:
    """The same job with the base and the roles kept in other ways."""
    ways = {
        "LoRA on 16 bits": dict(full=False, quantize="none"),
        "LoRA on 4 bits": dict(full=False, quantize="4bit"),
        "all weights": dict(full=True, quantize="none", first_layer=0),
    }
    columns = ("needs", "PPO micro-batch", "tokens each")
    rows = [
        f"the same in other ways: {question.unit}, the largest micro-batch, the longest at 1",
        f"  {'':<30}" + "".join(f"{column:>18}" for column in columns),
    ]
    for name, values in ways.items():
        for again in (False, True):
            job = replace(question.job, checkpointing=again, **values)
            given = (question.shapes, job)
            rows.append(
                f"  {name + (', checkpointing' if again else ''):<30}"
                f"{question.show(peak(*given)):>18}"
                f"{largest(*given, 'ppo_rows', question.room) or '-':>18}"
                f"{longest(*given, question.room) or '-':>18}"
            )
    return "\n".join(rows)


def _trial(question: Question, settings: Settings) -> str:
    """What the stages took on tensors without memory, beside the sums."""
    job = question.job
    dtype = torch.float32 if job.width == 4 else torch.bfloat16
    found = trial(settings, question.shapes, job.prompt_tokens, dtype, job.responses)
    sums = needs(question.shapes, job)
    rows = [
        f"the stages run on tensors without memory, {question.unit}",
        f"  {'':<15}{'simulated':>12}{'sum':>12}{'ratio':>12}",
    ]
    for stage, size in found.items():
        total = sums[stage].total
        shown = f"{question.show(size):>12}{question.show(total):>12}"
        rows.append(f"  {TITLES[stage]:<15}{shown}{total / size:>12.2f}")
    return "\n".join(rows)


def add_memory_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `minirlhf memory` beside a run's settings."""
    add = parser.add_argument
    add("--gpu", type=float, metavar="GB", help="memory of the card; without it, on a CPU")
    add("--prompt-tokens", type=int, metavar="N", help="of the longest prompt [256]")
    add("--responses", type=int, default=4, metavar="K", help="to each ranked prompt [4]")
    add("--trial", action="store_true", help="also run the stages on tensors without memory")
    add("--settings", metavar="FILE", help="YAML file: {stage: {setting: value}}")
    add("--quick", action="store_true", help="the settings of a run's --quick")


def memory_command(args: argparse.Namespace, settings: Settings) -> None:
    """`minirlhf memory`: print the report; with --trial also what a simulated run took."""
    for flag, value, least in (
        ("--gpu", args.gpu, 1),
        ("--prompt-tokens", args.prompt_tokens, 1),
        ("--responses", args.responses, 2),
    ):
        if value is not None and not least <= value < 10**6:  # nan is neither
            raise DataError(f"{flag}: {value:g} must be at least {least}")
    question = ask(settings, args.gpu, args.prompt_tokens, args.responses)
    print("\n\n".join(report(question, args.gpu)))
    if args.trial:
        print(f"\n{_trial(question, settings)}")
