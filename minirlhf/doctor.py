"""`minirlhf doctor`: what this machine has, and whether all is in place."""

import argparse
import shutil
from importlib.metadata import PackageNotFoundError, version

import torch

from minirlhf.engine.backbone import BASE
from minirlhf.engine.fetch import is_fetched
from minirlhf.engine.models import load_backbone


def doctor_command(args: argparse.Namespace) -> None:
    """What is here, what is missing, and what each missing thing is good for."""
    wanted = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "jupyterlab")
    for package in wanted:
        try:
            print(f"ok       {package} {version(package)}")
        except PackageNotFoundError:
            print(f"missing  {package}: pip install -r requirements.txt")
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        print(f"ok       GPU {torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    else:
        print(f"ok       no GPU; {torch.get_num_threads()} CPU threads will do for moonlet-1m")
    backbone = load_backbone("moonlet-1m")
    print(f"ok       moonlet-1m, {backbone.sizes()[BASE].parameters:,} parameters")
    found = is_fetched()
    print(
        f"{'ok      ' if found else 'not yet '} smollm2"
        + ("" if found else ": minirlhf fetch smollm2")
    )
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    note = "" if browser else ": only the browser tests need it"
    print(f"{'ok      ' if browser else 'not yet '} chromium{note}")
