"""SFT for sixteen epochs: does the loss over-fit while the reward model's score goes on rising?"""

from pathlib import Path

from minirlhf.engine.metrics import read_metrics
from minirlhf.evaluation.statistics import seeds_interval
from minirlhf.evaluation.study_plots import sft_epochs
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import TOKENS, Plan, short

TASK = "almanac"  # where a reward model is surest


def job(plan: Plan, seed: int) -> Job:
    """SFT for long, its answers scored after each epoch."""
    config = dict(epochs=plan.long_sft, max_new_tokens=TOKENS[TASK])
    return plan.sft(plan.middle, seed, TASK, needs=(plan.reward(seed, TASK),), **config)


def jobs(plan: Plan) -> list[Job]:
    """One for each seed."""
    return [job(plan, seed) for seed in plan.seeds]


def report(plan: Plan, folder: Path) -> Section:
    """Both curves, and where each is best."""
    found = {}
    for name in ("valid_loss", "valid_score"):
        by_seed = [
            [
                row[name]
                for row in read_metrics(folder / one.folder / "metrics.jsonl")
                if name in row
            ]
            for one in jobs(plan)
        ]
        found[name] = [seeds_interval([[v] for v in own]) for own in zip(*by_seed, strict=True)]
    losses, scores = ([v.estimate for v in found[name]] for name in ("valid_loss", "valid_score"))
    epochs = list(range(1, len(losses) + 1))
    best, liked = 1 + losses.index(min(losses)), 1 + scores.index(max(scores))
    rows = [[n, *own] for n, *own in zip(epochs, *found.values(), strict=True)]
    return Section(
        "sft-epochs",
        "SFT: loss and score over the epochs",
        [
            f"Validation loss of {short(plan.middle)} is lowest after epoch {best} "
            f"({min(losses):.3f} nats per response token; {losses[-1]:.3f} after {epochs[-1]}), "
            f"the reward model's score highest after epoch {liked} ({max(scores):+.2f}, after "
            f"epoch {best} {scores[best - 1]:+.2f}).",
        ],
        [Table("sft-epochs", "Means over seeds", ["epoch", "validation loss, nats per token",
                                                  "RM score"], rows)],
        {"sft-epochs": (sft_epochs(epochs, {"SFT": found["valid_loss"]},
                                   {"SFT": found["valid_score"]}),
                        "Validation loss and reward-model score of the SFT model by epoch")},
    )  # fmt: skip
