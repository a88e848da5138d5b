"""The jobs that ask: every system answers the same held-out prompts, and all is written down."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minirlhf.engine.backbone import BASE, Backbone
from minirlhf.engine.checkpoint import load_role, open_checkpoint
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import Prompt, write_text
from minirlhf.engine.rollout import score_texts
from minirlhf.evaluation.evaluate import Answer, System
from minirlhf.study.training import answer, ask, open_reward, world
from minirlhf.world.almanac import load_almanac
from minirlhf.world.prompts import few_shot_prefix

ANSWERS, BARE, PROMPTED = "answers.jsonl", "base.jsonl", "prompted base.jsonl"


def base(
    folder: Path,
    needs: Sequence[Path],
    model: str,
    task: str,
    seed: int,
    prompts: int,
    max_new_tokens: int,
) -> None:
    """The bare base; the base with the prefix that a reward model (needs[0]) likes best."""
    data, judge = world(task), open_reward(needs[0])
    backbone = load_backbone(model)
    bare, example = data.systems[0], data.systems[1]
    candidates = [
        System("prompted base", BASE, few_shot_prefix(load_almanac(), s, n), "\nA:", example.stop)
        for n in (1, 2, 3)
        for s in (0, 1)
    ]
    few = data.prompts[:60]
    liked = [
        mean_score(judge, few, ask(backbone, c, few, max_new_tokens, seed)) for c in candidates
    ]
    best = candidates[liked.index(max(liked))]
    for file, system in ((BARE, bare), (PROMPTED, best)):
        found = answer(backbone, system, data, max_new_tokens, seed, prompts, judge)
        write_answers(folder / file, found, task)
    tried = [[c.prefix, score] for c, score in zip(candidates, liked, strict=True)]
    write_text(folder / "prefixes.json", json.dumps(tried))


def mean_score(
    judge: Backbone, prompts: Sequence[Prompt], given: Sequence[tuple[str, bool]]
) -> float:
    scores = score_texts(judge, prompts, [text for text, _ in given])
    return sum(scores) / len(scores)


def role(
    folder: Path,
    needs: Sequence[Path],
    task: str,
    seed: int,
    prompts: int,
    max_new_tokens: int,
) -> None:
    """SFT's answers from (SFT, reward model), or a policy's from (SFT, reward model, policy)."""
    backbone = open_role(needs[0], *needs[2:])
    system = System(backbone.roles[-1], backbone.roles[-1])
    judge = open_reward(needs[1])
    found = answer(backbone, system, world(task), max_new_tokens, seed, prompts, judge)
    write_answers(folder / ANSWERS, found, task)


def open_role(sft: Path, policy: Path | None = None) -> Backbone:
    """A backbone whose last role is the SFT model or the policy of a job."""
    backbone = open_checkpoint(sft / "sft", "reference")
    if policy is not None:
        load_role(backbone, "policy", policy / "policy")
    return backbone


def write_answers(path: Path, answers: Sequence[Answer], task: str) -> None:
    """One row for each answer, with what labelers can see in it."""
    data = world(task)
    rows = []
    for prompt, given in zip(data.test_prompts, answers, strict=False):
        found = asdict(data.find(prompt, given.answer, given.ended))
        more = {"id": prompt.id, "use_case": prompt.use_case, "findings": found}
        rows.append(json.dumps(asdict(given) | more, ensure_ascii=False))
    write_text(path, "\n".join(rows) + "\n")


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_answers` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
