"""What PPO is without one of its parts, and its neighbours on the same data."""

from pathlib import Path
from typing import Any

import numpy as np

from minirlhf.evaluation.statistics import seeds_interval
from minirlhf.evaluation.study_rows import forest
from minirlhf.study.answering import ANSWERS, read_answers
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table, span
from minirlhf.study.plan import Plan, short

TASK = "almanac"
DEFAULT, START = "PPO", "SFT"
# REINFORCE is what is left of PPO without value model, whitening and a second look at a rollout
REINFORCE = dict(value_model="none", gae_lambda=1.0, whiten_advantages=False, clip_range=None)
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no price on KL": dict(kl_coef=0.0),
    "no value model": dict(value_model="none", gae_lambda=1.0),
    "value model from the base": dict(value_init="base"),
    "value head on the policy": dict(value_model="shared"),
    "advantages not whitened": dict(whiten_advantages=False),
    "rewards whitened": dict(whiten_rewards=True),
    "4 inner epochs": dict(ppo_epochs=4),
    "4 inner epochs, no clipping": dict(ppo_epochs=4, clip_range=None),
    "4 inner epochs, PPO-penalty": dict(ppo_epochs=4, loss="penalty"),
    "REINFORCE": REINFORCE,
    "RLOO": dict(algorithm="rloo"),
    "GRPO": dict(algorithm="grpo"),
    "DPO": dict(algorithm="dpo"),
}
FIELDS = {"gold": "gold score, 0 to 1", "score": "RM score, RM units", "ref_kl": "KL, nats"}


def answer_job(plan: Plan, name: str, seed: int) -> Job:
    """Answers of a policy trained as one of VARIANTS, or of the SFT model they all start from."""
    sft, reward = plan.sft(plan.middle, seed, TASK), plan.reward(seed, TASK)
    if name == START:
        return plan.answers(sft, reward)
    policy = plan.policy(plan.middle, seed, name.replace(" ", "-"), TASK, **VARIANTS[name])
    return plan.answers(sft, reward, policy)


def jobs(plan: Plan) -> list[Job]:
    """Every variant with every seed."""
    return [answer_job(plan, name, seed) for name in (START, *VARIANTS) for seed in plan.seeds]


def values(plan: Plan, folder: Path, name: str) -> dict[str, np.ndarray]:
    """Each field's values, (seeds, prompts)."""
    given = [
        read_answers(folder / answer_job(plan, name, seed).folder / ANSWERS) for seed in plan.seeds
    ]
    return {f: np.array([[getattr(a, f) for a in own] for own in given]) for f in FIELDS}


def report(plan: Plan, folder: Path) -> Section:
    """Each variant beside PPO, paired by seed and prompt."""
    found = {name: values(plan, folder, name) for name in (START, *VARIANTS)}
    rows = [[name, *(seeds_interval(own[f]) for f in FIELDS)] for name, own in found.items()]
    changes = {
        name: {f: seeds_interval(own[f] - found[DEFAULT][f]) for f in FIELDS}
        for name, own in found.items()
        if name != DEFAULT
    }
    gold = {name: own["gold"] for name, own in changes.items()}
    clear = [name for name, own in gold.items() if name != START and own.excludes(0)]
    said = [
        f"{name}: gold score {gold[name].estimate:+.3f} ({span(gold[name], '+.3f')}) against PPO."
        for name in (START, *clear)
    ]
    said.append(
        f"{len(clear)} of {len(VARIANTS) - 1} variants differ from PPO in a way that these seeds "
        "could show; one in twenty would by chance alone."
    )
    table = [[name, *own.values()] for name, own in changes.items()]
    head = list(FIELDS.values())
    return Section(
        "ablations",
        f"PPO without its parts, and its neighbours ({short(plan.middle)})",
        said,
        [
            Table("ablations", "At the end of training", ["variant", *head], rows),
            Table("ablation-changes", "Differences to PPO, paired by seed and prompt",
                  ["variant", *head], table),
        ],
        {"ablations": (forest(gold, "Gold score against PPO's", "0 to 1", "PPO"),
                       "Gold score of each variant less that of PPO")},
    )  # fmt: skip
