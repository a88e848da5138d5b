"""SFT for sixteen epochs: does the loss over-fit while the reward model's score goes on rising?"""

from pathlib import Path

import numpy as np

from minirlhf.engine.metrics import read_metrics
from minirlhf.evaluation.statistics import seeds_interval
from minirlhf.evaluation.study_plots import sft_epochs
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table, span
from minirlhf.study.plan import TOKENS, Plan, short

TASK = "almanac"  # where a reward model is surest
CURVES = ("valid_loss", "valid_score")


def job(plan: Plan, seed: int) -> Job:
    """SFT for long, its answers scored after each epoch."""
    config = dict(epochs=plan.long_sft, max_new_tokens=TOKENS[TASK])
    return plan.sft(plan.middle, seed, TASK, needs=(plan.reward(seed, TASK),), **config)


def jobs(plan: Plan) -> list[Job]:
    """One for each seed."""
    return [job(plan, seed) for seed in plan.seeds]


def each(folder: Path, one: Job, name: str) -> list[float]:
    """A quantity after each epoch."""
    rows = read_metrics(folder / one.folder / "metrics.jsonl")
    return [row[name] for row in rows if name in row]


def report(plan: Plan, folder: Path) -> Section:
    """Both curves, and where each is best."""
    by_seed = {name: np.array([each(folder, one, name) for one in jobs(plan)]) for name in CURVES}
    found = {
        name: [seeds_interval(values[:, [i]]) for i in range(values.shape[1])]
        for name, values in by_seed.items()
    }
    losses, scores = ([v.estimate for v in found[name]] for name in CURVES)
    epochs = list(range(1, len(losses) + 1))
    best, liked = losses.index(min(losses)), scores.index(max(scores))
    rows = [[n, *own] for n, *own in zip(epochs, *found.values(), strict=True)]
    change = seeds_interval(by_seed["valid_score"][:, [-1]] - by_seed["valid_score"][:, [best]])
    verdict = "a clear change" if change.excludes(0) else "no change these seeds could show"
    return Section(
        "sft-epochs",
        "SFT: loss and score over the epochs",
        [
            f"Validation loss of {short(plan.middle)} is lowest after epoch {epochs[best]} "
            f"({losses[best]:.3f} nats per response token; {losses[-1]:.3f} after {epochs[-1]}), "
            f"the reward model's score highest after epoch {epochs[liked]} ({scores[liked]:+.2f}).",
            f"From the epoch of the lowest loss to the last one the score goes by "
            f"{change.estimate:+.2f} ({span(change)}): {verdict}. The "
            "paper's loss was lowest after one epoch of sixteen, its score rose on.",
        ],
        [Table("sft-epochs", "Means over seeds", ["epoch", "validation loss, nats per token",
                                                  "RM score"], rows)],
        {"sft-epochs": (sft_epochs(epochs, {"SFT": found["valid_loss"]},
                                   {"SFT": found["valid_score"]}),
                        "Validation loss and reward-model score of the SFT model by epoch")},
    )  # fmt: skip
