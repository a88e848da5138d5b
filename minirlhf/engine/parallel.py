"""Several processes, one run: each computes a share of a batch's rows, and all know the result.

Every process runs the same lines on the same data with the same random numbers. Only the rows that
go through the model are dealt out: gradients are added up before each step, since a loss counts the
tokens of the whole minibatch; samples and scores are gathered, so that whitening, advantages and
metrics are those of the whole batch everywhere. Alone (world of 1) all of this does nothing.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minirlhf.engine.records import DataError

Items = TypeVar("Items", Tensor, list)
BUCKET = 2**24  # gradients sent at once: 64 MB in float32


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def main_only(write: Callable[..., None]) -> Callable[..., None]:
    """Mark a function that writes: in any but the first process a call does nothing."""

    @functools.wraps(write)
    def call(*args, **kwargs) -> None:
        if is_main():
            write(*args, **kwargs)

    return call


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Beside the processes that `accelerate launch` or `torchrun` has started, for a block.

    Only what the first one prints is seen.
    """
    started = _meet()
    with contextlib.nullcontext() if is_main() else contextlib.redirect_stdout(None):
        yield
    if started:
        dist.destroy_process_group()


def _meet() -> bool:
    launched = os.environ.get("WORLD_SIZE")
    if launched is None and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
        warnings.warn(
            "accelerate launch has started one process; with --cpu it starts no more, whatever "
            "--num_processes says: use --multi_gpu, which works without a GPU as well",
            stacklevel=4,
        )
    if int(launched or 1) == 1 or dist.is_initialized():
        return False
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true":
            raise DataError(
                f"{kind} splits a model, but here each process holds all of it: launch with "
                "data/settings/accelerate/processes.yaml, or go on with TRL (docs/scale.md)"
            )
    cuda = device().startswith("cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    return True


def device() -> str:
    """Where a model goes: this process's GPU, if there is one."""
    if not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"


def deal(items: Items) -> Items:
    """This process's share: every world-th item, from its rank on, and so perhaps none.

    Neighbours in a batch are often of like length, so the shares are, too.
    """
    return items[rank() :: world()]


def own(rows: Tensor) -> Tensor:
    """Those of some rows of a rollout that are this process's, as `deal` dealt the whole rollout.

    A row stays with its process, since what was computed of it (its trunk) lies there.
    """
    return rows[rows % world() == rank()]


def share(items: Items) -> Items:
    """`deal` for `together`: whoever has none takes the first, which `together` then drops."""
    mine = deal(items)
    return mine if len(mine) else items[:1]


def together(part: Tensor, count: int) -> Tensor:
    """All `count` rows, (count, ...), from the processes' shares of them, in their order.

    Shapes may differ between processes only in the number of rows.
    """
    if world() == 1:
        return part
    rows = -(-count // world())
    padded = part.new_zeros(rows, *part.shape[1:])
    padded[: len(part)] = part
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)[:count]


def own_generator(generator: torch.Generator) -> torch.Generator:
    """Randomness that need not agree, such as dropout's: in each process another, from one draw.

    Alone it is `generator` itself.
    """
    if world() == 1:
        return generator
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
    return torch.Generator(generator.device).manual_seed(int(seed) + rank())


def total(values: dict[str, float]) -> dict[str, float]:
    """Each value's sum over the processes."""
    return _reduced(values, dist.ReduceOp.SUM)


def largest(values: dict[str, float]) -> dict[str, float]:
    """Each value's largest over the processes."""
    return _reduced(values, dist.ReduceOp.MAX)


def _reduced(values: dict[str, float], operation) -> dict[str, float]:
    if world() == 1:
        return values
    tensor = torch.tensor([*values.values()], dtype=torch.float64, device=device())
    dist.all_reduce(tensor, operation)
    return dict(zip(values, tensor.tolist(), strict=True))


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make each gradient the sum of all processes' gradients; one that has none counts as 0."""
    if world() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if sum(gradient.numel() for gradient in bucket) >= BUCKET:
            _sum_bucket(bucket)
            bucket = []
    _sum_bucket(bucket)


def _sum_bucket(gradients: list[Tensor]) -> None:
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


def wait() -> None:
    """Go on once every process is here."""
    if world() > 1:
        dist.barrier()
