"""Load a base model by name: shipped, fetched, local or from a hub; whole or in 4 bits."""

import os
from pathlib import Path

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from minirlhf.engine import parallel
from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.fetch import fetch_smollm2
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import DataError

QUANTIZE = ("none", "4bit")


def load_backbone(
    name: str = "moonlet-1m",
    quantize: str = "none",
    lora: LoRA | None = LoRA(),  # noqa: B008  (frozen)
    device: str = "",
    seed: int = 0,
) -> Backbone:
    """Load a base model and put a backbone around it.

    Args:    name: `moonlet-1m` (shipped), `smollm2` (fetched once), a folder, or a hub id;
             quantize: `none`, or `4bit` for NF4 with double quantisation (CUDA and CPU);
             lora: shape of the adapters, None for full fine-tuning; device: "" = CUDA if there.
    Returns: a Backbone with the role `base` alone. A frozen base is bfloat16 on CUDA;
             all else is float32.
    Raises:  DataError, one line, where there is no such model or it is not safe to load.
    """
    if quantize not in QUANTIZE:
        raise DataError(f"quantize: {quantize!r} is none of {', '.join(QUANTIZE)}")
    if quantize != "none" and lora is None:
        raise DataError("quantize: 4-bit weights cannot be trained in full; use LoRA with 4bit")
    device = device or parallel.device()
    # A frozen base may be 16-bit; weights that Adam moves by 1e-6 of their size may not.
    half = device.startswith("cuda") and lora is not None
    dtype = torch.bfloat16 if half else torch.float32
    source = resolve(name)
    transformers_logging.disable_progress_bar()
    where = {"trust_remote_code": False, "local_files_only": not reachable(source)}
    options = {"dtype": dtype, "use_safetensors": True}
    if quantize == "4bit":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        options["device_map"] = {"": device}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        model = AutoModelForCausalLM.from_pretrained(source, **options, **where)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if os.path.isdir(source):
            raise DataError(f"{source}: holds no model that can be loaded ({first})") from None
        raise DataError(
            f"unknown model {name!r}: not moonlet-1m or smollm2, no folder that holds a model, "
            f"and not to be had from a hub ({first})"
        ) from None
    if quantize == "none":
        model = model.to(device)
    elif device == "cpu":
        _let_go_of_file(model)
    if tokenizer.pad_token_id is None:
        # any special token but EOS: a saved reward model is read at the last token that is no pad
        spare = {*tokenizer.all_special_tokens} - {tokenizer.eos_token, tokenizer.bos_token}
        tokenizer.pad_token = min(spare, default=tokenizer.eos_token)
    # A checkpoint's card gets this name; a path of this machine would be of no use on another.
    found = source if os.path.isdir(name) else name
    return Backbone(model, tokenizer, name=found, lora=lora, seed=seed)


def _let_go_of_file(model: PreTrainedModel) -> None:
    """Copy what is not in 4 bits: else the whole file with the 32-bit weights stays in memory."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()


def reachable(source: str) -> bool:
    """Whether a hub that has `source` answers, asked once: the libraries would ask for a minute."""
    if os.path.isdir(source):
        return False
    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json"), timeout=10)
    except HfHubHTTPError:  # it answers, if only that there is no such model
        return True
    except Exception:  # no network, in any of the many ways to say so; then the cache has to do
        return False
    return True


def resolve(name: str) -> str:
    """A model's name as `from_pretrained` takes it: the shipped folder, the cache, or as it is."""
    if name == "smollm2":
        return str(fetch_smollm2())
    shipped = data_folder() / "models" / name
    if "/" not in name and shipped.is_dir():
        return str(shipped)
    return str(Path(name).resolve()) if os.path.isdir(name) else name
