"""On a real model: SmolLM2-135M with the comparisons and demonstrations written by hand."""

import json
import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from minirlhf.engine.batches import Encoder
from minirlhf.engine.checkpoint import open_checkpoint, save_role
from minirlhf.engine.fetch import is_fetched
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import Prompt, Ranking, read_records, write_text
from minirlhf.engine.rollout import answers, score_texts
from minirlhf.evaluation.statistics import mean_interval, paired_difference
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.study import training
from minirlhf.study.answering import open_role, read_json
from minirlhf.study.graph import Job
from minirlhf.study.page import Section, Table
from minirlhf.study.plan import Plan
from minirlhf.study.rubric import rubric, share
from minirlhf.study.training import follow, measured, open_reward

MODEL, TASK, TOKENS = "smollm2", "handmade", 48
TEMPERATURE = 0.7  # at 1 a model this small loses the thread
SHOWN = 10


@lru_cache
def folds(count: int) -> list[list[Ranking]]:
    """The hand-made rankings in so many parts of different prompts."""
    rankings = read_records(data_folder() / "comparisons" / "rankings.jsonl", Ranking)
    random.Random("folds").shuffle(rankings)
    return [rankings[i::count] for i in range(count)]


def reward(
    folder: Path, needs: Sequence[Path], seed: int, count: int, fold: int, config: dict[str, Any]
) -> None:
    """A reward model on all parts but one, and what it makes of the prompts of that one."""
    parts = folds(count)
    train = [ranking for i, part in enumerate(parts) if i != fold for ranking in part]
    backbone = open_checkpoint(needs[0] / "sft", "reference")
    steps = RewardTraining(RewardConfig(seed=seed, **config), backbone, train, parts[fold],
                           training.world(TASK).demonstrations)  # fmt: skip
    follow(folder, "reward", steps)
    save_role(backbone, "reward", folder / "reward")
    found = {"rankings": len(train), "valid": measured(backbone, parts[fold])}
    write_text(folder / "results.json", json.dumps(found))


def asked(count: int, fold: int) -> list[Prompt]:
    """Prompts that neither the reward model nor PPO has met: held-out ones, and that part's."""
    data = training.world(TASK)
    held = [Prompt(r.prompt, r.id, r.use_case, r.history) for r in folds(count)[fold]]
    return [*data.shown_prompts, *data.test_prompts, *held]


def answered(folder: Path, needs: Sequence[Path], seed: int, count: int, fold: int) -> None:
    """Answers of SFT and PPO from (SFT, reward model, PPO), side by side, scored and ticked."""
    prompts, judge, rows = asked(count, fold), open_reward(needs[1]), []
    for name, folders in (("SFT", needs[:1]), ("PPO", (needs[0], needs[2]))):
        backbone = open_role(*folders)
        encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
        ids = [encoder.prompt(p, TOKENS) for p in prompts]
        given = answers(backbone, backbone.roles[-1], encoder, ids, TOKENS, seed,
                        temperature=TEMPERATURE, batch_size=16)  # fmt: skip
        scores = score_texts(judge, prompts, [text for text, _ in given], 16)
        for prompt, (text, ended), score in zip(prompts, given, scores, strict=True):
            rows.append({"system": name, "prompt": prompt.prompt, "answer": text, "score": score,
                         "ticked": rubric(prompt.prompt, text, ended)})  # fmt: skip
    write_text(folder / "answers.json", json.dumps(rows, ensure_ascii=False))


def sft_job(plan: Plan, seed: int) -> Job:
    """SFT on the demonstrations written by hand."""
    config = dict(epochs=2, batch_size=16, microbatch_size=4, learning_rate=3e-4)
    settings = dict(model=MODEL, task=TASK, seed=seed, config=config)
    return Job(f"sft-{MODEL}-{seed}", training.sft, settings, cost=90)


def reward_job(plan: Plan, seed: int, fold: int) -> Job:
    """A reward model that has not met the prompts of one part."""
    config = dict(epochs=1, batch_size=8, microbatch_size=2, learning_rate=3e-4)
    settings = dict(seed=seed, count=plan.real_folds, fold=fold, config=config)
    return Job(f"reward-{MODEL}-{seed}-{fold}", reward, settings, (sft_job(plan, seed),), 80)


def policy_job(plan: Plan, seed: int) -> Job:
    """PPO against the reward model of the first part."""
    config = dict(updates=plan.real_updates, rollout_batch_size=16, minibatch_size=8,
                  microbatch_size=4, max_new_tokens=TOKENS, temperature=TEMPERATURE,
                  policy_learning_rate=3e-4, value_learning_rate=3e-4, warmup_updates=2,
                  missing_eos="subtract", value_model="shared", kl_coef=0.05)  # fmt: skip
    settings = dict(task=TASK, seed=seed, config=config)
    needs = (sft_job(plan, seed), reward_job(plan, seed, 0))
    return Job(f"ppo-{MODEL}-{seed}", training.policy, settings, needs, cost=100)


def answers_job(plan: Plan, seed: int) -> Job:
    """Answers to prompts that none of them has met."""
    needs = (sft_job(plan, seed), reward_job(plan, seed, 0), policy_job(plan, seed))
    settings = dict(seed=seed, count=plan.real_folds, fold=0)
    return Job(f"answers-{MODEL}-{seed}", answered, settings, needs)


def jobs(plan: Plan) -> list[Job]:
    """A reward model for each part, and one policy; none where there is no SmolLM2."""
    if not (plan.real_folds and is_fetched()):
        return []
    seed = plan.seeds[0]
    rewards = [reward_job(plan, seed, fold) for fold in range(plan.real_folds)]
    return [*rewards, answers_job(plan, seed)]


def report(plan: Plan, folder: Path) -> Section:
    """Accuracy over the parts, and PPO beside SFT."""
    if not jobs(plan):
        why = f"{MODEL} is not here (`minirlhf fetch {MODEL}`)" if plan.real_folds else "too slow"
        said = [f"Left out: {why}."]
        return Section("real-model", "On a real model", said)
    seed = plan.seeds[0]
    models = [reward_job(plan, seed, fold) for fold in range(plan.real_folds)]
    valid = [read_json(folder / one.folder / "results.json")["valid"] for one in models]
    shares = [right / pairs for own in valid for right, pairs in own["prompts"] if pairs]
    found = read_json(folder / answers_job(plan, seed).folder / "answers.json")
    sft, ppo = ([row for row in found if row["system"] == name] for name in ("SFT", "PPO"))
    score, ticks = (
        paired_difference([value(row) for row in ppo], [value(row) for row in sft])
        for value in (lambda row: row["score"], lambda row: share(row["ticked"]))
    )
    accuracy = mean_interval(shares)
    return Section(
        "real-model",
        "On a real model: SmolLM2-135M and comparisons written by hand",
        [
            f"Of the pairs of a prompt it has not met the reward model orders "
            f"{accuracy.estimate:.0%} as we did ({accuracy.low:.0%} to {accuracy.high:.0%} over "
            f"{len(shares)} prompts; {len(models)} models, each learned from the other part"
            f"{'s' * (len(models) > 2)}).",
            f"PPO's answers to {len(sft)} new prompts score {score.estimate:+.2f} RM units against "
            f"SFT's ({score.low:+.2f} to {score.high:+.2f}, paired), and a rubric by rule (ended, "
            f"whole, own turn, no repeats, on topic, length asked for) {ticks.estimate:+.0%} "
            f"({ticks.low:+.0%} to {ticks.high:+.0%}). One seed.",
        ],
        [ticked_table(sft, ppo), side_by_side(sft, ppo)],
    )


def ticked_table(sft: list[dict], ppo: list[dict]) -> Table:
    """What share of answers gets each point of the rubric."""
    names = dict.fromkeys(name for row in sft for name in row["ticked"])
    rows = []
    for name in names:
        shares = [[r["ticked"][name] for r in own if name in r["ticked"]] for own in (sft, ppo)]
        rows.append([name.replace("_", " "), len(shares[0]), *(sum(s) / len(s) for s in shares)])
    return Table("real-rubric", "Share of answers for which the rubric ticks each point",
                 ["point", "answers", "SFT", "PPO"], rows, percent=True)  # fmt: skip


def side_by_side(sft: list[dict], ppo: list[dict]) -> Table:
    """Ten prompts from the greatest loss of score to the greatest gain, evenly picked."""
    pairs = sorted(zip(sft, ppo, strict=True), key=lambda both: both[1]["score"] - both[0]["score"])
    picked = [pairs[round(i * (len(pairs) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
    rows = [
        [*map(one_line, (a["prompt"], a["answer"], b["answer"])), b["score"] - a["score"]]
        for a, b in picked
    ]
    caption = "Ten answers side by side, from those that lost most score to those that gained most"
    return Table("real-answers", caption, ["prompt", "SFT", "PPO", "score gained"], rows)


def one_line(text: str) -> str:
    """For a cell of a table."""
    return text.replace("\n", " / ")
