"""Jobs that build on one another, each done once and kept.

A job is a plain function that fills a folder; its folder is named after a hash of the function,
its settings and the jobs it builds on, so a study that was stopped goes on where it was, and two
sections that need the same SFT model share it.
"""

import inspect
import json
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch

from minirlhf import __version__
from minirlhf.engine.checkpoint import put_right, whole_folder
from minirlhf.engine.records import DataError, checksum, write_text

CARD = "job.json"
Work = Callable[..., None]  # (folder to fill, folders of `needs`, **settings)


@dataclass(frozen=True, eq=False)
class Job:
    """One step of a study.

    `name`: for people; `work`: a function of a module, called as work(folder, needs, **settings);
    `settings`: what JSON can hold; `needs`: jobs whose folders it reads; `cost`: rough minutes,
    the longest ready job starts first.
    """

    name: str
    work: Work
    settings: Mapping[str, Any]
    needs: tuple["Job", ...] = ()
    cost: float = 1.0

    @cached_property
    def key(self) -> str:
        """What the result depends on, in twelve digits: of the code only the function itself."""
        parts = [self.work.__module__, inspect.getsource(self.work), self.settings]
        return checksum([*parts, [need.key for need in self.needs]])[:12]

    @property
    def folder(self) -> str:
        return f"{self.work.__name__}-{self.key}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def is_done(job: Job, folder: Path) -> bool:
    """Whether the job's folder is there, whole."""
    return (folder / job.folder / CARD).is_file()


def everything(jobs: Iterable[Job]) -> set[Job]:
    """The jobs and all that they build on."""
    found: set[Job] = set()
    open_ends = [*jobs]
    while open_ends:
        job = open_ends.pop()
        if job not in found:
            found.add(job)
            open_ends += job.needs
    return found


def missing(jobs: Iterable[Job], folder: Path) -> dict[Job, list[Job]]:
    """The jobs to be done for `jobs`, each with those to be done before it."""
    graph: dict[Job, list[Job]] = {}
    open_ends = [job for job in jobs if not is_done(job, folder)]
    while open_ends:
        job = open_ends.pop()
        if job not in graph:
            graph[job] = [need for need in job.needs if not is_done(need, folder)]
            open_ends += graph[job]
    return graph


def run_jobs(
    jobs: Iterable[Job], folder: Path, workers: int, tell: Callable[[str], None] = print
) -> None:
    """Do what is missing of `jobs` and of all they need, `workers` at a time.

    Each worker is a process with one thread, so results do not depend on the number of cores.
    Args:    tell: is called with a line after each job.
    Raises:  DataError, naming the job, where one fails; what was finished is kept.
    """
    graph = missing(jobs, folder)
    for job in graph:
        put_right(folder / job.folder)
    order = TopologicalSorter(graph)
    order.prepare()
    context, revision = multiprocessing.get_context("spawn"), git_revision()
    with ProcessPoolExecutor(workers, context, begin_worker) as pool:
        ready: list[Job] = []
        running: dict[Future, Job] = {}
        done = 0
        while order.is_active():
            ready = sorted([*ready, *order.get_ready()], key=lambda job: job.cost)
            while ready and len(running) < workers:
                job = ready.pop()
                running[pool.submit(do, job, folder, revision)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    seconds = future.result()
                except BaseException as error:
                    pool.shutdown(cancel_futures=True)
                    raise DataError(f"study: job {job.name}: {_reason(error)}") from error
                order.done(job)
                done += 1
                tell(f"{done}/{len(graph)} {job.name} ({seconds:.0f} s)")


def begin_worker() -> None:
    """One thread; and no worker outlives the study, however that ends."""
    torch.set_num_threads(1)

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def do(job: Job, folder: Path, revision: str = "") -> float:
    """Fill the job's folder, whole or not at all; returns the seconds it took."""
    started = time.perf_counter()
    with whole_folder(folder / job.folder) as partial:
        job.work(partial, [folder / need.folder for need in job.needs], **job.settings)
        seconds = time.perf_counter() - started
        card = {
            "name": job.name,
            "settings": dict(job.settings),
            "needs": [need.folder for need in job.needs],
            "seconds": round(seconds, 1),
            "minirlhf": __version__,
            "revision": revision,
        }
        write_text(partial / CARD, json.dumps(card, indent=1))
    return seconds


def read_card(job: Job, folder: Path) -> dict[str, Any]:
    """What was written down when the job was done."""
    return json.loads((folder / job.folder / CARD).read_text(encoding="utf-8"))


def git_revision() -> str:
    """The commit that is checked out, with a + where files differ from it; "" = unknown."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _reason(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return "its process was killed; out of memory?"
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
