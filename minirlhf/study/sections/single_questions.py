"""Figure 1's headline where a small model can do the task: the almanac's single questions."""

from pathlib import Path

from minirlhf.evaluation.evaluate import Answer
from minirlhf.evaluation.statistics import Interval
from minirlhf.study.answering import ANSWERS, BARE, PROMPTED, read_answers
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import Plan, short
from minirlhf.study.sections.figure1 import JUDGES, Key, places, rate, shown, unclear

TASK = "almanac"
SMALL, LARGE = ("SFT", "PPO", "PPO-ptx"), ("base", "prompted base", "SFT")


def answer_jobs(plan: Plan, seed: int) -> dict[Key, tuple[Job, str]]:
    """For each system, size the job that holds its answers, and the file in its folder."""
    small, large, reward = plan.sizes[0], plan.largest, plan.reward(seed, TASK)
    sft, base = plan.sft(small, seed, TASK), plan.base_answers(large, seed, TASK)
    found = {
        ("base", large): (base, BARE),
        ("prompted base", large): (base, PROMPTED),
        ("SFT", large): (plan.answers(plan.sft(large, seed, TASK), reward), ANSWERS),
        ("SFT", small): (plan.answers(sft, reward), ANSWERS),
    }
    for name in ("ppo", "ppo-ptx"):
        policy = plan.policy(small, seed, name, TASK)
        found[name.replace("ppo", "PPO"), small] = (plan.answers(sft, reward, policy), ANSWERS)
    return found


def jobs(plan: Plan) -> list[Job]:
    """The answers of the smallest model's stages, and of what they are held against."""
    return [job for seed in plan.seeds for job, _ in answer_jobs(plan, seed).values()]


def answers_of(plan: Plan, folder: Path, seed: int) -> dict[Key, list[Answer]]:
    """Each system's answers to the same questions."""
    return {
        key: read_answers(folder / job.folder / file)
        for key, (job, file) in answer_jobs(plan, seed).items()
    }


def report(plan: Plan, folder: Path) -> Section:
    """Win rates of small against large with either judge."""
    ranked = places(plan, TASK, [answers_of(plan, folder, seed) for seed in plan.seeds])
    small, large = short(plan.sizes[0]), short(plan.largest)

    def against(judge: str, one: str, other: str) -> Interval:
        return rate(ranked[judge], (one, plan.sizes[0]), (other, plan.largest))

    said = []
    for judge, words in JUDGES.items():
        found = {other: against(judge, "PPO-ptx", other) for other in LARGE}
        rates = [f"the {other} {large} in {shown(r)}{unclear(r)}" for other, r in found.items()]
        said.append(f"By {words} PPO-ptx {small} is preferred to {'; to '.join(rates)}.")
    rows = [
        [JUDGES[judge], f"{one} {small}", *(against(judge, one, other) for other in LARGE)]
        for judge in JUDGES
        for one in SMALL
    ]
    head = ["judge", "system", *(f"against {other} {large}" for other in LARGE)]
    caption = "Win rate of the smallest model's stages, on single questions"
    return Section("single-questions", "Figure 1 on single questions", said,
                   [Table("single-questions", caption, head, rows, percent=True)])  # fmt: skip
