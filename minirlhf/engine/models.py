"""Load a base model by name: shipped, fetched, local or from a hub; whole or in 4 bits."""

import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

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
    Returns: a Backbone with the role `base` alone. Weights are float32 on a CPU, bfloat16 on CUDA.
    Raises:  DataError, one line, where there is no such model or it is not safe to load.
    """
    if quantize not in QUANTIZE:
        raise DataError(f"quantize: {quantize!r} is none of {', '.join(QUANTIZE)}")
    if quantize != "none" and lora is None:
        raise DataError("quantize: 4-bit weights cannot be trained in full; use LoRA with 4bit")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    source = resolve(name)
    transformers_logging.disable_progress_bar()
    options = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if quantize == "4bit":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        options["device_map"] = {"": device}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"unknown model {name!r}: not moonlet-1m or smollm2, no folder that holds a model, "
            f"and not to be had from a hub ({first})"
        ) from None
    if quantize == "none":
        model = model.to(device)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Backbone(model, tokenizer, name=source, lora=lora, seed=seed)


def resolve(name: str) -> str:
    """A model's name as `from_pretrained` takes it: the shipped folder, the cache, or as it is."""
    if name == "smollm2":
        return str(fetch_smollm2())
    shipped = data_folder() / "models" / name
    if "/" not in name and shipped.is_dir():
        return str(shipped)
    return str(Path(name)) if os.path.isdir(name) else name
