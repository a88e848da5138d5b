"""The alignment tax, and what pretraining gradients (ptx) and the KL penalty win back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minirlhf.evaluation.statistics import Interval, bounded_interval, seeds_interval
from minirlhf.evaluation.study_plots import Quantity, coefficient_sweep
from minirlhf.study import answering
from minirlhf.study.answering import ANSWERS, MEASURES, read_answers, read_json
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import Plan, short
from minirlhf.study.sections.instructions import PROBED, probe_jobs

TASKS = {
    "nats_per_token": "loss on new pages, nats per token",
    "cloze": "end of a sentence",
    "kind": "kinds of things",
    "reading": "passage questions",
}
LOWER_IS_BETTER = ("nats_per_token",)
SWEPT = "almanac"  # single questions, where a policy costs a quarter
SWEEPS = {
    "ptx_coef": "weight of the pretraining loss, ptx_coef",
    "kl_coef": "price of a nat, kl_coef",
}


def sweep_jobs(plan: Plan, coefficient: str, value: float, seed: int) -> tuple[Job, Job]:
    """The tax and the answers of PPO with another coefficient; the other one is the plan's."""
    sft, reward = plan.sft(plan.middle, seed, SWEPT), plan.reward(seed, SWEPT)
    name, config = f"ppo-{coefficient}-{value:g}", {coefficient: value}
    policy = plan.policy(plan.middle, seed, name, SWEPT, **config)
    settings = dict(seed=seed, items=plan.items, max_new_tokens=40)
    tax = Job(f"measures-{policy.name}", answering.measures, settings, (sft, policy))
    return tax, plan.answers(sft, reward, policy)


def jobs(plan: Plan) -> list[Job]:
    """The measures of every system, and those of the sweeps."""
    sizes = [
        job
        for seed in plan.seeds
        for size in plan.sizes
        for job in probe_jobs(plan, size, seed).values()
    ]
    swept = [
        job
        for coefficient in SWEEPS
        for value in plan.swept(coefficient)
        for seed in plan.seeds
        for job in sweep_jobs(plan, coefficient, value, seed)
    ]
    return sizes + swept


def of_items(folder: Path, jobs: Sequence[Job], task: str) -> list[list[float]]:
    """One task's values of each item, for each seed's job."""
    return [read_json(folder / job.folder / MEASURES)["tax"][task] for job in jobs]


def report(plan: Plan, folder: Path) -> Section:
    """What PPO unlearned, what PPO-ptx won back, and both sweeps."""
    rows, found = [], {}
    for size in plan.sizes:
        for system in PROBED:
            own = [probe_jobs(plan, size, seed)[system] for seed in plan.seeds]
            values = {task: np.array(of_items(folder, own, task)) for task in TASKS}
            found[system, size] = values
            rows.append([system, short(size), *(level(task, v) for task, v in values.items())])
    tables = [
        Table("tax", "What each system can still do: share of right answers, loss in nats",
              ["system", "size", *TASKS.values()], rows),
        changes(plan, found),
    ]  # fmt: skip
    figures = {}
    for coefficient, words in SWEEPS.items():
        figure, table = sweep(plan, folder, coefficient, words)
        what = (
            f"PPO {short(plan.middle)} on single questions: what the coefficient does to loss, "
            "gold score and distance"
        )
        figures[f"sweep-{coefficient}"] = (figure, what)
        tables.append(table)
    return Section("tax", "The alignment tax, and PPO-ptx", sentences(plan, found), tables, figures)


def level(task: str, values: np.ndarray) -> Interval:
    """A loss, or a share of right answers."""
    return (seeds_interval if task in LOWER_IS_BETTER else bounded_interval)(values)


def changes(plan: Plan, found: dict) -> Table:
    """PPO - SFT and PPO-ptx - PPO, paired by item."""
    rows = [
        [f"{new} - {old}", short(size), *(difference(found, size, new, old, t) for t in TASKS)]
        for size in plan.sizes
        for new, old in (("PPO", "SFT"), ("PPO-ptx", "PPO"))
    ]
    return Table("tax-changes", "Differences, paired by item: loss in nats, shares",
                 ["change", "size", *TASKS.values()], rows)  # fmt: skip


def difference(found: dict, size: str, new: str, old: str, task: str) -> Interval:
    """new - old on the items of a task, paired by seed and item."""
    return seeds_interval(found[new, size][task] - found[old, size][task])


def sweep(plan: Plan, folder: Path, coefficient: str, words: str):
    """Figure and table of one coefficient."""
    values = plan.swept(coefficient)
    cells: dict[str, list[Interval]] = {"loss": [], "gold": [], "kl": []}
    for value in values:
        both = [sweep_jobs(plan, coefficient, value, seed) for seed in plan.seeds]
        given = [read_answers(folder / job.folder / ANSWERS) for _, job in both]
        losses = of_items(folder, [job for job, _ in both], "nats_per_token")
        cells["loss"].append(seeds_interval(losses))
        cells["gold"].append(seeds_interval([[a.gold for a in own] for own in given]))
        cells["kl"].append(seeds_interval([[a.ref_kl for a in own] for own in given]))
    quantities = [
        Quantity("Loss on new pages", "nats per token", {"PPO": cells["loss"]}),
        Quantity("Gold score", "0 to 1", {"PPO": cells["gold"]}),
        Quantity("Distance from SFT", "nats per response", {"PPO": cells["kl"]}),
    ]
    figure = coefficient_sweep(values, quantities, words, getattr(plan, coefficient))
    rows = [[value, *own] for value, *own in zip(values, *cells.values(), strict=True)]
    head = [coefficient, "loss on new pages, nats per token", "gold score", "KL, nats"]
    caption = f"PPO {short(plan.middle)} on single questions, by {words}"
    return figure, Table(f"sweep-{coefficient}", caption, head, rows)


def sentences(plan: Plan, found: dict) -> list[str]:
    """Where PPO lost something against SFT, and how much of that PPO-ptx has back."""
    paid = [
        f"{difference(found, size, 'SFT', 'base', 'nats_per_token').estimate:+.2f} ({short(size)})"
        for size in plan.sizes
    ]
    said = [f"Before PPO: SFT's loss on new pages against the base's, nats: {', '.join(paid)}."]
    for size in plan.sizes:
        for task, words in TASKS.items():
            sign = 1 if task in LOWER_IS_BETTER else -1
            cost = difference(found, size, "PPO", "SFT", task)
            if not (cost.excludes(0) and sign * cost.estimate > 0):
                continue
            back = -difference(found, size, "PPO-ptx", "PPO", task).estimate / cost.estimate
            share = f"{back:.0%} of it back" if back < 1 else "it all back"
            if back > 1:
                share += f" and goes {abs(cost.estimate) * (back - 1):.3f} beyond SFT"
            said.append(
                f"{short(size)}, {words}: PPO is worse than SFT by {abs(cost.estimate):.3f} "
                f"({cost.low:+.3f} to {cost.high:+.3f}); PPO-ptx wins {share}."
            )
    if len(said) == 1:
        said.append("On none of the tasks did PPO lose clearly against SFT of its size.")
    return said
