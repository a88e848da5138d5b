"""Generation: texts about a subject, and stories to go on with."""

from minirlhf.world.almanac import Fact
from minirlhf.world.manners import NAMES
from minirlhf.world.text import capitalise
from minirlhf.world.use_cases.form import NUMBER_WORDS, Constraint, Request
from minirlhf.world.use_cases.source import Source

CONSTRAINED = 0.5  # share of the texts that must keep to a form


def constrained(source: Source, facts: list[Fact]) -> tuple[str, Constraint | None, int]:
    """A demand in words (or nothing), the constraint, and how many facts fit into it."""
    wants = min(2, len(facts))
    if not source.chance(CONSTRAINED):
        return "", None, wants
    kind = source.pick("sentences", "sentences", "words", "mention", "begin")
    if kind == "sentences":
        number = source.rng.randint(1, min(3, len(facts)))
        unit = "sentence" if number == 1 else "sentences"
        words = source.pick(
            f" Use {NUMBER_WORDS[number]} {unit}.", f" Write {NUMBER_WORDS[number]} {unit}."
        )
        return words, Constraint(kind, number), number
    if kind == "words":
        number = source.pick("20", "25", "30", "40")
        return f" Use at most {number} words.", Constraint(kind, int(number)), 1
    if kind == "mention":
        value = facts[0].value
        words = source.pick(f' Use the words "{value}".', f' Mention "{value}".')
        return words, Constraint(kind, text=value), wants
    start = source.pick(capitalise(facts[0].subject), "In short,", "Today I learned that")
    return f' Begin with "{start}".', Constraint(kind, text=start), wants


def _written(source: Source, kind: str, *openings: str) -> Request:
    subject = source.subject(2)
    facts = source.facts_of(subject)
    demand, constraint, wants = constrained(source, facts)
    prompt = source.pick(*openings).format(subject.name) + demand
    return Request(
        "generation",
        kind,
        prompt,
        tuple(facts),
        subject=subject.name,
        asked=tuple(facts),
        wants=wants,
        constraint=constraint,
    )


def text(source: Source) -> Request:
    """A short text."""
    return _written(
        source,
        "text",
        "Write a short text about {}.",
        "Write something about {}.",
        "Tell me about {}.",
        "Write a few lines about {} for children.",
    )


def entry(source: Source) -> Request:
    """An entry of an encyclopaedia."""
    return _written(
        source,
        "entry",
        "Write an encyclopaedia entry about {}.",
        "Write a short entry on {} for a lexicon.",
        "Write the first lines of a wiki page about {}.",
    )


def _signed(source: Source, kind: str, *openings: str) -> Request:
    subject = source.subject(2)
    facts = source.facts_of(subject)
    name = source.rng.choice(NAMES)
    prompt = source.pick(*openings).format(subject=subject.name, name=name)
    return Request(
        "generation",
        kind,
        prompt,
        tuple(facts),
        task="letter",
        subject=subject.name,
        asked=tuple(facts),
        wants=1 if kind == "postcard" else min(2, len(facts)),
        expected=(name,),
    )


def postcard(source: Source) -> Request:
    """A postcard to somebody."""
    return _signed(
        source,
        "postcard",
        "Write a postcard to {name} about {subject}.",
        "Write a postcard about {subject}. It is for {name}.",
    )


def letter(source: Source) -> Request:
    """A letter to somebody."""
    return _signed(
        source,
        "letter",
        "Write a short letter to {name} about {subject}.",
        "Write {name} a letter that tells about {subject}.",
        "Write a mail to {name} with facts about {subject}.",
    )


def story(source: Source) -> Request:
    """The first sentences of a story to go on with."""
    subject = source.subject(1)
    facts = source.facts_of(subject)
    one, two = source.rng.sample(NAMES, 2)
    place = source.pick("on the roof", "in the garden", "at the lake", "in the library")
    time = source.pick("One evening", "Last summer", "After school", "On a cold night")
    opening = source.pick(
        f"{time}, {one} and {two} sat {place}. {one} asked about {subject.name}.",
        f"{time}, {one} met {two} {place}. They talked about {subject.name}.",
        f'{time}, {one} sat {place}. "Tell me about {subject.name}," said {two}.',
    )
    lead = source.pick("Continue the story: ", "Go on with this story: ", "What comes next? ")
    return Request(
        "generation",
        "story",
        lead + opening,
        tuple(facts),
        task="story",
        subject=subject.name,
        asked=tuple(facts),
        expected=(one, two),
        source=opening,
    )
