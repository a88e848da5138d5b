"""`minirlhf study`: all jobs of all sections, then the page."""

import os
from pathlib import Path

from minirlhf.engine.lock import WriteLock
from minirlhf.study import figure1
from minirlhf.study.graph import run_jobs
from minirlhf.study.plan import FULL, QUICK

SECTIONS = {"figure1": figure1}


def study(folder: Path, quick: bool = False, only: list[str] | None = None, workers: int = 0):
    """Do what is missing and write the page."""
    plan = QUICK if quick else FULL
    sections = {name: SECTIONS[name] for name in (only or SECTIONS)}
    jobs = [job for section in sections.values() for job in section.jobs(plan)]
    with WriteLock(folder):
        run_jobs(jobs, folder / "jobs", workers or os.cpu_count() or 1)
