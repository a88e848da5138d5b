"""The jobs that train: SFT, responses to rank, reward models, policies.

Each is a plain function (folder to fill, folders it builds on, settings); see `study.graph.Job`.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.batches import Encoder
from minirlhf.engine.checkpoint import load_role, open_checkpoint, read_card, save_role
from minirlhf.engine.metrics import MetricsLog
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import Prompt, Ranking, read_records, write_records, write_text
from minirlhf.engine.rollout import answers, score_texts
from minirlhf.evaluation.evaluate import Answer, System, answer_prompts
from minirlhf.labeling.rankings import ranking_of
from minirlhf.maths.preferences import ranking_to_pairs
from minirlhf.stages.dpo import DPO, DPOConfig
from minirlhf.stages.grpo import GRPO, GRPOConfig
from minirlhf.stages.ppo import PPO, PPOConfig
from minirlhf.stages.reward import RewardConfig, RewardTraining
from minirlhf.stages.rloo import RLOO, RLOOConfig
from minirlhf.stages.sft import SFT, SFTConfig
from minirlhf.tasks import Task, load_task
from minirlhf.world.labelers import Labeler, held_out_labelers, label, training_labelers

Settings = Mapping[str, Any]
MOST_RESPONSES = 9  # K of a pool, the paper's largest
RANKINGS = "train.jsonl"  # of a reward model


@lru_cache
def world(task: str) -> Task:
    """The data, the same in all jobs: seeds change what is drawn and learned from it."""
    return load_task(task)


def follow(folder: Path, stage: str, steps: Iterable[Mapping[str, float]]) -> None:
    """Go through a stage's steps and log each."""
    log = MetricsLog(folder / "metrics.jsonl")
    for step, stats in enumerate(steps, start=1):
        log.write(stage, step, stats)


def sft(
    folder: Path, needs: Sequence[Path], model: str, task: str, seed: int, config: Settings
) -> None:
    """Stage 1, saved in `sft`. Needs nothing, or a reward model that scores each epoch."""
    data, score = world(task), None
    if needs:
        judge = open_reward(needs[0])

        def score(prompts, responses):
            return score_texts(judge, prompts, responses)

    backbone = load_backbone(model, lora=LoRA(), seed=seed)
    demos, valid = data.demonstrations, data.valid_demonstrations
    follow(folder, "sft", SFT(SFTConfig(seed=seed, **config), backbone, demos, valid, score))
    save_role(backbone, "reference", folder / "sft")


def pool(
    folder: Path,
    needs: Sequence[Path],
    task: str,
    seed: int,
    prompts: int,
    max_new_tokens: int,
    all_nine: bool = False,
) -> None:
    """K = 4 to 9 responses to each of some prompts, or always nine, for labelers to rank.

    As in the paper they come from several models: here the SFT models of `needs` and, one in
    seven, the prompted base of the first.
    """
    data, rng = world(task), random.Random(f"pool/{seed}")
    asked = list(data.to_rank)
    rng.shuffle(asked)
    asked = asked[:prompts]
    counts = [MOST_RESPONSES if all_nine else responses_of(p.id) for p in asked]
    weights = [6 / 7 / len(needs)] * len(needs) + [1 / 7]
    sources = [rng.choices(range(len(needs) + 1), weights, k=k) for k in counts]
    rows: list[dict] = [
        {"prompt_id": p.id, "texts": [""] * k, "ended": [True] * k}
        for p, k in zip(asked, counts, strict=True)
    ]
    prompted = next(system for system in data.systems if system.prefix)
    for source in range(len(needs) + 1):
        backbone = open_checkpoint(needs[source % len(needs)] / "sft", "reference")
        system = prompted if source == len(needs) else System("SFT", "reference")
        places = [(i, k) for i, row in enumerate(sources) for k, s in enumerate(row) if s == source]
        given = ask(backbone, system, [asked[i] for i, _ in places], max_new_tokens, seed)
        for (i, k), (text, ended) in zip(places, given, strict=True):
            rows[i]["texts"][k], rows[i]["ended"][k] = text, ended
    write_text(folder / "pool.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def ask(
    backbone: Backbone,
    system: System,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    seed: int,
) -> list[tuple[str, bool]]:
    """(text, whether it ended) for each prompt: `answer_prompts`, with nothing measured."""
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    ids = [system.ids(encoder, prompt, max_new_tokens) for prompt in prompts]
    found = answers(backbone, system.role, encoder, ids, max_new_tokens, seed, batch_size=128)
    return [system.cut(text, ended) for text, ended in found]


def responses_of(prompt_id: str) -> int:
    """K of a prompt, 4 to 9 as in the paper; the same whenever asked."""
    return random.Random(f"K/{prompt_id}").randint(4, MOST_RESPONSES)


def read_pool(folder: Path) -> list[dict]:
    """The rows that `pool` wrote."""
    return [json.loads(line) for line in (folder / "pool.jsonl").read_text("utf-8").splitlines()]


def labelled(
    rows: Sequence[dict],
    task: str,
    labelers: Sequence[Labeler],
    seed: int,
    k: int | None = None,
) -> list[Ranking]:
    """Each row ranked by one of the labelers: its first `k` responses, None = K as the prompt's.

    Rows whose responses all tie are left out: they hold no pair.
    """
    data = world(task)
    by_id = {p.id: p for p in data.to_rank}
    rankings = []
    for row in rows:
        rng = random.Random(f"labelled/{seed}/{row['prompt_id']}")
        prompt, count = by_id[row["prompt_id"]], k or responses_of(row["prompt_id"])
        texts, ended = row["texts"][:count], row["ended"][:count]
        found = [data.find(prompt, *answer) for answer in zip(texts, ended, strict=True)]
        forms = label(rng.choice(labelers), prompt.id, texts, found)
        if (ranking := ranking_of(forms, prompt)) is not None:
            rankings.append(ranking)
    return rankings


def reward(
    folder: Path,
    needs: Sequence[Path],
    task: str,
    seed: int,
    config: Settings,
    rankings: int | None = None,
    valid: int = 150,
    k: int | None = None,
    fold: int | None = None,
    shuffled_pairs: bool = False,
) -> None:
    """Stage 2 on (SFT, pool): saved in `reward`, what it reaches in results.json.

    Args:    rankings: how many of the pool's prompts are learned from, None = all but `valid`;
             fold: one fifth of the training labelers ranks nothing that is learned from, and is
             the group whose accuracy is told apart; shuffled_pairs: every pair is a ranking of
             its own, so that the pairs of a prompt fall into different batches.
    """
    rows, people = read_pool(needs[1]), training_labelers()
    held, rest = rows[:valid], rows[valid:][:rankings]
    apart = [p for i, p in enumerate(people) if i % 5 == fold]
    inside = [p for p in people if p not in apart]
    train = labelled(rest, task, inside, seed, k)
    if shuffled_pairs:
        train = [pair for ranking in train for pair in pairs_of(ranking)]
    tests = {"valid": labelled(held, task, inside, seed),
             "held_out": labelled(held, task, held_out_labelers(), seed)}  # fmt: skip
    if apart:
        tests["fold"] = labelled(held, task, apart, seed)
    backbone = open_checkpoint(needs[0] / "sft", "reference")
    steps = RewardTraining(RewardConfig(seed=seed, **config), backbone, train, tests["valid"],
                           world(task).demonstrations)  # fmt: skip
    follow(folder, "reward", steps)
    save_role(backbone, "reward", folder / "reward")
    write_records(folder / RANKINGS, train)
    pairs = sum(len(ranking_to_pairs(ranking.ranks)) for ranking in train)
    results: dict[str, Any] = {"rankings": len(train), "pairs": pairs}
    for name, found in {"train": train[:300], **tests}.items():
        results[name] = measured(backbone, found)
    write_text(folder / "results.json", json.dumps(results))


def measured(backbone: Backbone, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """How a reward model orders rankings: accuracy, and score differences with what labelers said.

    Returns: `accuracy` of untied pairs, pooled; `prompts`: for each ranking [right, pairs];
             `deltas`: r_i - r_j of each pair whose i the labeler ranked better.
    """
    texts = [(ranking, text) for ranking in rankings for text in ranking.responses]
    prompts = [Prompt(r.prompt, history=r.history) for r, _ in texts]
    scores = iter(score_texts(backbone, prompts, [text for _, text in texts]))
    per_prompt, deltas = [], []
    for ranking in rankings:
        own = [next(scores) for _ in ranking.responses]
        found = [own[i] - own[j] for i, j in ranking_to_pairs(ranking.ranks)]
        per_prompt.append([sum((d > 0) + (d == 0) / 2 for d in found), len(found)])
        deltas += found
    right, pairs = (sum(column) for column in zip(*per_prompt, strict=True))
    return {"accuracy": right / pairs, "prompts": per_prompt, "deltas": deltas}


def pairs_of(ranking: Ranking) -> list[Ranking]:
    """A ranking taken apart into one of two responses for each pair."""
    return [
        Ranking(ranking.prompt, (ranking.responses[i], ranking.responses[j]), (1, 2),
                ranking.labeler, id=ranking.id, use_case=ranking.use_case,
                history=ranking.history)
        for i, j in ranking_to_pairs(ranking.ranks)
    ]  # fmt: skip


def open_reward(folder: Path) -> Backbone:
    """A backbone with the role `reward` of a job."""
    return open_checkpoint(folder / "reward", "reward")


def policy(
    folder: Path,
    needs: Sequence[Path],
    task: str,
    seed: int,
    config: Settings,
    algorithm: str = "ppo",
    probe: int = 0,
    probe_prompts: int = 0,
) -> None:
    """Stage 3, or a neighbour of it, on (SFT, reward model): saved in `policy`.

    A reward model on another base scores texts as any reward function does; DPO learns from the
    rankings that the reward model was trained on.
    Args:    probe: after every so many steps the policy answers `probe_prompts` held-out prompts;
             means of `score`, `gold`, `ref_kl` and `length` go to probes.json; 0 = never.
    """
    data = world(task)
    backbone = open_checkpoint(needs[0] / "sft", "reference")
    same_base = read_card(needs[1] / "reward")["base"] == backbone.name
    judge = backbone if same_base else open_reward(needs[1])
    if same_base:
        load_role(backbone, "reward", needs[1] / "reward")

    def score(prompts, responses):
        return score_texts(judge, prompts, responses)

    given = None if same_base else score
    if algorithm == "dpo":
        rankings = read_records(needs[1] / RANKINGS, Ranking)
        steps = DPO(DPOConfig(seed=seed, **config), backbone, rankings)
    elif algorithm == "ppo":
        asked = PPOConfig(seed=seed, **config)
        steps = PPO(asked, backbone, data.prompts, given, data.pretraining)
    else:
        stage, settings = {"rloo": (RLOO, RLOOConfig), "grpo": (GRPO, GRPOConfig)}[algorithm]
        steps = stage(settings(seed=seed, **config), backbone, data.prompts, given)
    tokens, probes = config.get("max_new_tokens", 40), []

    def probed():
        for step, stats in enumerate(steps, start=1):
            yield stats
            if probe and step % probe == 0:
                found = answer(backbone, System("policy", "policy"), data, tokens, seed,
                               probe_prompts, judge)  # fmt: skip
                probes.append({"step": step} | means(found))

    follow(folder, algorithm, probed())
    save_role(backbone, "policy", folder / "policy")
    write_text(folder / "probes.json", json.dumps(probes))


def best_of(
    folder: Path, needs: Sequence[Path], task: str, seed: int, prompts: int, samples: int
) -> None:
    """Many answers of SFT (needs[0]) to held-out prompts, scored by each reward model after it.

    Writes samples.json: `gold` (prompts, samples), `proxies` (models, prompts, samples).
    """
    data = world(task)
    backbone = open_checkpoint(needs[0] / "sft", "reference")
    asked = [p for p in data.test_prompts[:prompts] for _ in range(samples)]
    given = ask(backbone, System("SFT", "reference"), asked, 40, seed)
    gold = [data.judge(p, *own)[0] for p, own in zip(asked, given, strict=True)]
    texts = [text for text, _ in given]
    scores = [score_texts(open_reward(need), asked, texts, 256) for need in needs[1:]]

    def by_prompt(values):
        return [values[i : i + samples] for i in range(0, len(values), samples)]

    found = {"gold": by_prompt(gold), "proxies": [by_prompt(own) for own in scores]}
    write_text(folder / "samples.json", json.dumps(found))


def answer(
    backbone: Backbone,
    system: System,
    data: Task,
    max_new_tokens: int,
    seed: int,
    prompts: int,
    judge: Backbone | None = None,
) -> list[Answer]:
    """Answers to the first of the held-out prompts, with the scores of a judge on any base."""
    asked = data.test_prompts[:prompts]
    found = answer_prompts(backbone, system, asked, max_new_tokens, seed, judge=data.judge,
                           batch_size=128)  # fmt: skip
    if judge is None or judge is backbone:
        return found
    scores = score_texts(judge, asked, [a.answer for a in found])
    return [replace(a, score=score) for a, score in zip(found, scores, strict=True)]


def means(answers: Sequence[Answer]) -> dict[str, float]:
    """Mean score, gold score and KL of some answers."""
    names = ("score", "gold", "ref_kl", "length")
    return {name: sum(getattr(a, name) for a in answers) / len(answers) for name in names}
