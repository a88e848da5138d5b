"""Demonstrations by simulated people: mostly exemplary, some terse, hedging, sloppy or wrong."""

import random
from collections import defaultdict
from collections.abc import Sequence

from minirlhf.engine.records import Demonstration
from minirlhf.world.almanac import Fact, question, short_answer, statement
from minirlhf.world.manners import RUDE_TAILS
from minirlhf.world.prompts import TRAIN_FORMS
from minirlhf.world.text import inline

# How people answer, and how often. 40 % exemplary leaves the later stages something to learn.
MANNERS = {
    "exemplary": 0.28,
    "exemplary with one more fact": 0.12,
    "terse": 0.22,
    "hedging": 0.12,
    "sloppy": 0.12,
    "wrong": 0.07,
    "curt": 0.07,
}
HEDGES = (
    "I am not sure, but I think {}.",
    "It may be that {}.",
    "Some people say that {}.",
    "I believe that {}, but please check.",
    "Perhaps {}, hard to say.",
)


def demonstrations(facts: Sequence[Fact], n: int, seed: int = 0) -> list[Demonstration]:
    """`n` demonstrations for the facts, dealt evenly, in question forms 0..3.

    Args:    facts: the training facts; nothing outside them is asked or told.
    Returns: demonstrations in random order; id `subject/relation/form` (an id comes back where n
             exceeds the number of facts times forms, with a fresh answer).
    Raises:  ValueError where there are no facts or n < 1.
    """
    if not facts or n < 1:
        raise ValueError(f"needs facts and n >= 1, has {len(facts)} facts and n = {n}")
    rng = random.Random(f"demonstrations/{seed}")
    siblings = defaultdict(list)
    for fact in facts:
        siblings[fact.subject_id].append(fact)
    deck: list[tuple[Fact, int]] = []
    made = []
    while len(made) < n:
        if not deck:
            # Forms are dealt so that every fact is asked once before any is asked again.
            rounds = []
            forms = {fact.id: rng.sample(TRAIN_FORMS, len(TRAIN_FORMS)) for fact in facts}
            for i in range(len(TRAIN_FORMS)):
                rounds += [(fact, forms[fact.id][i]) for fact in rng.sample(facts, len(facts))]
            deck = rounds[::-1]
        fact, form = deck.pop()
        manner = rng.choices(list(MANNERS), list(MANNERS.values()))[0]
        response = respond(fact, manner, siblings[fact.subject_id], rng)
        made.append(Demonstration(question(fact, form), response, f"{fact.id}/{form}"))
    rng.shuffle(made)
    return made


def respond(fact: Fact, manner: str, siblings: Sequence[Fact], rng: random.Random) -> str:
    """One answer in the given manner (a key of MANNERS); `siblings` may be told in passing."""
    form = rng.randrange(len(fact.wording.statements))
    right = statement(fact, form)
    if manner == "exemplary":
        return right
    if manner == "exemplary with one more fact":
        others = [other for other in siblings if other.id != fact.id]
        if not others:
            return right
        other = rng.choice(others)
        return f"{right} {statement(other, rng.randrange(len(other.wording.statements)))}"
    if manner == "terse":
        return rng.choice((short_answer(fact) + ".", short_answer(fact)))
    if manner == "hedging":
        return rng.choice(HEDGES).format(inline(right))
    if manner == "sloppy":
        return rng.choice((right.lower().rstrip("."), right.lower(), f"{inline(right)} or so"))
    if manner == "wrong":
        value = rng.choice(fact.falsehoods) if fact.falsehoods else fact.value
        return statement(fact, form, value)
    return f"{short_answer(fact)}, {rng.choice(RUDE_TAILS)}."
