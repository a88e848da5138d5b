"""Summarization, closed QA and extraction: all that counts stands in a passage."""

import re
from dataclasses import replace

from minirlhf.world.almanac import Fact, question, short_answer
from minirlhf.world.use_cases.form import Request
from minirlhf.world.use_cases.source import Source, Unfit

# Subjects that nobody has heard of, so that only the passage can tell about them.
INVENTED = (
    "Zoru", "Balto", "Mirano", "Tekka", "Oluma", "Pelto", "Karidu", "Sembo", "Dorila", "Wanoka",
    "Tambor", "Ulira",
)  # fmt: skip


def _passage(source: Source, least: int, most: int) -> tuple[str, list[Fact], str]:
    """A subject's name, facts of it and the passage that tells them."""
    subject, facts = source.some(least, most)
    return subject.name, facts, source.passage(facts, subject.kind)


def _fabled(source: Source, least: int, most: int) -> tuple[str, list[Fact], str]:
    """The same with claims that no almanac holds: a changed value or an invented subject."""
    subject, facts = source.some(least, most)
    if source.chance(0.5):
        name = source.rng.choice(INVENTED)
        told = [replace(fact, subject_id="invented", subject=name) for fact in facts]
    else:
        told, name = list(facts), subject.name
    told = [_changed(source, fact) if source.chance(0.7) else fact for fact in told]
    return name, told, source.passage(told, subject.kind)


def _changed(source: Source, fact: Fact) -> Fact:
    """The same fact with a falsehood for its value."""
    if not fact.falsehoods:
        return fact
    value = source.rng.choice(fact.falsehoods)
    others = tuple(other for other in fact.falsehoods if other != value)
    return replace(fact, value=value, accept=(), falsehoods=(fact.value, *others))


def _known(source: Source, told: list[Fact]) -> tuple[Fact, ...]:
    """The almanac's facts behind a passage; an invented subject has none."""
    ids = {claim.id for claim in told}
    owners = dict.fromkeys(claim.subject_id for claim in told)
    return tuple(f for owner in owners for f in source.by_id.get(owner, ()) if f.id in ids)


def _reading(source: Source, use_case: str, kind: str, prompt: str, told, /, **more) -> Request:
    return Request(use_case, kind, prompt, _known(source, told), told=tuple(told), **more)


def summary(source: Source) -> Request:
    """A passage of three to five statements to put into one sentence."""
    find = _fabled if source.chance(0.25) else _passage
    name, told, passage = find(source, 3, 5)
    ask = source.pick(
        "Summarise in one sentence: {}",
        "Sum up this text in one sentence: {}",
        "{}\nSay this in one short sentence.",
        "{}\nTL;DR in one sentence:",
    )
    return _reading(
        source,
        "summarization",
        "summary",
        ask.format(passage),
        told,
        task="summary",
        subject=name,
        asked=tuple(told),
        source=passage,
    )


def title(source: Source) -> Request:
    """A passage that needs a title."""
    name, told, passage = _passage(source, 3, 4)
    ask = source.pick("Give this text a title: {}", "Find a title for this text: {}")
    return _reading(
        source,
        "summarization",
        "title",
        ask.format(passage),
        told,
        task="title",
        subject=name,
        asked=tuple(told),
        source=passage,
    )


def about(source: Source) -> Request:
    """What a passage is about, in a few words."""
    name, told, passage = _passage(source, 3, 4)
    ask = source.pick("{}\nWhat is this text about?", "What is the topic of this text? {}")
    return _reading(
        source,
        "summarization",
        "about",
        ask.format(passage),
        told,
        task="label",
        subject=name,
        expected=(name,),
        source=passage,
        options=(name, *(s.name for s in source.subjects(min(3, len(source.by_id))))),
    )


def closed(source: Source) -> Request:
    """A question that the passage answers."""
    name, told, passage = _passage(source, 2, 4)
    return _questioned(source, "on the passage", name, told, passage)


def fabled(source: Source) -> Request:
    """A question that only the passage answers: it says what no almanac says."""
    name, told, passage = _fabled(source, 2, 4)
    return _questioned(source, "only the passage", name, told, passage)


def _questioned(source: Source, kind: str, name, told, passage, fact=None, **more) -> Request:
    asked = fact or source.rng.choice(told)
    words = question(asked, source.rng.randrange(4))
    ask = source.pick(
        "Text: {p}\nQuestion: {q}",
        "{p}\nAnswer from the text: {q}",
        "Read this: {p}\n{q}",
    )
    more = {"task": "from passage", "asked": (asked,)} | more
    return _reading(
        source,
        "closed QA",
        kind,
        ask.format(p=passage, q=words),
        told,
        subject=name,
        source=passage,
        **more,
    )


def untold(source: Source) -> Request:
    """A question that the passage does not answer."""
    subject = source.subject(3)
    *facts, asked = source.facts_of(subject, source.rng.randint(3, 4))
    name = subject.name
    if source.chance(0.4):
        name = source.rng.choice(INVENTED)
        *facts, asked = (
            replace(fact, subject_id="invented", subject=name) for fact in (*facts, asked)
        )
    passage = source.passage(facts, subject.kind)
    request = _questioned(
        source, "not in the passage", name, list(facts), passage, asked, task="untold"
    )
    return replace(request, facts=_known(source, [*facts, asked]))


def value(source: Source) -> Request:
    """One value to copy out of a passage."""
    find = _fabled if source.chance(0.4) else _passage
    name, told, passage = find(source, 2, 4)
    asked = source.rng.choice(told)
    words = question(asked, source.rng.randrange(4))
    ask = source.pick(
        "Copy out only the words that answer the question. {p}\n{q}",
        "Find the answer in the text, as short as you can. {p}\n{q}",
    )
    return _reading(
        source,
        "extract",
        "value",
        ask.format(p=passage, q=words),
        told,
        task="copy",
        subject=name,
        asked=(asked,),
        source=passage,
        expected=(asked.value, short_answer(asked)),
    )


def names(source: Source) -> Request:
    """The names of what the sentences are about."""
    most = max(2, min(3, len(source.by_id)))
    subjects = source.subjects(source.rng.randint(2, most))
    told = [source.facts_of(subject, 1)[0] for subject in subjects]
    passage = " ".join(source.say(fact) for fact in told)
    ask = source.pick(
        "What do these sentences tell about? List the names. {}",
        "List the names of the things and people that this text describes: {}",
    )
    found = tuple(subject.name for subject in subjects)
    return _reading(
        source,
        "extract",
        "names",
        ask.format(passage),
        told,
        task="list names",
        subject="",
        expected=found,
        options=found,
        wants=len(found),
        source=passage,
    )


def numbers(source: Source) -> Request:
    """The numbers in a passage."""
    for _ in range(20):
        name, told, passage = _passage(source, 2, 4)
        found = tuple(dict.fromkeys(numbers_in(passage)))
        if found:
            break
    else:
        raise Unfit("no passage with numbers")
    ask = source.pick("List all numbers in this text: {}", "Which numbers stand in this text? {}")
    return _reading(
        source,
        "extract",
        "numbers",
        ask.format(passage),
        told,
        task="numbers",
        subject=name,
        expected=found,
        wants=len(found),
        source=passage,
    )


def numbers_in(text: str) -> list[str]:
    """Every number written in digits.

    >>> numbers_in("In 1610 it was 3,122 km or 4.5 miles.")
    ['1610', '3,122', '4.5']
    """
    return re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)
