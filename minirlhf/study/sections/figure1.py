"""The paper's Figure 1: whose answers are preferred to the largest SFT model's, by size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minirlhf.engine.backbone import BASE
from minirlhf.engine.models import load_backbone
from minirlhf.evaluation.evaluate import Answer
from minirlhf.evaluation.ratings import elo_ratings, wins_from_scores
from minirlhf.evaluation.statistics import Interval, bounded_interval
from minirlhf.evaluation.study_plots import win_rates_by_size
from minirlhf.evaluation.study_rows import rating_dots
from minirlhf.study.answering import ANSWERS, BARE, PROMPTED, read_answers
from minirlhf.study.graph import Job
from minirlhf.study.judges import gold_places, labeler_places, wins
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import Plan, short
from minirlhf.study.training import world
from minirlhf.world.labelers import held_out_labelers

SYSTEMS = ("base", "prompted base", "SFT", "PPO", "PPO-ptx")
Key = tuple[str, str]  # system, size
JUDGES = {"labelers": "held-out labelers", "gold": "the gold grader"}


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
    """The answers of every system at every size."""
    return [
        job
        for seed in plan.seeds
        for size in plan.sizes
        for job, _ in answer_jobs(plan, size, seed).values()
    ]


def all_answers(plan: Plan, folder: Path, seed: int) -> dict[Key, list[Answer]]:
    """Each system's answers to the held-out prompts, always in the same order."""
    return {
        (system, size): read_answers(folder / job.folder / file)
        for size in plan.sizes
        for system, (job, file) in answer_jobs(plan, size, seed).items()
    }


def places(
    plan: Plan, task: str, answers: Sequence[dict[Key, list[Answer]]]
) -> dict[str, list[dict[Key, list]]]:
    """For each judge and seed every system's place on every prompt; `answers` of each seed."""
    data, people = world(task), held_out_labelers()
    prompts = data.test_prompts[: plan.prompts]
    found: dict[str, list[dict[Key, list]]] = {judge: [] for judge in JUDGES}
    for seed, given in zip(plan.seeds, answers, strict=True):
        found["labelers"].append(labeler_places(data.find, prompts, given, people, seed))
        found["gold"].append(gold_places(data.find, prompts, given))
    return found


def rate(ranked: Sequence[dict[Key, list]], one: Key, other: Key) -> Interval:
    """How often `one` is preferred to `other`, over seeds and prompts."""
    return bounded_interval([wins(own[one], own[other]) for own in ranked])


def ratings(ranked: Sequence[dict[Key, list]], keys: Sequence[Key], anchor: Key) -> list[Interval]:
    """Elo points of all systems, from every pair on every prompt."""
    wins = [
        wins_from_scores([[-sum(own[key][i]) for key in keys] for i in range(len(own[anchor]))])
        for own in ranked
    ]
    return elo_ratings(wins, anchor=keys.index(anchor), prior=0.5)


def report(plan: Plan, folder: Path) -> Section:
    """Win rates by size with either judge, and a rating of all systems."""
    ranked = places(plan, "api", [all_answers(plan, folder, seed) for seed in plan.seeds])
    rival = ("SFT", plan.largest)
    sizes = [load_backbone(size).sizes()[BASE].parameters for size in plan.sizes]
    figures, tables = {}, []
    for judge, words in JUDGES.items():
        rates = {
            system: [
                None if (system, size) == rival else rate(ranked[judge], (system, size), rival)
                for size in plan.sizes
            ]
            for system in SYSTEMS
        }
        figures[f"figure1-{judge}"] = (
            win_rates_by_size(sizes, rates, f"SFT {short(plan.largest)}"),
            f"Share of comparisons won against the largest SFT model, judged by {words}",
        )
        rows = [[name, *own] for name, own in rates.items()]
        caption = f"Win rate against SFT {short(plan.largest)}, judged by {words}"
        tables.append(Table(f"figure1-{judge}", caption, ["system", *map(short, plan.sizes)], rows,
                            percent=True))  # fmt: skip
    keys = [(system, size) for size in plan.sizes for system in SYSTEMS]
    points = ratings(ranked["labelers"], keys, rival)
    named = {f"{system} {short(size)}": p for (system, size), p in zip(keys, points, strict=True)}
    figures["elo"] = (rating_dots(named, f"SFT {short(plan.largest)}"),
                      "Elo points from all pairs, judged by held-out labelers")  # fmt: skip
    return Section("figure1", "Figure 1: aligned and small against large",
                   sentences(plan, ranked), tables, figures)  # fmt: skip


def sentences(plan: Plan, ranked: dict) -> list[str]:
    """The questions of the figure, each answered with its interval."""
    small, large = plan.sizes[0], plan.largest
    said = []
    for judge, words in JUDGES.items():
        for rival in ("base", "prompted base"):
            found = rate(ranked[judge], ("PPO-ptx", small), (rival, large))
            said.append(
                f"By {words} PPO-ptx {short(small)} is preferred to the {rival} "
                f"{short(large)} in {shown(found)} of comparisons{unclear(found)}."
            )
        for better in ("PPO", "PPO-ptx"):
            found = {
                size: rate(ranked[judge], (better, size), ("SFT", size)) for size in plan.sizes
            }
            beats = [f"{short(size)}: {shown(r)}{unclear(r)}" for size, r in found.items()]
            said.append(
                f"By {words} {better} is preferred to SFT of its size in {'; '.join(beats)}."
            )
    return said


def unclear(share: Interval) -> str:
    """What to say of a share that could be a coin's."""
    if not np.isfinite(share.low) or share.excludes(0.5):
        return ""
    return ", which could be chance"


def shown(share: Interval) -> str:
    """62 % [55, 69]"""
    if not np.isfinite(share.low):
        return f"{share.estimate:.0%} (one seed)"
    return f"{share.estimate:.0%} [{100 * share.low:.0f}, {100 * share.high:.0f}]"
