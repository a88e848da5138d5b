"""Reward models: groups of labelers, calibration, K, pairs taken apart, size, data, ties."""

from pathlib import Path
from typing import Any

from minirlhf.engine.metrics import read_metrics
from minirlhf.evaluation.calibration import calibration_error, calibration_floor, reliability_bins
from minirlhf.evaluation.statistics import Interval, bounded_interval, seeds_interval
from minirlhf.evaluation.study_plots import Quantity, calibration_diagram, coefficient_sweep
from minirlhf.study.answering import read_json
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import Plan, short

TASK = "almanac"
FOLDS = 5
EPOCHS = (1, 3)


def variants(plan: Plan) -> dict[str, dict[str, Any]]:
    """What is compared: name -> settings of the reward job that differ from the plan's."""
    read = plan.responses_read
    found: dict[str, dict[str, Any]] = {
        f"size {short(size)}": dict(size=size) for size in plan.sizes
    }
    found |= {f"{n} rankings": dict(rankings=n) for n in plan.ranking_counts}
    # Equal labelling cost: as many responses are read, in more or fewer rankings
    found |= {f"K = {k}": dict(k=k, rankings=read // k) for k in (2, 4, 9)}
    few = read // 12
    for epochs in EPOCHS:
        for name, apart in (("grouped", False), ("shuffled pairs", True)):
            # a batch of pairs holds as many pairs as one of rankings does on average
            batch = dict(batch_size=16 * 19, microbatch_size=128) if apart else {}
            found[f"{name}, epochs: {epochs}"] = dict(
                rankings=few, shuffled_pairs=apart, config=dict(epochs=epochs) | batch
            )
    ties = ("drop", "half", "rao_kupper")
    found |= {f"ties: {t}": dict(rankings=few, config=dict(epochs=2, ties=t)) for t in ties}
    return found


def job(plan: Plan, seed: int, settings: dict[str, Any]) -> Job:
    """A reward model that differs from the plan's in some settings."""
    return plan.reward(seed, TASK, **({"size": plan.middle} | settings))


def fold_jobs(plan: Plan) -> list[Job]:
    """One for each fifth of the labelers, who then rank nothing it learns from."""
    return [plan.reward(plan.seeds[0], TASK, fold=i) for i in range(FOLDS)]


def jobs(plan: Plan) -> list[Job]:
    """The folds, and every variant with every seed."""
    return fold_jobs(plan) + [
        job(plan, seed, settings) for settings in variants(plan).values() for seed in plan.seeds
    ]


def accuracy(folder: Path, jobs: list[Job], on: str) -> Interval:
    """Share of untied pairs in the labeler's order, over the jobs (one for each seed)."""
    found = [read_json(folder / one.folder / "results.json")[on]["accuracy"] for one in jobs]
    return bounded_interval([[value] for value in found])


def report(plan: Plan, folder: Path) -> Section:
    """Accuracy of all of them, calibration, and what shuffled pairs do."""
    rows = []
    for name, settings in variants(plan).items():
        own = [job(plan, seed, settings) for seed in plan.seeds]
        first = read_json(folder / own[0].folder / "results.json")
        shares = [accuracy(folder, own, on) for on in ("train", "valid", "held_out")]
        rows.append([name, first["rankings"], first["pairs"], *shares])
    folds = fold_jobs(plan)
    inside, outside = (accuracy(folder, folds, on) for on in ("valid", "fold"))
    held = accuracy(folder, folds, "held_out")
    models, calibration = calibrated(plan, folder)
    sizes = {"accuracy": [row[4] for row in rows if row[0].endswith("rankings")]}
    counts = coefficient_sweep(
        [*plan.ranking_counts],
        [Quantity("Accuracy on held-out rankings", "share of pairs", sizes, (0.5, "a coin"))],
        "rankings learned from",
    )
    return Section(
        "reward-models",
        "Reward models",
        [
            f"Five folds over the training labelers: {inside.estimate:.1%} of the pairs of those "
            f"who were learned from, {outside.estimate:.1%} of the group that was not "
            f"({outside.low:.1%} to {outside.high:.1%} over the folds), {held.estimate:.1%} of "
            "the held-out labelers', who are less noisy. The paper: 72.4 % and 69.6 %.",
            *over_fitting(plan, folder),
        ],
        [
            Table("reward-models", "Share of untied pairs in the labeler's order",
                  ["reward model", "rankings", "pairs", "train", "valid", "held-out labelers"],
                  rows, percent=True),
            calibration,
        ],
        {
            "calibration": (calibration_diagram(models), "How sure, and how often right"),
            "ranking-counts": (counts, "Accuracy by the number of rankings"),
        },
    )  # fmt: skip


def calibrated(plan: Plan, folder: Path):
    """Bins and a table of calibration errors, on the first seed's pairs.

    Pairs of one ranking hang together, so the bars are too narrow.
    """
    models, rows = {}, []
    few = [f"grouped, epochs: {epochs}" for epochs in EPOCHS]
    for name in (f"{plan.ranking_counts[-1]} rankings", *few):
        own = job(plan, plan.seeds[0], variants(plan)[name])  # other seeds have the same pairs
        deltas = read_json(folder / own.folder / "results.json")["valid"]["deltas"]
        zeros = [0.0] * len(deltas)
        models[name] = reliability_bins(deltas, zeros, bins=8)
        floor = calibration_floor(deltas, zeros, bins=8)
        rows.append([name, len(deltas), calibration_error(models[name]), floor])
    caption = "Expected calibration error (one seed), and what chance alone gives"
    head = ["reward model", "pairs", "error", "by chance"]
    return models, Table("calibration", caption, head, rows)


def over_fitting(plan: Plan, folder: Path) -> list[str]:
    """What one epoch of shuffled pairs does against one of whole rankings."""
    said = []
    for epochs in EPOCHS:
        losses = []
        for name in ("grouped", "shuffled pairs"):
            own = [job(plan, s, variants(plan)[f"{name}, epochs: {epochs}"]) for s in plan.seeds]
            last = [
                [r for r in read_metrics(folder / one.folder / "metrics.jsonl")
                 if "valid_ranking_loss" in r][-1]["valid_ranking_loss"]
                for one in own
            ]  # fmt: skip
            losses.append(seeds_interval([[v] for v in last]))
        grouped, apart = losses
        said.append(
            f"After {epochs} epoch{'s' * (epochs > 1)} the loss on held-out rankings is "
            f"{grouped.estimate:.3f} nats per pair with a prompt's pairs together, "
            f"{apart.estimate:.3f} with all pairs shuffled (a coin: 0.693)."
        )
    return said
