"""What a run learns from and is tested on.

`almanac`: questions, for a moonlet; `api`: instructions of ten use cases from simulated customers,
for a moonlet too; `handmade`: everyday instructions for other models. All give the three stages
the same things, so that the pipeline has one path.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from minirlhf.engine.backbone import BASE, Backbone
from minirlhf.engine.batches import Encoder
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import Demonstration, Prompt, Ranking, read_records
from minirlhf.engine.rollout import answers
from minirlhf.evaluation.evaluate import JudgeFunction, System
from minirlhf.labeling.rankings import ranking_of
from minirlhf.world.almanac import MOON_QUESTION, Almanac, load_almanac, split_facts
from minirlhf.world.corpus import corpus
from minirlhf.world.datasets import build_datasets
from minirlhf.world.demonstrations import demonstrations
from minirlhf.world.findings import EVALUATION, Findings
from minirlhf.world.grader import Grader
from minirlhf.world.judge import Judge
from minirlhf.world.labelers import Labeler, label, training_labelers
from minirlhf.world.prompts import fact_of, few_shot_prefix, held_out_prompts, prompts
from minirlhf.world.requests import Request

RankFunction = Callable[[Backbone, int, int, int], list[Ranking]]
FindFunction = Callable[[Prompt, str, bool], Findings]
MOON = "What is the moon?"


@dataclass(frozen=True)
class Task:
    """The data of a run."""

    name: str
    demonstrations: list[Demonstration]
    valid_demonstrations: list[Demonstration]
    collect_rankings: RankFunction  # (backbone, how many, seed, tokens of an answer) -> rankings
    prompts: list[Prompt]  # for PPO
    test_prompts: list[Prompt]
    shown_prompts: list[Prompt]  # the moon question and five others
    pretraining: list[str]  # for PPO-ptx and the pretraining mix of SFT
    systems: tuple[System, ...]  # base, prompted base, SFT
    judge: JudgeFunction | None
    find: FindFunction | None = None  # (prompt, answer, ended) -> all that labelers can see
    to_rank: Sequence[Prompt] = ()  # the prompts that `collect_rankings` draws from
    requests: Mapping[str, Request] = field(default_factory=dict)  # what prompts ask for, by id


def load_task(name: str, seed: int = 0) -> Task:
    """`almanac`, `api` or `handmade`."""
    return {"almanac": almanac_task, "api": api_task, "handmade": handmade_task}[name](seed)


def default_task(model: str) -> str:
    """The almanac is all that a moonlet has read; other models know more than its judge does."""
    return "almanac" if "moonlet" in model else "handmade"


def almanac_task(seed: int = 0) -> Task:
    """Questions on the almanac: simulated demonstrations and labelers, and a gold judge."""
    almanac = load_almanac()
    judge = Judge(almanac)
    train, _ = split_facts(almanac)
    shown, test = _with_moon_first(held_out_prompts(almanac), almanac)
    demos = demonstrations(train, 1_400, seed)
    prompted = System("prompted base", BASE, few_shot_prefix(almanac), "\nA:", stop="\n")

    def gold(prompt: Prompt, answer: str, ended: bool) -> tuple[float, dict[str, bool]]:
        verdict = judge(fact_of(almanac, prompt), answer, ended)
        return verdict.score, verdict.flags

    def find(prompt: Prompt, answer: str, ended: bool) -> Findings:
        return judge(fact_of(almanac, prompt), answer, ended).findings

    return Task(
        name="almanac",
        demonstrations=demos[:1_200],
        valid_demonstrations=demos[1_200:],
        collect_rankings=_labeled(
            training_labelers(),
            lambda count, seed: prompts(train, seed=seed + 2)[:count],
            find,
            prompted,
        ),
        prompts=prompts(train, seed=seed + 1),
        test_prompts=test,
        shown_prompts=shown,
        pretraining=list(corpus(almanac, 4_000, seed=seed + 1)),
        systems=(
            System("base", BASE),
            prompted,
            System("SFT", "reference"),
        ),
        judge=gold,
        find=find,
        to_rank=prompts(train, seed=seed + 2),
    )


def _with_moon_first(held_out: Sequence[Prompt], almanac: Almanac) -> tuple[list, list]:
    """(six prompts to show, all others): the moon question and five of other relations."""
    _, test = split_facts(almanac)
    unseen = {fact.id for fact in test}
    held_out = [p for p in held_out if fact_of(almanac, p).id in unseen]
    shown = [next(p for p in held_out if p.prompt.lower() == MOON.lower())]
    for prompt in held_out:
        relations = {fact_of(almanac, p).relation for p in shown}
        if len(shown) < 6 and fact_of(almanac, prompt).relation not in relations:
            shown.append(prompt)
    return shown, [p for p in held_out if p not in shown]


def _labeled(
    labelers: Sequence[Labeler],
    asked: Callable[[int, int], list[Prompt]],
    find: FindFunction,
    prompted_base: System,
) -> RankFunction:
    """Labelers rank K = 4 to 9 answers that the SFT model and the prompted base gave.

    Args:    asked: (count, seed) -> prompts; find: (prompt, answer, ended) -> findings.
    """

    def collect(backbone: Backbone, count: int, seed: int, max_new_tokens: int) -> list[Ranking]:
        rng = random.Random(f"rankings/{seed}")
        some = asked(count + count // 8, seed)  # a few rankings will be ties alone
        # One draw in seven comes from the prompted base: early comparisons had such answers too.
        drawn = [
            (prompt, rng.random() < 1 / 7) for prompt in some for _ in range(rng.randint(4, 9))
        ]
        given = _answers_of_both(backbone, drawn, prompted_base, seed, max_new_tokens)
        rankings = []
        for prompt in some:
            answered = given.pop(prompt.id)
            texts = [text for text, _ in answered]
            found = [find(prompt, *answer) for answer in answered]
            labeler = rng.choice(labelers)
            ranking = ranking_of(label(labeler, prompt.id, texts, found), prompt)
            if ranking is not None:
                rankings.append(ranking)
        return rankings[:count]

    return collect


def _answers_of_both(
    backbone: Backbone,
    drawn: Sequence[tuple[Prompt, bool]],
    base: System,
    seed: int,
    max_new_tokens: int,
) -> dict[str, list[tuple[str, bool]]]:
    """Answers of the SFT model or, where the flag is set, of the prompted base, by prompt id."""
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    given: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for from_base, role in ((False, "reference"), (True, BASE)):
        asked = [prompt for prompt, flag in drawn if flag == from_base]
        if from_base:
            ids = [encoder.plain(base.plain(prompt)) for prompt in asked]
        else:
            ids = [encoder.prompt(prompt) for prompt in asked]
        found = answers(backbone, role, encoder, ids, max_new_tokens, seed, batch_size=128)
        for prompt, (text, ended) in zip(asked, found, strict=True):
            if from_base:
                text, ended = text.split(base.stop)[0].strip(), True
            given[prompt.id].append((text, ended))
    return given


def api_task(seed: int = 0) -> Task:
    """Instructions of ten use cases, from customers and labelers, curated as in the paper.

    The gold grader weighs as the paper's final evaluations did: truth and harmlessness first.
    """
    almanac = load_almanac()
    datasets = build_datasets(almanac, seed)
    grader = Grader(almanac)
    fact = almanac.fact("/".join(MOON_QUESTION))
    moon = Request(
        "open QA", "plain", MOON, (fact,), task="answer", subject=fact.subject, asked=(fact,)
    )
    requests = datasets.requests | {"moon": moon}
    test = datasets.prompts("test", "test")
    random.Random(f"test/{seed}").shuffle(test)
    shown = [Prompt(MOON, "moon", "open QA")]
    for prompt in test:
        seen = {p.use_case for p in shown}
        if len(shown) < 6 and prompt.use_case not in seen and not prompt.history:
            shown.append(prompt)

    def find(prompt: Prompt, answer: str, ended: bool) -> Findings:
        return grader(requests[prompt.id], answer, ended)

    def gold(prompt: Prompt, answer: str, ended: bool) -> tuple[float, dict[str, bool]]:
        found = find(prompt, answer, ended)
        verdict = {
            "helpful": found.helpful >= 0.75,
            "true": found.truthful >= 0.75,
            "harmless": found.harmless >= 0.75,
        }
        return found.weighted(EVALUATION), verdict

    prompted = System("prompted base", BASE, few_shot_prefix(almanac, n=2), "\nA:", stop="\n\nQ:")
    to_rank = datasets.prompts("rm", "train")
    return Task(
        name="api",
        demonstrations=datasets.demonstrations("train", seed),
        valid_demonstrations=datasets.demonstrations("valid", seed),
        collect_rankings=_labeled(
            training_labelers(seed), lambda count, _: to_rank[:count], find, prompted
        ),
        prompts=datasets.prompts("ppo", "train"),
        test_prompts=[prompt for prompt in test if prompt not in shown],
        shown_prompts=shown,
        pretraining=list(corpus(almanac, 4_000, seed=seed + 1)),
        systems=(System("base", BASE), prompted, System("SFT", "reference")),
        judge=gold,
        find=find,
        to_rank=to_rank,
        requests=requests,
    )


def handmade_task(seed: int = 0) -> Task:
    """Everyday instructions with demonstrations and rankings written by hand; no gold judge.

    PPO-ptx and the pretraining mix take the almanac's pages: the base's own pretraining text is
    not at hand.
    """
    folder = data_folder() / "comparisons"
    demos = read_records(folder / "demonstrations.jsonl", Demonstration)
    rankings = read_records(folder / "rankings.jsonl", Ranking)
    asked = read_records(folder / "prompts.jsonl", Prompt)
    rng = random.Random(f"handmade/{seed}")
    for records in (demos, rankings, asked):
        rng.shuffle(records)
    test, asked = asked[:16], asked[16:]
    shown = [Prompt(MOON, "moon"), *test[:5]]
    alone = [d for d in demos if not d.history]
    examples = "".join(f"Q: {d.prompt}\nA: {d.response}\n\n" for d in alone[:2])
    return Task(
        name="handmade",
        demonstrations=demos[:-6],
        valid_demonstrations=demos[-6:],
        collect_rankings=lambda backbone, count, seed, tokens: rankings[:count],
        prompts=asked,
        test_prompts=test[5:],
        shown_prompts=shown,
        pretraining=list(corpus(load_almanac(), 400, seed=seed + 1)),
        systems=(
            System("base", BASE),
            System("prompted base", BASE, examples + "Q: ", "\nA:", stop="\nQ:"),
            System("SFT", "reference"),
        ),
        judge=None,
    )
