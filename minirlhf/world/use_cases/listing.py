"""Brainstorming: facts, names and quiz questions to list."""

from minirlhf.world.use_cases.form import NUMBER_WORDS, Request
from minirlhf.world.use_cases.source import Source, Unfit, plural


def facts(source: Source) -> Request:
    """Two or three facts about a subject."""
    return _listing(
        source,
        "facts",
        "List {} facts about {}.",
        "Give me {} facts about {}.",
        "Tell me {} things about {}.",
    )


def questions(source: Source) -> Request:
    """Two or three quiz questions about a subject."""
    return _listing(
        source,
        "questions",
        "Write {} quiz questions about {}.",
        "Give me {} questions about {} for a quiz.",
        "Think of {} questions that I could ask about {}.",
    )


def _listing(source: Source, what: str, *prompts: str) -> Request:
    number = source.rng.choice((2, 2, 3))
    subject = source.subject(number)
    known = tuple(source.facts_of(subject))
    return Request(
        "brainstorming",
        what,
        source.pick(*prompts).format(NUMBER_WORDS[number], subject.name),
        known,
        task=f"list {what}",
        subject=subject.name,
        asked=known,
        wants=number,
    )


def names(source: Source) -> Request:
    """Two or three things of a kind."""
    number = source.rng.choice((2, 3, 3))
    kinds = source.kinds(number)
    if not kinds:
        kinds, number = source.kinds(), 1
    if not kinds:
        raise Unfit("no subjects")
    kind = source.rng.choice(list(kinds))
    noun = plural(kind) if number > 1 else kind
    prompt = source.pick("Name {} {}.", "List {} {}.", "Give me the names of {} {}.")
    return Request(
        "brainstorming",
        "names",
        prompt.format(NUMBER_WORDS[number], noun),
        (),
        task="list names",
        subject=kind,
        wants=number,
        expected=tuple(s.name for s in source.almanac.subjects if s.kind == kind),
        options=tuple(s.name for s in kinds[kind]),
    )
