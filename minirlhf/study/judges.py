"""Who won: labelers who ranked nothing that was trained on, and apart from them the gold grader.

The paper's evaluations were comparisons too: labelers saw the answers of several models to one
prompt side by side, and a model's win rate counts how often its answer was ranked above the
baseline's (Ouyang et al. 2022, sections 3.6 and 4.1, arXiv:2203.02155).
"""

import random
from collections.abc import Callable, Mapping, Sequence

from minirlhf.engine.records import Prompt
from minirlhf.evaluation.evaluate import Answer
from minirlhf.world.findings import EVALUATION, Findings
from minirlhf.world.labelers import Labeler, label

Find = Callable[[Prompt, str, bool], Findings]  # (prompt, answer, ended), as `Task.find`
Places = list[tuple[float, ...]]  # of one system: for each prompt its place with each judge


def labeler_places(
    find: Find,
    prompts: Sequence[Prompt],
    given: Mapping[str, Sequence[Answer]],
    labelers: Sequence[Labeler],
    seed: int = 0,
    each: int = 1,
) -> dict[str, Places]:
    """Labelers rank all systems' answers to each prompt, truth and harmlessness first.

    Which labelers see a prompt depends on the seed and the prompt alone, and what they think of
    an answer does not depend on the answers beside it: who beats whom stays the same whichever
    other systems are there. But only ranks of one call can be compared.

    Args:    given: system -> its answers, in the prompts' order; each: labelers for a prompt.
    Returns: for each system its ranks, 1 = best, equal = tied.
    Raises:  ValueError where answers are not those to the prompts.
    """
    check_paired(prompts, given)
    places: dict[str, Places] = {name: [] for name in given}
    for i, prompt in enumerate(prompts):
        answers = [own[i] for own in given.values()]
        texts = [answer.answer for answer in answers]
        found = [find(prompt, answer.answer, answer.ended) for answer in answers]
        forms = [
            label(labeler, prompt.id, texts, found, "evaluation")
            for labeler in panel(labelers, prompt, seed, each)
        ]
        for k, name in enumerate(given):
            places[name].append(tuple(form[k].rank for form in forms))
    return places


def gold_places(
    find: Find, prompts: Sequence[Prompt], given: Mapping[str, Sequence[Answer]]
) -> dict[str, Places]:
    """The same by the gold grader, who knows everything: its place is 1 - gold score, in [0, 1].

    Its scores weigh as the paper's final evaluations did, and equal scores alone are a tie.
    """
    check_paired(prompts, given)
    return {
        name: [
            (round(1 - find(prompt, own.answer, own.ended).weighted(EVALUATION), 9),)
            for prompt, own in zip(prompts, answers, strict=True)
        ]
        for name, answers in given.items()
    }


def wins(one: Places, other: Places) -> list[float]:
    """For each prompt 1.0 where more judges place `one` better, 0.0 where fewer do, else 0.5.

    Raises:  ValueError where the two were not judged by as many judges on as many prompts.
    >>> wins([(1, 1, 2), (1,), (2,)], [(2, 2, 1), (1,), (1,)])
    [1.0, 0.5, 0.0]
    """
    if list(map(len, one)) != list(map(len, other)):
        raise ValueError("wins: the two systems were not judged on the same prompts")
    won = []
    for mine, theirs in zip(one, other, strict=True):
        votes = sum((a < b) - (a > b) for a, b in zip(mine, theirs, strict=True))
        won.append(0.5 + 0.5 * ((votes > 0) - (votes < 0)))
    return won


def panel(labelers: Sequence[Labeler], prompt: Prompt, seed: int, each: int) -> list[Labeler]:
    """The labelers who see a prompt, drawn anew for each prompt id and seed.

    Raises:  ValueError where there are fewer labelers than `each`, or `each` is below 1.
    """
    if not 1 <= each <= len(labelers):
        raise ValueError(f"{each} labelers for a prompt, but there are {len(labelers)}")
    return random.Random(f"panel/{seed}/{prompt.id}").sample(list(labelers), each)


def check_paired(prompts: Sequence[Prompt], given: Mapping[str, Sequence[Answer]]) -> None:
    """Raise ValueError, naming the system, unless each answer stands beside its prompt."""
    for name, answers in given.items():
        if len(answers) != len(prompts):
            raise ValueError(f"{name}: {len(answers)} answers to {len(prompts)} prompts")
        for prompt, answer in zip(prompts, answers, strict=True):
            if answer.prompt != prompt.prompt:
                raise ValueError(f"{name}: an answer to {answer.prompt!r} at {prompt.prompt!r}")
