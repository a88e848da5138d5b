"""What the benchmarks share: peers in environments of their own, and both sides timed in turns.

Each side is a process of its own. It loads everything, says so, and then does one piece of work
for every line it gets, so that the sides take turns and whatever slows the machine slows both.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

HERE = Path(__file__).resolve().parent
SHARED = ("torch==2.13.0", "transformers==5.23.0", "peft==0.21.2")  # as in requirements.txt
EOS, PAD = 2, 3  # the ids of the special tokens of `prepare_model`


# Environments and models ------------------------------------------------------------------------


def peer_python(peer: str, folder: Path | None = None) -> Path:
    """The Python of an environment with this peer in it ("trl==1.12.0"), made the first time."""
    folder = (folder or cache_folder() / "peers") / peer.replace("==", "-")
    scripts, suffix = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
    python, done = folder / scripts / f"python{suffix}", folder / "installed"
    if not done.is_file():
        print(f"making an environment for {peer} in {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", peer, *SHARED], check=True)
        done.touch()
    return python


def cache_folder() -> Path:
    from minirlhf.engine.fetch import default_cache_dir

    return default_cache_dir()


def trained_in_full(model: str) -> bool:
    """Whether a model is trained in full; the others get LoRA."""
    return model == "random-1m"


def prepare_model(model: str, folder: Path, eos: bool = False) -> Path:
    """Put a model and a tokenizer of one plain word per token into `folder`, for both sides.

    Args:    model: `random-1m` (the shape of moonlet-1m, random weights, trained in full), or a
             name as `minirlhf run` takes it; eos: whether the model can say EOS. If not, EOS is an
             id behind the vocabulary, so that no side ever stops early and both do the same work.
    Returns: the folder. Token i is the word `t<i>`, so text and token ids are the same thing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from minirlhf.engine.models import resolve

    folder.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.from_pretrained(resolve("moonlet-1m" if model == "random-1m" else model))
    config.eos_token_id, config.pad_token_id = (EOS if eos else None), PAD
    config.save_pretrained(folder)
    if model == "random-1m":
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    else:
        for file in Path(resolve(model)).glob("*.safetensors*"):
            if not (folder / file.name).exists():
                (folder / file.name).symlink_to(file.resolve())
    _word_tokenizer(config.vocab_size, EOS if eos else config.vocab_size).save_pretrained(folder)
    return folder


def _word_tokenizer(size: int, eos: int):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = {i: f"t{i}" for i in range(size)} | {eos: "<eos>", PAD: "<pad>"}
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in names.items()}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template="{% for m in messages %}{{ m['content'] + ' ' }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}",
    )


def words(count: int, length: int, size: int, seed: int = 0) -> list[str]:
    """`count` texts of `length` random tokens each, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(PAD + 1, size, (count, length), generator=generator)
    return [" ".join(f"t{i}" for i in row) for row in ids.tolist()]


# Two processes in turns --------------------------------------------------------------------------


class Worker:
    """One side: a process that does one piece of work when it is told to."""

    def __init__(self, python: str | Path, script: str, settings: dict):
        paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [python, HERE / script, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
        )
        self._write(json.dumps(settings))
        self.ready = self._read()

    def turn(self) -> dict:
        """Let it do one piece of work: what it reports, `seconds` and `peak_mb` among it."""
        self._write("go")
        return self._read()

    def _write(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[1]} failed with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Channel:
    """The other end of a Worker, inside of its process; standard output goes to standard error."""

    def __init__(self):
        self.started, self.cpu = time.perf_counter(), time.process_time()
        self.imports_mb = memory_mb("VmRSS")  # made after the imports and before any work
        self.settings = json.loads(sys.stdin.readline())
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> None:
        """Until the next piece of work is asked for; the process ends where none is."""
        if not sys.stdin.readline():
            os._exit(0)
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def reply(self, **figures) -> None:
        figures.setdefault("seconds", time.perf_counter() - self.started)
        figures |= {"peak_mb": memory_mb("VmHWM"), "imports_mb": self.imports_mb}
        figures["cpu"] = time.process_time() - self.cpu
        print(json.dumps(figures), file=self.out, flush=True)

    def serve(self, work: Callable[[], dict | None]) -> None:
        """Answer for ever; `work` returns figures."""
        self.reply(seconds=0.0)
        while True:
            self.wait()
            figures = work() or {}
            self.reply(**figures)


class Sides(NamedTuple):
    """What the sides reported, turn by turn, and the machine's rate."""

    ours: list[dict]
    peer: list[dict]  # empty where we ran alone
    first: list[dict]  # of the turn that warms up: ours, the peer's
    gflops: float  # fp32 matrix products of 2,048, median over the run


def alternate(repeats: int, ours: Worker, peer: Worker | None) -> Sides:
    """Turn about, `repeats` times after one that warms up; who begins changes."""
    workers = [worker for worker in (ours, peer) if worker]
    turns, rates = {worker: [] for worker in workers}, []
    for repeat in range(repeats + 1):
        rates.append(matmul_gflops())
        for worker in workers[:: 1 if repeat % 2 else -1]:
            figures = worker.turn()
            print(f"turn {repeat}: {json.dumps(figures)}", file=sys.stderr, flush=True)
            turns[worker].append(figures)
    for worker in workers:
        worker.close()
    first = [turns[worker].pop(0) for worker in workers]
    return Sides(turns[ours], turns.get(peer, []), first, median(rates))


# Measures ----------------------------------------------------------------------------------------


def memory_mb(field: str) -> float:
    """A line of this process's /proc status in MB (10^6 bytes): VmRSS, or VmHWM for the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field}")


@torch.no_grad()
def matmul_gflops(size: int = 2048, times: int = 5) -> float:
    """Rate of fp32 matrix products, the median of some."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    rates = []
    for _ in range(times + 1):
        started = time.perf_counter()
        a @ b
        rates.append(2 * size**3 / (time.perf_counter() - started) / 1e9)
    return median(rates[1:])


def middle(turns: list[dict], name: str = "seconds") -> float:
    return median(turn[name] for turn in turns)


def report_sides(sides: Sides, peer: str, unit: str) -> None:
    """Print time and memory of each side, and the ratios."""
    print(f"\n{'':<14}{unit:>14}{'peak MB':>10}{'libraries MB':>14}")
    for name, turns in (("minirlhf", sides.ours), (peer, sides.peer)):
        if turns:
            peak = max(turn["peak_mb"] for turn in turns)
            print(f"{name:<14}{middle(turns):14.3f}{peak:10.0f}{turns[0]['imports_mb']:14.0f}")
    if sides.peer:
        times = _ratios(sides, "seconds")
        print(f"{'ratio':<14}{median(times):14.2f}{median(_ratios(sides, 'peak_mb')):10.2f}")
        print(f"ratio of times from {min(times):.2f} to {max(times):.2f}; ", end="")
    print(f"{len(sides.ours)} turns; matrix products at {sides.gflops:.0f} GFLOP/s")


def _ratios(sides: Sides, name: str) -> list[float]:
    return [p[name] / o[name] for o, p in zip(sides.ours, sides.peer, strict=True)]


def positive(text: str) -> int:
    """argparse type: a whole number from 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def parser_for(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument(
        "--model", default="smollm2", help="smollm2, random-1m, or as for minirlhf run"
    )
    parser.add_argument("--repeats", type=positive, default=3, help="timed; one more warms up")
    return parser


def add_sides(parser: argparse.ArgumentParser) -> None:
    """The flags of a benchmark against a peer."""
    parser.add_argument("--alone", action="store_true", help="time our side only")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)  # be a worker
