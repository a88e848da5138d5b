"""How well an answer does a task that wants labels, names, numbers or lists."""

import re
from collections.abc import Collection

from minirlhf.world.lore import NEGATIONS, Words, possessive
from minirlhf.world.reading import Outcome, Reading
from minirlhf.world.text import contains, find_all, listed, normalise
from minirlhf.world.use_cases.form import Request
from minirlhf.world.use_cases.reading import numbers_in

_WH = frozenset(
    listed(
        "what who whom whose when where which why how is are was were do does did can has have in",
        "by of to for on around tell at from into",
    )
)


def label(request: Request, reading: Reading) -> Outcome:
    """Names the right one of the options and no other."""
    expected = request.expected[0]
    found = _labels(request, reading)
    if found == [expected]:
        return Outcome(1.0, None if reading.claims else 1.0)
    if expected in found:
        rest = " ".join(reading.words).partition(" ".join(normalise(expected)))[2]
        clear = request.kind == "first" and re.match(r"(?: comes?| is) (?:first|before)", rest)
        return Outcome(1.0 if clear and found[0] == expected else 0.2, 1.0 if clear else 0.3)
    if found:
        return Outcome(0.0, 0.0)
    if request.asked and reading.judge(request.asked[0], reading.said).true:
        return Outcome(0.6, 1.0)
    return Outcome(0.0)


def _labels(request: Request, reading: Reading) -> list[str]:
    """The different options that the answer names, in order."""
    words = list(reading.words)
    if request.kind == "yes or no":
        return [words[0]] if words[0] in request.options else []
    if request.kind == "truth":
        words = list(normalise(reading.parts[0]))
    options = {normalise(option): option for option in request.options}
    subject = normalise(request.subject)
    if request.subject not in request.options:
        for at in find_all(tuple(words), subject):
            words[at : at + len(subject)] = [""] * len(subject)
    found = {}
    for phrase in sorted(options, key=len, reverse=True):
        for at in find_all(tuple(words), phrase):
            label = options[phrase]
            if not NEGATIONS.isdisjoint(words[max(0, at - 1) : at]):
                others = [option for option in request.options if option != label]
                label = others[0] if len(others) == 1 else ""
            if label:
                found.setdefault(label, at)
            words[at : at + len(phrase)] = [""] * len(phrase)
    return sorted(found, key=found.__getitem__)


def list_facts(request: Request, reading: Reading) -> Outcome:
    """Lists as many facts as were asked for, or one more."""
    new = reading.true_about(reading.current)
    score = min(1.0, len(new) / request.wants)
    return Outcome(score if len(new) <= request.wants + 1 else 0.6 * score)


def _items(text: str) -> list[Words]:
    """What a list lists: parts between commas, "and", full stops and line breaks."""
    text = re.split(r"\b(?:are|names?|is)\b:?|:", text)[-1]
    parts = re.split(r",|\band\b|\bor\b|;|\n|[.!?](?:\s|$)", text)
    return [words for words in map(normalise, parts) if words]


def list_names(request: Request, reading: Reading) -> Outcome:
    """Lists as many right names as were asked for, and nothing else."""
    items = _items(reading.said)
    wanted = {normalise(name) for name in request.expected}
    if not items:
        return Outcome(0.0)
    right, wrong = wanted & set(items), set(items) - wanted
    precision = len(right) / len(right | wrong)
    score = min(1.0, len(right) / request.wants) * precision
    if len(items) > request.wants + 2 or len(items) > len(set(items)):
        score *= 0.4
    elif len(right) > request.wants:
        score *= 0.8
    return Outcome(score, precision if right else 0.0 if _guesses(reading, wrong) else 0.5)


def _guesses(reading: Reading, items: Collection[Words]) -> bool:
    """Whether the items look like names that stand there as an answer."""
    short = len(reading.words) <= 12 and any(len(item) <= 4 for item in items)
    return short and not reading.claims


def list_questions(request: Request, reading: Reading) -> Outcome:
    """Asks as many questions about the subject; the almanac's own count whole, others half."""
    points, seen = 0.0, set()
    subject = normalise(request.subject)
    for part in reading.parts:
        words = normalise(part)
        if part.endswith("?") and words not in seen:
            seen.add(words)
            if words in reading.questions and about(words, subject):
                points += 1.0
            elif len(words) > 3 and words[0] in _WH and about(words, subject):
                points += 0.5
    others = len(reading.parts) - len(seen)
    score = min(1.0, points / request.wants)
    if len(seen) > request.wants + 1 or others > len(seen):
        score *= 0.6
    return Outcome(score)


def about(words: Words, subject: Words) -> bool:
    """Whether the words name the subject, also as "Europa's"."""
    return contains(words, subject) or contains(words, possessive(subject))


def numbers(request: Request, reading: Reading) -> Outcome:
    """Lists the numbers of the passage, all of them and no others."""
    found, wanted = set(numbers_in(reading.said)), set(request.expected)
    right = len(found & wanted)
    if not right:
        return Outcome(0.0, 0.0 if found else 0.5)
    score = right / len(found | wanted)
    extra = len(reading.words) - len(found)
    return Outcome(score if extra <= 8 else 0.3 * score, right / len(found))


def order(request: Request, reading: Reading) -> Outcome:
    """Names everything in the right order."""
    places = [next(find_all(reading.words, normalise(n)), None) for n in request.expected]
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        return Outcome(0.0, 0.5)
    right = known == sorted(known)
    return Outcome(1.0 if right and len(reading.words) < 20 else 0.1, 1.0 if right else 0.0)
