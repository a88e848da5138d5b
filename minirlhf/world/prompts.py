"""Prompts: the almanac's questions, and the few-shot prefix for the base model."""

import random
from collections.abc import Iterable, Sequence

from minirlhf.engine.records import Prompt
from minirlhf.world.almanac import Almanac, Fact, question, split_facts, statement

# Question forms that SFT, the reward model and PPO are trained on. All later forms are held out.
TRAIN_FORMS = (0, 1, 2, 3)


def prompts(
    facts: Iterable[Fact], forms: Sequence[int] = TRAIN_FORMS, seed: int = 0
) -> list[Prompt]:
    """One prompt for each fact and form, shuffled; id `subject/relation/form`.

    Forms that a relation does not have are skipped.
    """
    made = [
        Prompt(question(fact, form), f"{fact.id}/{form}")
        for fact in facts
        for form in forms
        if form < len(fact.wording.questions)
    ]
    random.Random(f"prompts/{seed}").shuffle(made)
    return made


def held_out_prompts(almanac: Almanac, seed: int = 0, test_share: float = 0.2) -> list[Prompt]:
    """Prompts that no stage trains on: test facts in every form, training facts in forms >= 4."""
    train, test = split_facts(almanac, seed, test_share)
    most = max(len(relation.questions) for relation in almanac.relations.values())
    made = prompts(test, range(most), seed)
    made += prompts(train, range(len(TRAIN_FORMS), most), seed)
    random.Random(f"held out/{seed}").shuffle(made)
    return made


def fact_of(almanac: Almanac, prompt: Prompt) -> Fact:
    """The fact that a prompt with id `subject/relation/form` asks for.

    Raises:  KeyError, one readable line, where the id names no fact.
    """
    return almanac.fact(prompt.id.rpartition("/")[0])


def few_shot_prefix(almanac: Almanac, seed: int = 0, n: int = 3) -> str:
    """`n` right questions and answers in FAQ style, then "Q: ".

    The prompted base model reads prefix + question + "\\nA:". The examples come from training
    facts, of different relations where there are enough.
    """
    rng = random.Random(f"few shot/{seed}")
    train, _ = split_facts(almanac)
    chosen: list[Fact] = []
    for fact in rng.sample(train, len(train)):
        if len(chosen) < n and fact.relation not in {other.relation for other in chosen}:
            chosen.append(fact)
    chosen += [fact for fact in train if fact not in chosen][: n - len(chosen)]
    items = (f"Q: {question(fact, 0)}\nA: {statement(fact, 0)}\n\n" for fact in chosen)
    return "".join(items) + "Q: "
