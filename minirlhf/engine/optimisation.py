"""What every stage's training loop shares: Adam as in the paper, schedules, one safe step."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from minirlhf.engine import parallel

ADAM_BETAS = (0.9, 0.95)  # InstructGPT, appendix C


def adam(
    parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float, fused: bool = True
) -> torch.optim.Adam:
    """Adam with the paper's betas; epsilon inside the bias correction, as PyTorch has it.

    Parameters come with their names, so that one whose gradient breaks can be named.
    `fused`: all of a step in one kernel, to rounding the same.
    """
    return torch.optim.Adam(parameters, lr=learning_rate, betas=ADAM_BETAS, fused=fused)


def cosine(step: int, total: int, floor: float = 0.1) -> float:
    """Factor on the learning rate: from 1 at step 0 to `floor` at step `total`.

    >>> [round(cosine(s, 10), 3) for s in (0, 5, 10)]
    [1.0, 0.55, 0.1]
    """
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / max(total, 1)))


def warm_up(step: int, steps: int, start: float = 0.1) -> float:
    """Factor on the learning rate: a straight line from `start` to 1 over `steps`, then 1.

    >>> [round(warm_up(s, 10), 2) for s in (0, 5, 10, 20)]
    [0.1, 0.55, 1.0, 1.0]
    """
    return 1.0 if step >= steps else start + (1 - start) * step / steps


class NotFinite(RuntimeError):
    """Training met NaN or infinity; nothing was updated with it."""


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise NotFinite that names the first of the tensors in which a value is NaN or infinite."""
    for name, tensor in tensors.items():
        bad = tensor.numel() - int(tensor.isfinite().sum())
        if bad:
            raise NotFinite(
                f"{name}: {bad:,} of {tensor.numel():,} values are NaN or infinite; nothing was "
                "learned from them; try a lower learning rate"
            )


def finite(loss: Tensor, causes: Mapping[str, Tensor]) -> Tensor:
    """The loss, where it is finite; else NotFinite names the first of its causes that is not.

    The causes, which may be large, are looked at only then.
    """
    if not loss.isfinite():
        check_finite({**causes, "loss": loss})
    return loss


def optimiser_step(optimiser: torch.optim.Optimizer, rate: float, max_grad_norm: float) -> float:
    """Clip, step and clear the gradients; returns the gradient's norm before clipping.

    Each process brings the gradient of its own rows, and all step with their sum.
    Raises NotFinite with the parameter's name before the weights are touched, so that they stay
    usable.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    parallel.sum_gradients(parameters)
    gradients = _gradients(optimiser)
    norm = nn.utils.get_total_norm(gradients.values())
    if not norm.isfinite():
        optimiser.zero_grad(set_to_none=True)
        check_finite(gradients)
        largest = max(gradients, key=lambda name: gradients[name].abs().max().item())
        check_finite({f"norm of the {largest}": norm})  # squares overflow before values do
    nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm.item()


def _gradients(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All gradients, by the names of `adam`'s parameters."""
    return {
        f"gradient of {name}": parameter.grad
        for group in optimiser.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        if parameter.grad is not None
    }
