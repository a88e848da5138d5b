"""The paper's Figure 1: who is preferred to the largest SFT model, by size and by method."""

from pathlib import Path

from minirlhf.study.answering import ANSWERS, BARE, PROMPTED, read_answers
from minirlhf.study.graph import Job
from minirlhf.study.plan import Plan

TITLE = "Figure 1: preferred to the largest SFT model"
SYSTEMS = ("base", "prompted base", "SFT", "PPO", "PPO-ptx")


def answer_jobs(plan: Plan, size: str, seed: int) -> dict[str, tuple[Job, str]]:
    """For each system the job that holds its answers, and the file in its folder."""
    sft, reward, base = plan.sft(size, seed), plan.reward(seed), plan.base_answers(size, seed)
    ppo, ptx = plan.policy(size, seed), plan.policy(size, seed, "ppo-ptx")
    return {
        "base": (base, BARE),
        "prompted base": (base, PROMPTED),
        "SFT": (plan.answers(sft, reward), ANSWERS),
        "PPO": (plan.answers(sft, reward, ppo), ANSWERS),
        "PPO-ptx": (plan.answers(sft, reward, ptx), ANSWERS),
    }


def jobs(plan: Plan) -> list[Job]:
    return [
        job
        for seed in plan.seeds
        for size in plan.sizes
        for job, _ in answer_jobs(plan, size, seed).values()
    ]


def all_answers(plan: Plan, folder: Path) -> dict[tuple[str, str, int], list[dict]]:
    """(system, size, seed) -> its answers to the held-out prompts, always in the same order."""
    return {
        (system, size, seed): read_answers(folder / job.folder / file)
        for seed in plan.seeds
        for size in plan.sizes
        for system, (job, file) in answer_jobs(plan, size, seed).items()
    }
