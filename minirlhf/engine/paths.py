"""Where the project's data lies."""

import os
from pathlib import Path

from minirlhf.engine.records import DataError


def data_folder() -> Path:
    """The `data` folder of the checkout, or the one that MINIRLHF_DATA names."""
    folder = Path(os.environ.get("MINIRLHF_DATA") or Path(__file__).resolve().parents[2] / "data")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set MINIRLHF_DATA to the project's data folder")
    return folder
