"""Summarization, closed QA and extraction: all that counts stands in a passage."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from minirlhf.world.almanac import Fact, short_answer
from minirlhf.world.use_cases.form import Request
from minirlhf.world.use_cases.source import Source, Unfit, running

# Subjects that nobody has heard of, so that only the passage can tell about them.
INVENTED = (
    "Zoru", "Balto", "Mirano", "Tekka", "Oluma", "Pelto", "Karidu", "Sembo", "Dorila", "Wanoka",
    "Tambor", "Ulira",
)  # fmt: skip


class _Passage(NamedTuple):
    """What a text tells and about whom."""

    name: str
    told: tuple[Fact, ...]
    text: str


def _passage(source: Source, least: int, most: int) -> _Passage:
    """Facts of one subject and the passage that tells them."""
    subject, facts = source.some(least, most)
    return _Passage(subject.name, tuple(facts), running(facts, subject.kind, source.rng))


def _fabled(source: Source, least: int, most: int) -> _Passage:
    """The same with claims that no almanac holds: a changed value or an invented subject."""
    subject, told = source.some(least, most)
    name = subject.name
    if source.chance(0.5):
        name = source.rng.choice(INVENTED)
        told = [_of_invented(fact, name) for fact in told]
    told = [_changed(source, fact) if source.chance(0.7) else fact for fact in told]
    return _Passage(name, tuple(told), running(told, subject.kind, source.rng))


def _of_invented(fact: Fact, name: str) -> Fact:
    return replace(fact, subject_id="invented", subject=name)


def _changed(source: Source, fact: Fact) -> Fact:
    """The same fact with a falsehood for its value."""
    if not fact.falsehoods:
        return fact
    value = source.rng.choice(fact.falsehoods)
    others = tuple(other for other in fact.falsehoods if other != value)
    return replace(fact, value=value, accept=(), falsehoods=(fact.value, *others))


def _known(source: Source, told: Sequence[Fact]) -> tuple[Fact, ...]:
    """The almanac's facts behind a passage; an invented subject has none."""
    ids = {claim.id for claim in told}
    owners = dict.fromkeys(claim.subject_id for claim in told)
    return tuple(f for owner in owners for f in source.by_id.get(owner, ()) if f.id in ids)


def _on(
    passage: _Passage,
    source: Source,
    use_case: str,
    kind: str,
    prompt: str,
    task: str,
    *,
    asked: tuple[Fact, ...] = (),
    wants: int = 1,
    expected: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
) -> Request:
    """A request on a passage."""
    return Request(
        use_case,
        kind,
        prompt,
        _known(source, passage.told),
        task=task,
        subject=passage.name,
        asked=asked,
        wants=wants,
        expected=expected,
        options=options,
        source=passage.text,
        told=passage.told,
    )


def summary(source: Source) -> Request:
    """A passage of three to five statements to put into one sentence."""
    passage = (_fabled if source.chance(0.25) else _passage)(source, 3, 5)
    prompt = source.pick(
        "Summarise in one sentence: {}",
        "Sum up this text in one sentence: {}",
        "{}\nSay this in one short sentence.",
        "{}\nTL;DR in one sentence:",
    ).format(passage.text)
    return _on(passage, source, "summarization", "summary", prompt, "summary", asked=passage.told)


def title(source: Source) -> Request:
    """A passage that needs a title."""
    passage = _passage(source, 3, 4)
    ask = source.pick("Give this text a title: {}", "Find a title for this text: {}")
    prompt = ask.format(passage.text)
    return _on(passage, source, "summarization", "title", prompt, "title", asked=passage.told)


def about(source: Source) -> Request:
    """What a passage is about, in a few words."""
    if len(source.by_id) < 2:
        raise Unfit("only one subject to choose from")
    passage = _passage(source, 3, 4)
    ask = source.pick("{}\nWhat is this text about?", "What is the topic of this text? {}")
    name = passage.name
    others = (s.name for s in source.subjects(min(3, len(source.by_id))))
    return _on(
        passage,
        source,
        "summarization",
        "about",
        ask.format(passage.text),
        "label",
        expected=(name,),
        options=(name, *others),
    )


def closed(source: Source) -> Request:
    """A question that the passage answers."""
    passage = _passage(source, 2, 4)
    return _questioned(passage, source, "on the passage", source.rng.choice(passage.told))


def fabled(source: Source) -> Request:
    """A question that only the passage answers: it says what no almanac says."""
    passage = _fabled(source, 2, 4)
    return _questioned(passage, source, "only the passage", source.rng.choice(passage.told))


def _questioned(
    passage: _Passage, source: Source, kind: str, asked: Fact, task: str = "from passage"
) -> Request:
    words = source.ask(asked)
    prompt = source.pick(
        "Text: {p}\nQuestion: {q}",
        "{p}\nAnswer from the text: {q}",
        "Read this: {p}\n{q}",
    ).format(p=passage.text, q=words)
    return _on(passage, source, "closed QA", kind, prompt, task, asked=(asked,))


def untold(source: Source) -> Request:
    """A question that the passage does not answer."""
    subject = source.subject(3)
    facts = source.facts_of(subject, source.rng.randint(3, 4))
    name = subject.name
    if source.chance(0.4):
        name = source.rng.choice(INVENTED)
        facts = [_of_invented(fact, name) for fact in facts]
    *told, asked = facts
    passage = _Passage(name, tuple(told), running(told, subject.kind, source.rng))
    request = _questioned(passage, source, "not in the passage", asked, "untold")
    return replace(request, facts=_known(source, facts))


def value(source: Source) -> Request:
    """One value to copy out of a passage."""
    passage = (_fabled if source.chance(0.4) else _passage)(source, 2, 4)
    asked = source.rng.choice(passage.told)
    words = source.ask(asked)
    prompt = source.pick(
        "Copy out only the words that answer the question. {p}\n{q}",
        "Find the answer in the text, as short as you can. {p}\n{q}",
    ).format(p=passage.text, q=words)
    expected = (asked.value, short_answer(asked))
    return _on(
        passage, source, "extract", "value", prompt, "copy", asked=(asked,), expected=expected
    )


def names(source: Source) -> Request:
    """The names of what the sentences are about."""
    most = max(2, min(3, len(source.by_id)))
    subjects = source.subjects(source.rng.randint(2, most))
    told = tuple(source.facts_of(subject, 1)[0] for subject in subjects)
    passage = _Passage("", told, " ".join(source.say(fact) for fact in told))
    ask = source.pick(
        "What do these sentences tell about? List the names. {}",
        "List the names of the things and people that this text describes: {}",
    )
    found = tuple(subject.name for subject in subjects)
    return _on(
        passage,
        source,
        "extract",
        "names",
        ask.format(passage.text),
        "list names",
        wants=len(found),
        expected=found,
        options=found,
    )


def numbers(source: Source) -> Request:
    """The numbers in a passage."""
    for _ in range(20):
        passage = _passage(source, 2, 4)
        found = tuple(dict.fromkeys(numbers_in(passage.text)))
        if found:
            break
    else:
        raise Unfit("no passage with numbers")
    ask = source.pick("List all numbers in this text: {}", "Which numbers stand in this text? {}")
    prompt = ask.format(passage.text)
    return _on(
        passage,
        source,
        "extract",
        "numbers",
        prompt,
        "numbers",
        wants=len(found),
        expected=found,
    )


def numbers_in(text: str) -> list[str]:
    """Every number written in digits.

    >>> numbers_in("In 1610 it was 3,122 km or 4.5 miles.")
    ['1610', '3,122', '4.5']
    """
    return re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)
