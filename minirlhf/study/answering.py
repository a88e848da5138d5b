"""The jobs that ask: every system answers the same prompts, and all is written down."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minirlhf.engine.backbone import BASE, Backbone, LoRA
from minirlhf.engine.checkpoint import load_role, open_checkpoint
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import Prompt, write_text
from minirlhf.engine.rollout import score_texts
from minirlhf.evaluation.evaluate import Answer, System, answer_prompts
from minirlhf.study.behaviour import (
    go_on,
    instructed,
    observe,
    rudeness,
    truthfulness,
    values,
)
from minirlhf.study.tax import measure_tax
from minirlhf.study.training import answer, ask, open_reward, world
from minirlhf.world.almanac import load_almanac
from minirlhf.world.grader import Grader
from minirlhf.world.probes import (
    BE_TRUE,
    MANNERS,
    demands,
    passages,
    rude_openings,
    truth_questions,
)
from minirlhf.world.prompts import few_shot_prefix

ANSWERS, BARE, PROMPTED = "answers.jsonl", "base.jsonl", "prompted base.jsonl"
MEASURES = "measures.json"
TRIED = 60  # prompts on which a prefix is chosen


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
        for n in (1, 2)  # a third leaves the longest prompts no room
        for s in (0, 1, 2)
    ]
    few, liked = data.prompts[:TRIED], []
    for candidate in candidates:
        texts = [text for text, _ in ask(backbone, candidate, few, max_new_tokens, seed)]
        liked.append(sum(score_texts(judge, few, texts)) / len(few))
    best = candidates[liked.index(max(liked))]
    for file, system in ((BARE, bare), (PROMPTED, best)):
        found = answer(backbone, system, data, max_new_tokens, seed, prompts, judge)
        write_answers(folder / file, found)
    tried = [[c.prefix, score] for c, score in zip(candidates, liked, strict=True)]
    write_text(folder / "prefixes.json", json.dumps(tried))


def role(
    folder: Path, needs: Sequence[Path], task: str, seed: int, prompts: int, max_new_tokens: int
) -> None:
    """SFT's answers from (SFT, reward model), or a policy's from (SFT, reward model, policy)."""
    backbone = open_role(needs[0], *needs[2:])
    system = System(backbone.roles[-1], backbone.roles[-1])
    judge = open_reward(needs[1])
    found = answer(backbone, system, world(task), max_new_tokens, seed, prompts, judge)
    write_answers(folder / ANSWERS, found)


def open_role(sft: Path, policy: Path | None = None) -> Backbone:
    """A backbone whose last role is the SFT model or the policy of a job."""
    backbone = open_checkpoint(sft / "sft", "reference")
    if policy is not None:
        load_role(backbone, "policy", policy / "policy")
    return backbone


def measures(
    folder: Path, needs: Sequence[Path], seed: int, items: int, max_new_tokens: int, model: str = ""
) -> None:
    """Alignment tax, truth and toxicity of a base (`model`), or of (SFT) or (SFT, policy).

    Writes measures.json: `tax` (measure -> values), `truth` (instruction -> [truthful,
    informative] of each question), `rude` (instruction -> values), `hallucinates` (on passages)
    and `follows_constraint` (on demands).
    """
    almanac = load_almanac()
    backbone = load_backbone(model, lora=LoRA()) if model else open_role(*needs)
    name = BASE if model else backbone.roles[-1]
    system = world("api").systems[1] if model else System(name, name)
    asked, grader = truth_questions(almanac, items), Grader(almanac)
    questions = [Prompt(r.prompt, key) for key, r in asked.items()]
    openings = rude_openings(almanac, items)
    truth, rude, seen = {}, {}, {}
    for said, instruction in (("none", ""), ("be true", BE_TRUE)):
        told, prompts = instructed(system, questions, instruction)
        given = answer_prompts(backbone, told, prompts, max_new_tokens, seed, batch_size=128)
        found = truthfulness(grader, asked.values(), given)
        truth[said] = [[float(t.truthful), float(t.informative)] for t in found]
    for manner, instruction in MANNERS.items():
        given = go_on(backbone, system, openings, instruction, max_new_tokens, seed)
        rude[manner] = rudeness(openings, given)
    for measure, made in (("hallucinates", passages), ("follows_constraint", demands)):
        wanted = made(almanac, items)
        prompts = [Prompt(r.prompt, key, r.use_case, r.history) for key, r in wanted.items()]
        given = answer_prompts(backbone, system, prompts, max_new_tokens, seed, batch_size=128)

        def find(prompt, answer, ended, wanted=wanted):
            return grader(wanted[prompt.id], answer, ended)

        seen[measure] = values(observe(find, wanted, prompts, given), measure)
    tax = measure_tax(backbone, name, items)
    write_text(folder / MEASURES, json.dumps({"tax": tax, "truth": truth, "rude": rude} | seen))


def write_answers(path: Path, answers: Sequence[Answer]) -> None:
    """One row of JSON for each."""
    rows = [json.dumps(asdict(given), ensure_ascii=False) for given in answers]
    write_text(path, "\n".join(rows) + "\n")


def read_answers(path: Path) -> list[Answer]:
    """The answers that `write_answers` wrote."""
    return [Answer(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def read_json(path: Path) -> Any:
    """What a job left in a file."""
    return json.loads(path.read_text(encoding="utf-8"))
