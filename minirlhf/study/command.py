"""`minirlhf study`: all jobs of all sections, then the page."""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from minirlhf.engine.lock import WriteLock
from minirlhf.engine.records import DataError
from minirlhf.study.graph import Job, everything, git_revision, read_card, run_jobs
from minirlhf.study.page import write_page
from minirlhf.study.plan import FULL, QUICK, Plan, short
from minirlhf.study.sections import (
    ablations,
    figure1,
    instructions,
    over_optimisation,
    real_model,
    reward_models,
    sft_epochs,
    single_questions,
    tax,
)

SECTIONS = {
    "figure1": figure1,
    "single-questions": single_questions,
    "instructions": instructions,
    "tax": tax,
    "reward-models": reward_models,
    "over-optimisation": over_optimisation,
    "sft-epochs": sft_epochs,
    "ablations": ablations,
    "real-model": real_model,
}
OPENING = (
    "InstructGPT's results, looked for at the scale of a laptop: models of a third of a million to "
    "four million parameters that have read a little web about a small world, labelers that are "
    "simulated, and graders that know that world. Every number comes from runs that one command "
    "repeats; intervals are 95 % over training seeds and prompts. Where our scale does not show "
    "an effect, it says so."
)


def add_study_flags(parser: argparse.ArgumentParser) -> None:
    """How much, which sections, where."""
    parser.add_argument("--quick", action="store_true", help="one seed and small runs: its shape")
    parser.add_argument("--out", metavar="FOLDER", help="[runs/study, runs/study-quick]")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION",
                        help=", ".join(SECTIONS))  # fmt: skip
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1,
                        help="jobs at a time, each with one thread [as many as cores]")  # fmt: skip


def study_command(args: argparse.Namespace) -> None:
    """Do what is missing; write the page of all sections asked for."""
    if args.workers < 1:
        raise DataError("--workers must be at least 1")
    folder = Path(args.out or ("runs/study-quick" if args.quick else "runs/study"))
    plan, started = QUICK if args.quick else FULL, time.perf_counter()
    sections = {name: SECTIONS[name] for name in args.only or SECTIONS}
    jobs = [job for section in sections.values() for job in section.jobs(plan)]
    with WriteLock(folder):
        run_jobs(jobs, folder / "jobs", args.workers, lambda text: print(text, flush=True))
        found = [section.report(plan, folder / "jobs") for section in sections.values()]
        command = "minirlhf study" + " --quick" * args.quick
        command += f" --only {' '.join(args.only)}" if args.only else ""
        page = write_page(folder, found, OPENING, how(command, plan, jobs, folder / "jobs"))
    print(f"study took {(time.perf_counter() - started) / 60:.1f} minutes; see {page}")


def how(command: str, plan: Plan, jobs: Iterable[Job], folder: Path) -> str:
    """The command, what it trained, for how long and with which code."""
    cards = [read_card(job, folder) for job in everything(jobs)]
    minutes = sum(card["seconds"] for card in cards) / 60
    revisions = ", ".join(sorted({card["revision"] or "unknown" for card in cards}))
    seeds = ", ".join(map(str, plan.seeds))
    if len(plan.seeds) == 1:
        seeds += " alone, so there are no intervals and no difference is clear"
    sizes = ", ".join(short(size) for size in plan.sizes)
    return (
        f"Made by `{command}`: {len(cards)} jobs, {minutes:.0f} minutes of one thread; seeds "
        f"{seeds}; sizes {sizes}; code of revision {revisions}, this page of "
        f"{git_revision() or 'an unknown one'}; Python {sys.version.split()[0]}."
    )
