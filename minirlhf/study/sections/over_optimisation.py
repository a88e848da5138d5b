"""Over-optimisation: proxy and gold score against the distance from SFT, PPO and best-of-n."""

from pathlib import Path
from statistics import mean

import numpy as np

from minirlhf.evaluation.overoptimisation import (
    best_of_n_kl,
    best_of_n_kl_exact,
    best_of_n_scores,
    fit_form,
)
from minirlhf.evaluation.statistics import seeds_interval
from minirlhf.evaluation.study_plots import Curve, score_against_kl
from minirlhf.study import training
from minirlhf.study.answering import read_json
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import Plan, short

TASK = "almanac"
NS = (1, 2, 4, 8, 16, 32, 64)  # of best-of-n
SAMPLES = 128  # for each prompt


def reward_jobs(plan: Plan, seed: int) -> dict[tuple[str, int], Job]:
    """(size, rankings) -> a proxy reward model."""
    return {
        (size, count): plan.reward(seed, TASK, size, rankings=count) for size, count in plan.proxies
    }


def policy_job(plan: Plan, reward: Job, seed: int) -> Job:
    """PPO without a price on KL, probed on its way; its value model starts from SFT, so that all
    reward models, its own base or not, are used alike."""
    config = dict(updates=plan.far, kl_coef=0.0, value_init="reference")
    return plan.policy(plan.middle, seed, "far", TASK, reward, probe=plan.far // 12, **config)


def best_of_job(plan: Plan, seed: int) -> Job:
    """Samples of SFT with the scores of all its seed's reward models."""
    settings = dict(task=TASK, seed=seed, prompts=plan.best_of, samples=SAMPLES)
    needs = (plan.sft(plan.middle, seed, TASK), *reward_jobs(plan, seed).values())
    return Job(f"best-of-{seed}", training.best_of, settings, needs)


def jobs(plan: Plan) -> list[Job]:
    """Samples for best-of-n, and a policy for each reward model."""
    found = [best_of_job(plan, seed) for seed in plan.seeds]
    return found + [
        policy_job(plan, reward, seed)
        for seed in plan.seeds
        for reward in reward_jobs(plan, seed).values()
    ]


def report(plan: Plan, folder: Path) -> Section:
    """A panel for each reward model; where gold scores turn."""
    kinds = list(reward_jobs(plan, plan.seeds[0]))
    panels, rows, fits, said = {}, [], [], []
    for place, kind in enumerate(kinds):
        title = f"RM {short(kind[0])}, {kind[1]} rankings"
        curves = of_best(plan, folder, place) | of_ppo(plan, folder, kind)
        panels[title] = {name: curve for name, (curve, _) in curves.items()}
        for name, (curve, seeds) in curves.items():
            rows += [
                [title, name, d, s] for d, s in zip(curve.distances, curve.scores, strict=True)
            ]
            fits.append([title, name, *alphas(seeds)])
        turns = [turn(curves[f"{name}, gold"][0], name) for name in ("best-of-n", "PPO")]
        said.append(f"{title}, gold score in standard deviations over SFT: {'; '.join(turns)}.")
    tables = [
        Table("over-optimisation", "Score, standard deviations of SFT's own (gold: of gold), "
              "counted from SFT; distance in root nats",
              ["reward model", "curve", "distance", "score"], rows, long=True),
        Table("gao-forms", "Gao et al.'s forms, fitted for each seed: mean and interval",
              ["reward model", "curve", "alpha", "beta"], fits),
        best_of_kl(plan, folder),
    ]  # fmt: skip
    figure = score_against_kl(panels, "standard deviations over SFT")
    what = "Proxy and gold score against the distance from SFT"
    figures = {"over-optimisation": (figure, what)}
    return Section("over-optimisation", "Over-optimisation", said, tables, figures)


def of_best(plan: Plan, folder: Path, place: int) -> dict:
    """Best-of-n: name -> (curve over the seeds' means, each seed's distances and scores)."""
    distances = [best_of_n_kl(n) ** 0.5 for n in NS]
    found: dict[str, list] = {"best-of-n, proxy": [], "best-of-n, gold": []}
    for seed in plan.seeds:
        samples = read_json(folder / best_of_job(plan, seed).folder / "samples.json")
        proxy, gold = np.array(samples["proxies"][place]), np.array(samples["gold"])
        best = best_of_n_scores(proxy, gold, NS)
        for name, scores, own in (("proxy", best.proxy, proxy), ("gold", best.gold, gold)):
            rise = (scores.mean(0) - own.mean()) / own.std()
            found[f"best-of-n, {name}"].append((distances, rise.tolist()))
    return {name: curve_of(seeds, "best-of-n") for name, seeds in found.items()}


def of_ppo(plan: Plan, folder: Path, kind: tuple[str, int]) -> dict:
    """PPO: the same from its probes; distance and score are 0 before the first update."""
    found: dict[str, list] = {"PPO, proxy": [], "PPO, gold": []}
    for seed in plan.seeds:
        place = list(reward_jobs(plan, seed)).index(kind)
        job = policy_job(plan, reward_jobs(plan, seed)[kind], seed)
        probes = read_json(folder / job.folder / "probes.json")
        samples = read_json(folder / best_of_job(plan, seed).folder / "samples.json")
        distances = [max(0.0, row["ref_kl"]) ** 0.5 for row in probes]
        for name, key, own in (("proxy", "score", samples["proxies"][place]),
                               ("gold", "gold", samples["gold"])):  # fmt: skip
            spread = np.array(own)
            rise = [(row[key] - spread.mean()) / spread.std() for row in probes]
            found[f"PPO, {name}"].append((distances, rise))
    return {name: curve_of(seeds, "rl") for name, seeds in found.items()}


def curve_of(seeds: list, form: str) -> tuple[Curve, list]:
    """The seeds' points, step by step, and the form fitted to all of them; each seed's own fit."""
    distances = [mean(own) for own in zip(*(d for d, _ in seeds), strict=True)]
    scores = [
        seeds_interval([[v] for v in own]) for own in zip(*(s for _, s in seeds), strict=True)
    ]
    pooled = [np.concatenate(own) for own in zip(*seeds, strict=True)]
    fit = fit_form(pooled[0], pooled[1], form)
    return Curve(distances, scores, fit), [fit_form(*own, form) for own in seeds]


def alphas(fits: list) -> list:
    """alpha and beta over the seeds, each from its own fit."""
    return [seeds_interval([[getattr(fit, name).estimate] for fit in fits])
            for name in ("alpha", "beta")]  # fmt: skip


def turn(curve: Curve, name: str) -> str:
    """Where a gold score is highest, and what is left of it at the end."""
    heights = [score.estimate for score in curve.scores]
    top = int(np.argmax(heights))
    return (
        f"{name} {heights[top]:+.2f} at its best ({curve.distances[top] ** 2:.1f} nats), "
        f"{heights[-1]:+.2f} at {curve.distances[-1] ** 2:.1f} nats"
    )


def best_of_kl(plan: Plan, folder: Path) -> Table:
    """The formula's KL beside the exact one of the sampled responses, ties and all."""
    samples = read_json(folder / best_of_job(plan, plan.seeds[0]).folder / "samples.json")
    chances = [1 / SAMPLES] * SAMPLES
    rows = [
        [n, best_of_n_kl(n), mean(best_of_n_kl_exact(chances, own, n)
                                  for own in samples["proxies"][0])]
        for n in NS
    ]  # fmt: skip
    caption = (
        f"KL of best-of-n, nats: log n - (n - 1) / n, and exact for {SAMPLES} sampled responses, "
        "equal scores shared; the figure places best-of-n by the formula, an upper bound"
    )
    return Table("best-of-n-kl", caption, ["n", "formula", "exact"], rows)
