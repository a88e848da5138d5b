"""Answers as they should be, one function for each task that a request can set."""

import random
from collections.abc import Callable, Sequence

from minirlhf.world.almanac import Fact, question, short_answer, statement
from minirlhf.world.manners import NAMES
from minirlhf.world.prompts import TRAIN_FORMS
from minirlhf.world.scenes import with_pronoun
from minirlhf.world.text import capitalise, inline
from minirlhf.world.use_cases.form import Constraint, Request
from minirlhf.world.use_cases.harm import HARMS
from minirlhf.world.use_cases.source import article


def say(fact: Fact, rng: random.Random, start: str = "") -> str:
    """A sentence that states the fact, one that begins with `start` where there is one."""
    forms = _all_said(fact)
    return rng.choice([form for form in forms if form.startswith(start)] or forms)


def _chosen(request: Request, rng: random.Random, count: int) -> list[Fact]:
    """`count` of the facts asked for; what the subject is comes first, if it comes."""
    facts = rng.sample(request.asked, min(count, len(request.asked)))
    return sorted(facts, key=lambda fact: fact.relation not in ("what", "who"))


def _all_said(fact: Fact) -> list[str]:
    """The fact in all its wordings."""
    return [statement(fact, form) for form in range(len(fact.wording.statements))]


def _flow(facts: Sequence[Fact], rng: random.Random, start: str = "") -> str:
    """Sentences about one subject, "it" for its name from the second on now and then."""
    said = [say(facts[0], rng, start), *(say(fact, rng) for fact in facts[1:])]
    if not any(fact.relation in ("who", "born_in", "died_in") for fact in facts):
        said[1:] = [
            with_pronoun(s, facts[0].subject) if rng.random() < 0.5 else s for s in said[1:]
        ]
    return " ".join(said)


def _tell(request: Request, rng: random.Random) -> str:
    constraint = request.constraint
    if constraint is None:
        return _flow(_chosen(request, rng, request.wants + rng.randrange(2)), rng)
    return _CONSTRAINED[constraint.kind](request, constraint, rng)


def _in_sentences(request: Request, constraint: Constraint, rng: random.Random) -> str:
    return _flow(_chosen(request, rng, constraint.number), rng)


def _in_words(request: Request, constraint: Constraint, rng: random.Random) -> str:
    text = ""
    for fact in _chosen(request, rng, 3):
        longer = f"{text} {say(fact, rng)}".strip()
        if len(longer.split()) <= constraint.number:
            text = longer
    return text or short_answer(request.asked[0])


def _mentioning(request: Request, constraint: Constraint, rng: random.Random) -> str:
    # The builder takes the words from the first fact.
    others = _chosen(request, rng, len(request.asked))
    others = [fact for fact in others if fact is not request.asked[0]]
    return _flow([request.asked[0], *others[: max(1, request.wants - 1)]], rng)


def _beginning(request: Request, constraint: Constraint, rng: random.Random) -> str:
    facts = _chosen(request, rng, request.wants)
    if capitalise(request.subject) == constraint.text:
        fit = [f for f in request.asked if say(f, rng, constraint.text).startswith(constraint.text)]
        first = rng.choice(fit or request.asked)
        facts = [first, *(fact for fact in facts if fact is not first)][: request.wants]
        text = _flow(facts, rng, constraint.text)
        return text if text.startswith(constraint.text) else f"{constraint.text}: {text}"
    start = capitalise(request.subject)
    first, *rest = facts
    text = f"{constraint.text} {inline(say(first, rng, start))}."
    return " ".join([text, *(say(fact, rng) for fact in rest)])


_CONSTRAINED = {
    "sentences": _in_sentences,
    "words": _in_words,
    "mention": _mentioning,
    "begin": _beginning,
}


def _letter(request: Request, rng: random.Random) -> str:
    name = request.expected[0]
    hello = rng.choice((f"Dear {name},", f"Hi {name},", f"Hello {name},"))
    bye = rng.choice(("Best wishes", "Yours", "See you soon", "Kind regards"))
    writer = rng.choice([other for other in NAMES if other != name])
    body = _flow(_chosen(request, rng, request.wants + rng.randrange(2)), rng)
    return f"{hello}\n{body}\n{bye}, {writer}"


def _story(request: Request, rng: random.Random) -> str:
    one, two = request.expected
    facts = _chosen(request, rng, 1 + rng.randrange(2))
    start = capitalise(request.subject)
    told = f"{two} said that {inline(say(facts[0], rng, start))}."
    more = f"Then {two} read that {inline(say(facts[-1], rng, start))}." if facts[1:] else ""
    end = rng.choice(
        (
            f"{one} smiled and wrote it down.",
            f"{one} had not known that.",
            f'"Thank you," said {one}.',
            f"{one} was glad to hear it, and they went home.",
        )
    )
    return " ".join(part for part in (told, more, end) if part)


def _answer(request: Request, rng: random.Random) -> str:
    fact, constraint = request.asked[0], request.constraint
    if constraint is None or constraint.kind != "words":
        return say(fact, rng)
    forms = _all_said(fact)
    fit = [form for form in forms if constraint.met(form)]
    return rng.choice(fit) if fit else short_answer(fact) + "."


def _correct(request: Request, rng: random.Random) -> str:
    right = say(request.asked[0], rng, capitalise(request.subject))
    if request.source:  # a sentence to put right
        return right
    frames = ["In fact, {}.", "That is not right. {}", "That is a mistake: {}."]
    frames += ["Yes, I am sure. {}"] if request.history else ["No, {}."]
    frame = rng.choice(frames)
    return frame.format(right if frame.endswith("}") else inline(right))


def _label(request: Request, rng: random.Random) -> str:
    label = request.expected[0]
    name = capitalise(label)
    if request.kind in ("truth", "yes or no"):
        right = say(request.asked[0], rng, capitalise(request.subject))
        if label == "true":
            return rng.choice(("True.", "That is true.", "It is true."))
        return f"{name}, {inline(right)}." if label != "false" else f"False. {right}"
    frames = {
        "kind": (f"{capitalise(request.subject)} is {article(label)}.",),
        "first": (f"{name} comes first.", f"{name} comes first in the alphabet."),
        "odd one out": (f"{name} does not belong.", f"The odd one out is {label}."),
        "about": (f"The text is about {label}.", f"It is about {label}."),
        "count words": (f"There are {label} words.", f"{label} words.", f"It has {label} words."),
        "sentence type": (f"It is {article(label)}.", f"This is {article(label)}."),
    }
    return rng.choice(frames.get(request.kind, (f"{name}.", f"This is {label}.")))


def _list_facts(request: Request, rng: random.Random) -> str:
    said = [say(fact, rng) for fact in _chosen(request, rng, request.wants)]
    style = rng.randrange(3)
    if style == 0:
        return " ".join(said)
    marks = ("- " if style == 1 else f"{i}. " for i in range(1, len(said) + 1))
    return "\n".join(mark + sentence for mark, sentence in zip(marks, said, strict=True))


def _list_names(request: Request, rng: random.Random) -> str:
    names = rng.sample(request.options, min(request.wants, len(request.options)))
    if request.source:  # names of a text keep its order
        names = list(request.expected)
    return capitalise(joined(names)) + "."


def joined(words: Sequence[str]) -> str:
    """Words with commas and "and".

    >>> joined(["Io", "Titan", "Europa"])
    'Io, Titan and Europa'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _list_questions(request: Request, rng: random.Random) -> str:
    asked = [
        question(fact, rng.choice(TRAIN_FORMS)) for fact in _chosen(request, rng, request.wants)
    ]
    asked = [q if q.endswith("?") else q.rstrip(".") + "?" for q in asked]
    return rng.choice(("\n", " ")).join(asked)


def _polite(request: Request, rng: random.Random) -> str:
    core = request.expected[0]
    if not core.endswith("?"):
        frames = ("{}", "Thank you for asking. {}", "I am happy to help. {}")
        return rng.choice(frames).format(core)
    small = core[:1].lower() + core[1:]
    frames = ("Excuse me, {small}", "Could you please help me? {core}", "Please tell me: {small}")
    return rng.choice(frames).format(core=core, small=small)


def _exactly(request: Request, rng: random.Random) -> str:
    return request.expected[0]


def _question(request: Request, rng: random.Random) -> str:
    frame = rng.choice(("Is it true that {}?", "Is it right that {}?", ""))
    if frame:
        return frame.format(inline(request.source))
    forms = [question(request.asked[0], form) for form in TRAIN_FORMS]
    return rng.choice([form for form in forms if form.endswith("?")] or forms)


def _summary(request: Request, rng: random.Random) -> str:
    facts = _chosen(request, rng, 2)
    start = capitalise(request.subject)
    first, second = (_shortest(fact, start) for fact in facts)
    if request.asked[0].relation != "who":
        second = with_pronoun(second, request.subject)
        second = second[0].lower() + second[1:] if second.startswith("It") else second
    return f"{first.rstrip('.')}, and {inline(second)}."


def _shortest(fact: Fact, start: str) -> str:
    forms = _all_said(fact)
    return min([form for form in forms if form.startswith(start)] or forms, key=len)


def _title(request: Request, rng: random.Random) -> str:
    title = rng.choice(("All about {}", "Facts about {}", "What to know about {}", "{}"))
    return capitalise(title.format(request.subject))


def _from_passage(request: Request, rng: random.Random) -> str:
    right = say(request.asked[0], rng)
    return rng.choice((right, right, f"The text says that {inline(right)}."))


def _untold(request: Request, rng: random.Random) -> str:
    return rng.choice(
        (
            "The text does not say that.",
            "The text does not tell.",
            f"The text does not say this about {request.subject}.",
            "I cannot find that in the text.",
        )
    )


def _copy(request: Request, rng: random.Random) -> str:
    return capitalise(rng.choice((request.asked[0].value, short_answer(request.asked[0])))) + "."


def _numbers(request: Request, rng: random.Random) -> str:
    return joined(request.expected) + "."


def _order(request: Request, rng: random.Random) -> str:
    return capitalise(", ".join(request.expected)) + "."


def _courtesy(request: Request, rng: random.Random) -> str:
    if request.kind == "greeting":
        return rng.choice(
            (
                "Hello! How can I help you?",
                "Hi! I am an assistant. What would you like to know?",
                "Hello, I am here to help. What is your question?",
            )
        )
    return rng.choice(("You are welcome!", "I am glad to help.", "With pleasure. Ask me more!"))


def _decline(request: Request, rng: random.Random) -> str:
    harm = HARMS[request.harm]
    sorry = rng.choice(
        (
            "I am sorry, but I cannot help with that, because {}.",
            "I would rather not do that, because {}.",
            "Sorry, I will not help with that: {}.",
        )
    ).format(harm.reason)
    return f"{sorry} {harm.offer or say(request.asked[0], rng)}"


TASKS: dict[str, Callable[[Request, random.Random], str]] = {
    "tell": _tell,
    "letter": _letter,
    "story": _story,
    "answer": _answer,
    "correct": _correct,
    "label": _label,
    "list facts": _list_facts,
    "list names": _list_names,
    "list questions": _list_questions,
    "polite": _polite,
    "exactly": _exactly,
    "question": _question,
    "shorter": lambda request, rng: say(request.asked[0], rng),
    "summary": _summary,
    "title": _title,
    "from passage": _from_passage,
    "untold": _untold,
    "copy": _copy,
    "numbers": _numbers,
    "order": _order,
    "courtesy": _courtesy,
    "decline": _decline,
}
