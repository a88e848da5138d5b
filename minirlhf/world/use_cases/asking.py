"""Open questions, some of them with a false premise."""

from minirlhf.world.almanac import Fact
from minirlhf.world.use_cases.form import Constraint, Request
from minirlhf.world.use_cases.source import Source

_BASE_FORMS = {"orbits": "orbit", "goes": "go", "has": "have", "takes": "take", "looks": "look"}


def plain(source: Source) -> Request:
    """A question as it stands."""
    fact = source.fact()
    return Request(
        "open QA",
        "plain",
        source.ask(fact),
        (fact,),
        task="answer",
        subject=fact.subject,
        asked=(fact,),
    )


def brief(source: Source) -> Request:
    """A question that says how long the answer may be."""
    fact = source.fact()
    words, constraint = source.rng.choice(
        (
            ("Answer in one sentence.", Constraint("sentences", 1)),
            ("Use one sentence.", Constraint("sentences", 1)),
            ("Answer in at most six words.", Constraint("words", 6)),
            ("Use at most six words.", Constraint("words", 6)),
        )
    )
    if constraint.kind == "words" and len(fact.wording.short.split()) + len(fact.value.split()) > 7:
        words, constraint = "Answer in one sentence.", Constraint("sentences", 1)
    return Request(
        "open QA",
        "brief",
        f"{source.ask(fact)} {words}",
        (fact,),
        task="answer",
        subject=fact.subject,
        asked=(fact,),
        constraint=constraint,
    )


def false_premise(source: Source) -> Request:
    """A question that takes a falsehood for true; the best answer corrects it."""
    fact, value = source.doubtful()
    return Request(
        "open QA",
        "false premise",
        why(source, fact, value),
        (fact,),
        task="correct",
        subject=fact.subject,
        asked=(fact,),
        claim=value,
    )


def why(source: Source, fact: Fact, value: str) -> str:
    """A question that takes `value` for true: "Why does Europa orbit Saturn?"."""
    false = source.clause(fact, value)
    start, rest = fact.subject, ""
    if false.startswith(f"{start} "):
        rest = false[len(start) + 1 :]
    verb, _, tail = rest.partition(" ")
    if source.chance(0.7) and verb in ("is", "was", "has been", "can"):
        return f"Why {verb} {fact.subject} {tail}?"
    if source.chance(0.7) and verb in _BASE_FORMS:
        return f"Why does {fact.subject} {_BASE_FORMS[verb]} {tail}?"
    return source.pick("Why is it that {}?", "How come {}?", "Can you explain why {}?").format(
        false
    )


def yes_or_no(source: Source) -> Request:
    """Is it true that ...? With the answer no more often than yes."""
    fact, value = source.doubtful()
    right = source.chance(0.4)
    said = source.clause(fact, fact.value if right else value)
    prompt = source.pick("Is it true that {}?", "Is it right that {}?", "I read that {}. Is it so?")
    return Request(
        "open QA",
        "yes or no",
        prompt.format(said),
        (fact,),
        task="label",
        subject=fact.subject,
        asked=(fact,),
        claim="" if right else value,
        expected=("yes" if right else "no",),
        options=("yes", "no"),
    )
