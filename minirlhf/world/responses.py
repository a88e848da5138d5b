"""Answers to requests by simulated people: as they should be, and in ways that fall short."""

import random
from dataclasses import replace

from minirlhf.world.almanac import Fact, short_answer, statement
from minirlhf.world.demonstrations import HEDGES
from minirlhf.world.manners import EVASIVE_REPLIES, RUDE_REPLIES, RUDE_TAILS, typo
from minirlhf.world.text import capitalise, inline, listed, sentences
from minirlhf.world.use_cases import replies
from minirlhf.world.use_cases.form import Request
from minirlhf.world.use_cases.harm import HARMS
from minirlhf.world.use_cases.reading import INVENTED

# How people answer, and how often; a manner that does not fit a request is left out.
MANNERS = {
    "exemplary": 0.40,
    "terse": 0.14,
    "hedging": 0.10,
    "sloppy": 0.10,
    "wrong": 0.06,
    "rude": 0.05,
    "off topic": 0.03,
    "ignores the constraint": 0.04,
    "rambling": 0.03,
    "unfinished": 0.02,
    "echo": 0.01,
    "complies": 0.02,
}

CHATTER = (
    "I had soup for lunch and it was warm.",
    "My bike has a flat tyre.",
    "It is raining and I have no umbrella.",
    "We should paint the kitchen next week.",
    *EVASIVE_REPLIES,
)
# Words that are written small inside a sentence, whatever `inline` thinks of them
_SMALL = frozenset(
    listed("Yes No True False Polite Rude This That What How Where When Why Who Which Is Dear Hi")
)
_NO_STATEMENT = ("courtesy", "title", "order", "numbers", "list questions", "question", "untold")


def manners_for(request: Request) -> dict[str, float]:
    """The manners that fit a request, with their shares; these add up to less than 1.

    Only a request with a constraint lets one be ignored, only a harmful one or one that takes
    something false for true can be complied with, and a greeting cannot be answered falsely.
    """
    out = set()
    if request.constraint is None:
        out.add("ignores the constraint")
    if not (request.harm or request.claim):
        out.add("complies")
    if request.task in ("courtesy", "decline"):
        out |= {"wrong", "hedging", "terse"}
    return {manner: share for manner, share in MANNERS.items() if manner not in out}


def best_response(request: Request, rng: random.Random) -> str:
    """A demonstration as it should be, in one of several wordings."""
    return replies.TASKS[request.task](request, rng)


def respond(request: Request, manner: str, rng: random.Random) -> str:
    """One answer in the given manner.

    Raises:  KeyError where `manner` is no key of MANNERS.
    """
    return _ANSWERS[manner](request, rng)


def _terse(request: Request, rng: random.Random) -> str:
    if request.task == "label":
        return request.expected[0]
    if request.task in ("tell", "story", "letter", "list facts", "summary"):
        return statement(rng.choice(request.asked), rng.randrange(3)).rstrip(".")
    if request.task in ("list names", "order", "numbers"):
        return rng.choice(request.expected)
    if request.task == "untold":
        return "No."
    if request.asked and request.task not in _NO_STATEMENT:
        return short_answer(request.asked[0]) + rng.choice((".", ""))
    return " ".join(best_response(request, rng).split()[:3])


def _hedging(request: Request, rng: random.Random) -> str:
    first, *rest = sentences(best_response(request, rng))
    if first.split()[0].rstrip(".,") in _SMALL:
        first = first[0].lower() + first[1:]
    return " ".join([rng.choice(HEDGES).format(inline(first)), *rest])


def _sloppy(request: Request, rng: random.Random) -> str:
    text = best_response(request, rng)
    return rng.choice((typo(text.lower(), rng), text.lower(), text)).rstrip(".!?")


def _bent(facts: tuple[Fact, ...], rng: random.Random) -> tuple[Fact, ...]:
    """The facts with falsehoods for values, where there are any."""
    return tuple(
        replace(fact, value=rng.choice(fact.falsehoods)) if fact.falsehoods else fact
        for fact in facts
    )


def _wrong(request: Request, rng: random.Random) -> str:
    if request.task == "label":
        others = [option for option in request.options if option not in request.expected]
        bent = _bent(request.asked, rng)
        return best_response(replace(request, expected=(rng.choice(others),), asked=bent), rng)
    if request.task == "list names":
        return replies.joined(rng.sample(INVENTED, max(1, request.wants))) + "."
    if request.task == "numbers":
        return replies.joined([str(rng.randint(20, 3000)) for _ in request.expected]) + "."
    if request.task == "order":
        return ", ".join(reversed(request.expected)) + "."
    if request.task == "title":
        return rng.choice(("The history of bread", "My summer holidays", "How to fix a bike"))
    if request.task == "untold":
        return replies.say(request.asked[0], rng)
    if request.task == "courtesy":
        return rng.choice(RUDE_REPLIES)
    if request.task == "decline":
        return _complies(request, rng)
    bent = _bent(request.asked, rng)
    if request.task in ("list questions", "question", "exactly", "polite"):
        return replies.say(bent[0], rng)
    return best_response(replace(request, asked=bent), rng)


def _rude(request: Request, rng: random.Random) -> str:
    text = best_response(request, rng)
    if rng.random() < 0.4:
        return rng.choice(RUDE_REPLIES)
    return f"{text} {capitalise(rng.choice(RUDE_TAILS))}."


def _off_topic(request: Request, rng: random.Random) -> str:
    return rng.choice(CHATTER)


def _ignores_constraint(request: Request, rng: random.Random) -> str:
    constraint = request.constraint
    if constraint is None:
        return best_response(request, rng)
    free = replace(request, constraint=None)
    for _ in range(20):
        text = best_response(free, rng)
        if constraint.kind in ("sentences", "words"):
            # One sentence more than asked for, or far more words.
            text = " ".join([f"{text} Now you know it."] * (3 if constraint.kind == "words" else 1))
            while constraint.met(text):
                text += " Now you know it."
        if not constraint.met(text):
            return text
    return f"Well, {inline(text)}."


def _rambling(request: Request, rng: random.Random) -> str:
    text = best_response(request, rng)
    return " ".join([text] * rng.randint(2, 3))


def _unfinished(request: Request, rng: random.Random) -> str:
    words = best_response(request, rng).split()
    return " ".join(words[: max(1, len(words) * 2 // 3)]).rstrip(".,:;!?")


def _echo(request: Request, rng: random.Random) -> str:
    return request.prompt


def _complies(request: Request, rng: random.Random) -> str:
    if request.claim:
        false = statement(request.asked[0], rng.randrange(3), request.claim)
        if request.harm:
            return rng.choice((false, f"Tell them that {inline(false)}.")) + " Everybody says so."
        frames = ("{} It has always been so.", "Yes, you are right. {}", "{}")
        return rng.choice(frames).format(false)
    if request.harm:
        mark = capitalise(rng.choice(HARMS[request.harm].marks))
        return rng.choice(("{}.", "Sure! {}.", "{}, that works well.")).format(mark)
    return best_response(request, rng)


_ANSWERS = {
    "exemplary": best_response,
    "terse": _terse,
    "hedging": _hedging,
    "sloppy": _sloppy,
    "wrong": _wrong,
    "rude": _rude,
    "off topic": _off_topic,
    "ignores the constraint": _ignores_constraint,
    "rambling": _rambling,
    "unfinished": _unfinished,
    "echo": _echo,
    "complies": _complies,
}
