"""Roles on disk, in the formats of peft and transformers; whole folders or nothing."""

import contextlib
import copy
import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from minirlhf import __version__
from minirlhf.engine.backbone import BASE, SCALAR_ROLES, Backbone, LoRA
from minirlhf.engine.batches import CHAT_TEMPLATE
from minirlhf.engine.models import load_backbone
from minirlhf.engine.parallel import main_only
from minirlhf.engine.records import DataError, to_disk

CARD, ADAPTER = "minirlhf.json", "adapter_model.safetensors"
# Other tools hand a sampled answer to the template as it was decoded, the space after the colon
# included; with two spaces the reward model would read what it was never trained on.
TRIMMED_TEMPLATE = CHAT_TEMPLATE.replace(
    "m['content'] + eos_token", "m['content'] | trim + eos_token"
)


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A fresh folder to fill; it takes `folder`'s place only once the block has ended well.

    Raises DataError, one line, where it cannot be written; what was there before is there still.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file, so no folder can be written there")
    mark = uuid.uuid4().hex[:8]
    partial = folder.with_name(f".{folder.name}.{mark}.partial")
    old = folder.with_name(f".{folder.name}.{mark}.old")
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in (*partial.rglob("*"), partial):
            to_disk(path)
        try:
            if folder.exists():
                os.replace(folder, old)
            os.replace(partial, folder)
        except BaseException:
            if old.exists() and not folder.exists():
                os.replace(old, folder)
            raise
        to_disk(folder.parent)
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk by its own type
        raise DataError(f"{folder}: cannot be written: {reason(error)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@main_only
def put_right(folder: str | Path) -> None:
    """Tidy up what a kill within `whole_folder` has left; only for whoever alone writes there.

    Killed between its two renames, `folder` has gone and its old contents lie beside it.
    """
    folder = Path(folder)
    for old in folder.parent.glob(f".{folder.name}.*.old"):
        if not folder.exists():
            os.replace(old, folder)
    for left in (".old", ".partial"):
        for path in folder.parent.glob(f".{folder.name}.*{left}"):
            shutil.rmtree(path, ignore_errors=True)


def reason(error: Exception) -> str:
    """An error of the disk or of safetensors in one line."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]


@main_only
def save_role(backbone: Backbone, role: str, folder: str | Path) -> None:
    """Save one role: a peft adapter (with `score` head for scalar roles), or a whole model where
    roles are full copies; beside it the tokenizer and a card that names the base.

    The policy loads with `PeftModel.from_pretrained(AutoModelForCausalLM...)`, the reward model
    with `PeftModel.from_pretrained(AutoModelForSequenceClassification...)`. Transformers'
    classification head has no bias, so its logit is our score minus `score_bias` on the card.
    """
    with whole_folder(folder) as partial:
        if backbone.lora is None:
            _save_copy(backbone, role, partial)
        else:
            _save_adapter(backbone, role, partial)
        backbone.tokenizer.save_pretrained(partial)
        _write_card(backbone, role, partial)


def _write_card(backbone: Backbone, role: str, folder: Path) -> None:
    card = {"minirlhf": __version__, "role": role, "base": backbone.name}
    card["lora"] = None if backbone.lora is None else vars(backbone.lora)
    card["quantize"] = "4bit" if getattr(backbone.model, "is_quantized", False) else "none"
    if role in SCALAR_ROLES:
        card["score_bias"] = backbone.heads[role].bias.item()
    card["sha256"] = _checksum(card, folder)
    (folder / CARD).write_text(json.dumps(card, indent=1), encoding="utf-8")


def _weights_file(card: dict, folder: Path) -> Path:
    return folder / ("model.safetensors" if card["lora"] is None else ADAPTER)


def _checksum(card: dict, folder: Path) -> str:
    """SHA-256 over a card's other fields and the file of the weights."""
    rest = {name: value for name, value in card.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    with _weights_file(card, folder).open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def _save_adapter(backbone: Backbone, role: str, folder: Path) -> None:
    state, config = backbone.adapter(role)
    if role in SCALAR_ROLES:
        config.task_type = "SEQ_CLS"
        config.modules_to_save = ["score"]
        state["base_model.model.score.weight"] = backbone.heads[role].weight
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # peft writes a set, in any order
    config.save_pretrained(folder)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        folder / ADAPTER,
        metadata={"format": "pt"},
    )


def _save_copy(backbone: Backbone, role: str, folder: Path) -> None:
    with backbone.active(role) as model:
        if role in SCALAR_ROLES:
            model = as_classifier(backbone, role)
        model.save_pretrained(folder)


def as_classifier(backbone: Backbone, role: str):
    """A scalar role as transformers' sequence classifier: one label, no adapters.

    Its head has no bias: its logit is our score minus `score_bias`, which its config then holds.
    """
    config = backbone.model.config.__class__.from_dict(backbone.model.config.to_dict())
    config.num_labels = 1
    config.pad_token_id = backbone.tokenizer.pad_token_id
    config.score_bias = backbone.heads[role].bias.item()
    model = AutoModelForSequenceClassification.from_config(config).to(backbone.model.dtype)
    prefix = f"{model.base_model_prefix}."  # "model." for a Llama, "transformer." for GPT-2
    weights = {n.removeprefix(prefix): w for n, w in merged_weights(backbone, role).items()}
    missing, _ = model.base_model.load_state_dict(weights, strict=False)
    if missing:
        raise ValueError(f"the classifier of {type(model).__name__} lacks {missing[0]}")
    with torch.no_grad():
        model.score.weight.copy_(backbone.heads[role].weight)
    return model


@torch.no_grad()
def merged_weights(backbone: Backbone, role: str) -> dict[str, torch.Tensor]:
    """A role's weights by the names that the plain model has, its adapter added in.

    Added in float32 and rounded once, to the base's own type.
    Raises DataError on a 4-bit base: the sum would have to be quantised again and so change.
    """
    if getattr(backbone.model, "is_quantized", False):
        raise DataError("a 4-bit base cannot be merged exactly; use the adapter instead")
    if role != BASE and backbone.lora is None:
        return backbone.weights(role)
    weights = {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in backbone.model.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in backbone.model.named_modules():
        if role in getattr(module, "lora_A", ()):  # peft knows which layers are transposed
            merged = weights[f"{name}.weight"]
            merged.copy_(merged.float() + module.get_delta_weight(role).float())
    return weights


def read_card(folder: str | Path) -> dict:
    """The card of a saved role; DataError, one line, where the folder holds none."""
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: is not a checkpoint of minirlhf (no {CARD})") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from None
    needed = ["role", "base", "lora", "quantize"]
    if isinstance(card, dict) and card.get("role") in SCALAR_ROLES:
        needed.append("score_bias")
    for name in (*needed, "sha256"):
        if not isinstance(card, dict) or name not in card:
            raise DataError(f"{path}: field '{name}': is missing")
    if not isinstance(card["base"], str):
        raise DataError(f"{path}: field 'base': must be a model's name or path")
    shape = {item.name for item in dataclasses.fields(LoRA)}
    if card["lora"] is not None:
        if not isinstance(card["lora"], dict) or not {"rank", "alpha"} <= {*card["lora"]} <= shape:
            raise DataError(
                f"{path}: field 'lora': must be null or hold {', '.join(sorted(shape))}"
            )
        card["lora"] = vars(LoRA(**card["lora"]))  # first_layer came later
    return card


def load_role(backbone: Backbone, role: str, folder: str | Path) -> None:
    """Make `role` on the backbone from a folder that `save_role` wrote; its base must be the same.

    Raises DataError, one line, where file or card are missing, damaged or of another base.
    """
    folder, card = Path(folder), read_card(folder)
    if Path(card["base"]).name != Path(backbone.name).name:
        raise DataError(f"{folder}: was trained on {card['base']}, not on {backbone.name}")
    saved = None if backbone.lora is None else vars(backbone.lora)
    if card["lora"] != saved:
        raise DataError(f"{folder}: has LoRA {card['lora']}, the backbone {saved}")
    file = _weights_file(card, folder)
    try:
        state = load_file(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {reason(error)}") from None
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{file}: is damaged: {reason(error)}") from None
    if card["sha256"] != _checksum(card, folder):
        raise DataError(f"{folder}: is damaged: weights or card are not those that were saved")
    backbone.add_role(role)
    head = state.pop("score.weight", state.pop("base_model.model.score.weight", None))
    weights = backbone.weights(role)
    if saved is not None:
        state = {name.removeprefix("base_model.model."): w for name, w in state.items()}
    _fill(weights, state, file)
    backbone.load_weights(role, weights)
    if role in SCALAR_ROLES:
        if head is None:
            raise DataError(f"{file}: holds no score head, so it cannot be the role {role!r}")
        with torch.no_grad():
            backbone.heads[role].weight.copy_(head)
            backbone.heads[role].bias.fill_(card["score_bias"])


def _fill(weights: dict[str, torch.Tensor], state: dict[str, torch.Tensor], file: Path) -> None:
    for name in weights:
        if name not in state and name != "lm_head.weight":  # a classifier's copy has no LM head
            raise DataError(f"{file}: lacks the weight {name}")
        if name not in state:
            continue
        if state[name].shape != weights[name].shape:
            found, wanted = tuple(state[name].shape), tuple(weights[name].shape)
            raise DataError(f"{file}: the weight {name} is {found}, but the base needs {wanted}")
        weights[name] = state[name].to(weights[name])


def open_checkpoint(folder: str | Path, role: str) -> Backbone:
    """Load a saved role with the base that its card names, in 4 bits if it was trained so."""
    card = read_card(folder)
    lora = None if card["lora"] is None else LoRA(**card["lora"])
    backbone = load_backbone(card["base"], quantize=card["quantize"], lora=lora)
    load_role(backbone, role, folder)
    return backbone


def export_merged(backbone: Backbone, role: str, folder: str | Path) -> None:
    """Write a role as one plain transformers model, the adapter added into the weights.

    A causal LM, or for a scalar role a sequence classifier (see `as_classifier`); beside it the
    tokenizer with the chat template that the role was trained in. Needs twice the base's memory.
    Raises DataError on a 4-bit base.
    """
    if role in SCALAR_ROLES:
        model = as_classifier(backbone, role)
    else:
        model = type(backbone.model)(backbone.model.config).to(backbone.model.dtype)
        model.load_state_dict(merged_weights(backbone, role), strict=False)
        model.generation_config = backbone.model.generation_config
    tokenizer = copy.deepcopy(backbone.tokenizer)
    if tokenizer.chat_template in (None, CHAT_TEMPLATE):
        tokenizer.chat_template = TRIMMED_TEMPLATE
    with whole_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
