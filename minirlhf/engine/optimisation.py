"""What every stage's training loop shares: Adam as in the paper, schedules, one safe step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

ADAM_BETAS = (0.9, 0.95)  # InstructGPT, appendix C


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam with the paper's betas; epsilon inside the bias correction, as PyTorch has it."""
    return torch.optim.Adam(parameters, lr=learning_rate, betas=ADAM_BETAS)


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


def optimiser_step(optimiser: torch.optim.Optimizer, rate: float, max_grad_norm: float) -> float:
    """Clip, step and clear the gradients; returns the gradient's norm before clipping.

    Raises NotFinite before the weights are touched, so that they stay usable.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm).item()
    if not math.isfinite(norm):
        optimiser.zero_grad(set_to_none=True)
        raise NotFinite(f"the gradient's norm is {norm}; try a lower learning rate")
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return norm
