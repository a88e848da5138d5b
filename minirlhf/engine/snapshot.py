"""What a stage knows half-way, in one file: so that a run that was killed goes on exactly.

A snapshot is a nested dict of tensors and plain JSON values, written as one safetensors file. It
replaces the one before it whole or not at all, and is checked when it is read: a checksum finds
damage and careless edits (it is no signature, so it does not stop a forger).
"""

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minirlhf import __version__
from minirlhf.engine.backbone import Backbone
from minirlhf.engine.checkpoint import reason
from minirlhf.engine.parallel import main_only
from minirlhf.engine.records import DataError, to_disk

TENSOR = "$tensor"  # stands in the JSON where a tensor was, with its name


@main_only
def save_snapshot(path: str | Path, state: dict[str, Any]) -> None:
    """Write a state in place of the one before it.

    Raises DataError, one line, where it cannot be written; the one before is there still then, as
    it is after a kill or a power cut.
    """
    path, tensors = Path(path), {}
    values = json.dumps(_without_tensors(state, tensors, "state"))
    card = {"minirlhf": __version__, "values": values, "sha256": _checksum(values, tensors)}
    partial = path.with_name(f"{path.name}.partial")
    try:
        save_file(tensors, partial, metadata=card)
        to_disk(partial)
        os.replace(partial, path)
        to_disk(path.parent)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be written: {reason(error)}") from None
    finally:
        partial.unlink(missing_ok=True)


def load_snapshot(path: str | Path) -> dict[str, Any]:
    """The state that `save_snapshot` wrote, its tensors on the CPU.

    Raises DataError, one line, where the file is missing, cut short, changed or no snapshot.
    """
    try:
        with safe_open(path, "pt") as file:
            card = file.metadata() or {}
            # copies: what is read in place would keep the file open
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from None
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path}: is damaged: {reason(error)}") from None
    if not {"minirlhf", "values", "sha256"} <= card.keys():
        raise DataError(f"{path}: is no snapshot of minirlhf")
    if card["sha256"] != _checksum(card["values"], tensors):
        raise DataError(f"{path}: is damaged: its contents are not those that were saved")
    return _with_tensors(json.loads(card["values"]), tensors)


def role_state(backbone: Backbone, role: str) -> dict[str, Any]:
    """A copy of a role's weights and of its scalar head, where it has one."""
    head = backbone.heads[role].state_dict() if role in backbone.heads else {}
    return {
        "weights": {name: weight.cpu() for name, weight in backbone.weights(role).items()},
        "head": {name: weight.to("cpu", copy=True) for name, weight in head.items()},
    }


def restore_role(backbone: Backbone, role: str, state: dict[str, Any]) -> None:
    """Put what `role_state` gave into a role that is there."""
    backbone.load_weights(role, state["weights"])
    if role in backbone.heads:
        backbone.heads[role].load_state_dict(state["head"])


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """A copy of the moments and step counts, by the parameter's number.

    Not of the settings: whoever makes the optimiser anew gives it the same.
    """
    moments = optimiser.state_dict()["state"]
    return {
        str(number): {name: value.to("cpu", copy=True) for name, value in own.items()}
        for number, own in moments.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put what `optimiser_state` gave into an optimiser of the same parameters."""
    whole = optimiser.state_dict()
    whole["state"] = {int(number): copy.deepcopy(own) for number, own in state.items()}
    optimiser.load_state_dict(whole)


def _without_tensors(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """`value` as plain JSON; its tensors go into `tensors`, under names that tell their place."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {TENSOR: name}
    if isinstance(value, dict):
        return {k: _without_tensors(v, tensors, f"{name}/{k}") for k, v in value.items()}
    return value


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if value.keys() == {TENSOR}:
        return tensors[value[TENSOR]]
    return {k: _with_tensors(v, tensors) for k, v in value.items()}


def _checksum(values: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over all that a snapshot holds: values, names, types, shapes and every byte."""
    digest = hashlib.sha256(values.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
