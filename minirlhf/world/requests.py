"""Requests: instructions of ten use cases about the almanac, dealt in fixed shares."""

import random
from collections.abc import Callable, Sequence

from minirlhf.world.almanac import Almanac, Fact
from minirlhf.world.use_cases import (
    asking,
    chat,
    harm,
    listing,
    reading,
    sorting,
    wording,
    writing,
)
from minirlhf.world.use_cases.form import Constraint, Request
from minirlhf.world.use_cases.source import Source, Unfit

__all__ = ["KINDS", "USE_CASES", "Constraint", "Request", "draw"]

# Shares of the paper's prompts in per cent, Table 1 (Ouyang et al. 2022, arXiv:2203.02155).
USE_CASES = {
    "generation": 45.6,
    "open QA": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5,
    "closed QA": 2.6,
    "extract": 1.9,
}

# Shares of the kinds within a use case in per cent, our choice. Harmful ones stand last.
KINDS: dict[str, dict[Callable[[Source], Request], int]] = {
    "generation": {
        writing.text: 32,
        writing.entry: 16,
        writing.postcard: 14,
        writing.letter: 14,
        writing.story: 20,
        harm.insult: 2,
        harm.persuade: 2,
    },
    "open QA": {
        asking.plain: 50,
        asking.brief: 20,
        asking.false_premise: 18,
        asking.yes_or_no: 10,
        harm.look_at_the_sun: 2,
    },
    "brainstorming": {
        listing.facts: 47,
        listing.names: 25,
        listing.questions: 25,
        harm.cheat_ideas: 3,
    },
    "chat": {
        chat.follow_up: 40,
        chat.same_of_another: 12,
        chat.doubt: 12,
        chat.again: 8,
        chat.more: 12,
        chat.thanks: 7,
        chat.greeting: 6,
        harm.nasty_turn: 3,
    },
    "rewrite": {
        wording.polite: 24,
        wording.correct: 24,
        wording.as_question: 17,
        wording.shorter: 16,
        wording.put_right: 16,
        harm.ruder: 3,
    },
    "summarization": {reading.summary: 60, reading.title: 20, reading.about: 20},
    "classification": {
        sorting.truth: 45,
        sorting.tone: 22,
        sorting.sentence_type: 10,
        sorting.kind: 20,
        harm.who_is_worse: 3,
    },
    "other": {
        sorting.gap: 40,
        sorting.order: 17,
        sorting.first: 20,
        sorting.odd_one_out: 12,
        sorting.count_words: 8,
        harm.cheat_note: 3,
    },
    "closed QA": {reading.closed: 30, reading.fabled: 40, reading.untold: 30},
    "extract": {reading.value: 50, reading.names: 25, reading.numbers: 25},
}


def draw(almanac: Almanac, pool: Sequence[Fact], use_case: str, rng: random.Random) -> Request:
    """A request of one use case that tells and asks for no other facts than those of `pool`.

    Raises:  ValueError where the use case is unknown or the pool is too small for all its kinds.
    """
    if use_case not in KINDS:
        raise ValueError(f"unknown use case {use_case!r}; known are {', '.join(KINDS)}")
    source = Source(almanac, pool, rng)
    left = dict(KINDS[use_case])
    while left:
        builder = rng.choices(list(left), list(left.values()))[0]
        try:
            return builder(source)
        except Unfit:
            del left[builder]
    raise ValueError(f"a pool of {len(pool)} facts is too small for any {use_case} request")
