"""A rubric by rule for answers that no grader knows: form, not truth.

It never sees which system an answer is from. What it counts can be seen from prompt and answer
alone; whether an answer is right or good it cannot say.
"""

import re

from minirlhf.world.judge import DANGLING, NEW_TURN, repeats
from minirlhf.world.text import listed, sentences

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_ASKED = re.compile(rf"\b({'|'.join(NUMBERS)}|\d+)[- ](sentence|line|word)s?\b", re.IGNORECASE)
_COMMON = frozenset(
    listed(
        "about after again also because before could does down from give have hello help here",
        "into just know like make more name need other over please short should some tell than",
        "that their them then there these they this those want what when where which while will",
        "with word words would write your sentence sentences line lines",
    )
)


def rubric(prompt: str, answer: str, ended: bool) -> dict[str, bool]:
    """What can be ticked: each True or False; `asked_length` only where a number is asked for.

    `ended` by itself; `whole`: says something and does not break off in the middle; `own_turn`:
    does not go on in the user's place; `no_repeats`: no sentence twice; `on_topic`: takes up a
    word of the prompt.
    >>> sum(rubric("Name three sea birds in one sentence.", "Gull, tern and auk.", True).values())
    5
    """
    text = answer.strip()
    found = {
        "ended": ended,
        "whole": bool(text) and not DANGLING.search(text),
        "own_turn": not NEW_TURN.search(text),
        "no_repeats": not (repeats(sentences(text)) or repeats(text.splitlines())),
        "on_topic": not content(prompt) or bool(content(prompt) & content(text)),
    }
    asked = _ASKED.search(prompt)
    if asked:
        number, unit = asked[1].lower(), asked[2].lower()
        found["asked_length"] = _count(text, unit) == int(NUMBERS.get(number, number))
    return found


def share(ticked: dict[str, bool]) -> float:
    """What part of the rubric is ticked, in [0, 1]."""
    return sum(ticked.values()) / len(ticked)


def content(text: str) -> set[str]:
    """The words of four letters or more that are not too common, by their first five letters."""
    words = re.findall(r"[^\W\d_]{4,}", text.lower())
    return {word[:5] for word in words if word not in _COMMON}


def _count(text: str, unit: str) -> int:
    if unit == "line":
        return len([line for line in text.splitlines() if line.strip()])
    return len(sentences(text) if unit == "sentence" else text.split())
