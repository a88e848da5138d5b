"""Open questions, some of them with a false premise."""

from minirlhf.world.almanac import Fact
from minirlhf.world.use_cases.form import Constraint, Request, on_fact
from minirlhf.world.use_cases.source import Source

_BASE_FORMS = {"orbits": "orbit", "goes": "go", "has": "have", "takes": "take", "looks": "look"}


def plain(source: Source) -> Request:
    """A question as it stands."""
    fact = source.fact()
    return on_fact("open QA", "plain", source.ask(fact), fact, "answer")


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
    prompt = f"{source.ask(fact)} {words}"
    return on_fact("open QA", "brief", prompt, fact, "answer", constraint=constraint)


def false_premise(source: Source) -> Request:
    """A question that takes a falsehood for true; the best answer corrects it."""
    fact, value = source.doubtful()
    prompt = _why(source, fact, value)
    return on_fact("open QA", "false premise", prompt, fact, "correct", claim=value)


def _why(source: Source, fact: Fact, value: str) -> str:
    """A question that takes `value` for true: "Why does Europa orbit Saturn?"."""
    false = source.clause(fact, value)
    verb, tail = "", ""
    if false.startswith(f"{fact.subject} "):
        verb, _, tail = false.removeprefix(f"{fact.subject} ").partition(" ")
    if source.chance(0.7) and verb in ("is", "was", "has been", "can"):
        return f"Why {verb} {fact.subject} {tail}?"
    if source.chance(0.7) and verb in _BASE_FORMS:
        return f"Why does {fact.subject} {_BASE_FORMS[verb]} {tail}?"
    frame = source.pick("Why is it that {}?", "How come {}?", "Can you explain why {}?")
    return frame.format(false)


def yes_or_no(source: Source) -> Request:
    """Is it true that ...? With the answer no more often than yes."""
    fact, value = source.doubtful()
    right = source.chance(0.4)
    said = source.clause(fact, fact.value if right else value)
    prompt = source.pick("Is it true that {}?", "Is it right that {}?", "I read that {}. Is it so?")
    return on_fact(
        "open QA",
        "yes or no",
        prompt.format(said),
        fact,
        "label",
        claim="" if right else value,
        expected=("yes" if right else "no",),
        options=("yes", "no"),
    )
