"""Commands in processes of their own that die at a chosen moment.

A moment is a call of one of the functions below. Some leave half of their work behind: half a line
of metrics, half a file. The processes are forked from one that has imported everything.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch

from minirlhf.cli import main
from minirlhf.engine import bookmark, checkpoint, metrics, snapshot
from minirlhf.stages import ppo, pretrain, reward, sft


class Moments:
    """Counts moments, notes their names, and ends the process at number `last`."""

    def __init__(self, log: Path, last: int | None):
        self.file, self.last, self.count = log.open("w", encoding="utf-8"), last, 0

    def watch(self, holder, name, half=None):
        original = getattr(holder, name)

        def watched(*args, **options):
            self.count += 1
            print(f"{holder.__name__}.{name}", file=self.file, flush=True)
            if self.count == self.last:
                if half is not None:
                    half(original, *args, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(holder, name, watched)


def half_a_line(write, log, stage, step, stats):
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"stage": "' + stage + '", "step": ' + f'{step}, "ep')


def half_a_file(save_file, tensors, path, **options):
    save_file(tensors, path, **options)
    os.truncate(path, Path(path).stat().st_size // 2)


def command(folder, arguments, log, last, save_every, data, file_limit):
    """What a process does: one command in `folder`; its stderr goes to a file there."""
    os.chdir(folder)
    os.environ["MINIRLHF_DATA"] = str(data)
    torch.set_num_threads(1)
    for stream, name in ((1, "said.txt"), (2, "error.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    bookmark.SAVE_EVERY = save_every
    moments = Moments(Path(log), last)
    for stage in (sft, reward, ppo, pretrain):
        moments.watch(stage, "optimiser_step")
    moments.watch(metrics.MetricsLog, "write", half_a_line)
    moments.watch(snapshot, "save_file", half_a_file)
    moments.watch(checkpoint, "save_file", half_a_file)
    for name in ("replace", "fsync", "unlink"):
        moments.watch(os, name)
    if file_limit:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    sys.exit(main(arguments))


def run(folder, arguments, data, last=None, save_every=0.0, file_limit=0):
    """Run a command in `folder`; returns (its exit code, -9 if killed; the moments' names)."""
    log = Path(folder) / "moments.txt"
    given = (folder, arguments, log, last, save_every, data, file_limit)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.killed"])
    process = server.Process(target=command, args=given)
    process.start()
    process.join()
    return process.exitcode, log.read_text(encoding="utf-8").splitlines()
