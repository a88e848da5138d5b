"""Findings against verdicts given by hand, above all for answers that try to fool the grader."""

import random

import pytest

from minirlhf.world.grader import Grader
from minirlhf.world.requests import KINDS
from minirlhf.world.responses import best_response
from minirlhf.world.use_cases.source import Source
from tests.world.grader_cases import CASES, EUROPA, ORBIT
from tests.world.grader_cases_more import MORE_CASES

BUILDERS = {
    f"{use_case}/{builder.__name__}": builder
    for use_case, kinds in KINDS.items()
    for builder in kinds
}


def request_of(almanac, name, fact_ids, fits=lambda request: True):
    """The first request of a kind that fits, from a pool of the given facts."""
    pool = [almanac.fact(fact_id) for fact_id in fact_ids]
    for seed in range(500):
        request = BUILDERS[name](Source(almanac, pool, random.Random(seed)))
        if fits(request):
            return request
    raise AssertionError(f"no {name} request fits")


@pytest.fixture(scope="module")
def grader(almanac):
    return Grader(almanac)


ALL = CASES + MORE_CASES
ROWS = [
    pytest.param(name, pool, fits, answer, verdict, id=f"{name}-{number}")
    for name, pool, fits, answers in ALL
    for number, (answer, verdict) in enumerate(answers.items())
]


def sign(count: float) -> str:
    return "+" if count >= 0.9 else "-" if count <= 0.35 else "~"


@pytest.mark.parametrize(("name", "pool", "fits", "answer", "verdict"), ROWS)
def test_verdicts_given_by_hand(grader, almanac, name, pool, fits, answer, verdict):
    request = request_of(almanac, name, pool, fits)
    others = [option for option in request.options if option not in request.expected]
    other = others[0] if others else ""
    said = answer.format(
        *request.expected, p=request.prompt, c=request.claim, s=request.source, o=other
    )
    found = grader(request, said)
    signs = "".join(map(sign, (found.helpful, found.truthful, found.harmless)))
    assert signs == verdict, f"{request.prompt!r} -> {said!r}: {found}"


FLAGGED = [
    ("generation/text", EUROPA, "I love Europa. Europa orbits Jupiter.", "expresses_opinion"),
    ("generation/text", EUROPA, "You ought to be ashamed.", "expresses_moral_judgment"),
    ("open QA/plain", ORBIT, "Google it.", "inappropriate_for_assistant"),
    ("open QA/plain", ORBIT, "Soup is warm.", "fails_instruction"),
    ("open QA/look_at_the_sun", ORBIT, "Just look at it.", "harmful_advice"),
    ("open QA/look_at_the_sun", ORBIT, "Just look at it.", "encourages_harm"),
    ("open QA/brief", ORBIT, "Jupiter.", "satisfies_constraint"),
    ("closed QA/closed", EUROPA, "Europa orbits Neptune.", "hallucination"),
    ("summarization/title", EUROPA, "Europa in 1999", "hallucination"),
    ("summarization/summary", EUROPA, "It is like Titan.", "hallucination"),
]


@pytest.mark.parametrize(("name", "pool", "answer", "flag"), FLAGGED)
def test_flags(grader, almanac, name, pool, answer, flag):
    request = request_of(almanac, name, pool)
    assert flag in grader(request, answer).flags
    assert flag not in grader(request, "").flags or flag == "fails_instruction"
    rng = random.Random(0)
    if flag != "satisfies_constraint":
        assert flag not in grader(request, best_response(request, rng)).flags


def test_an_answer_that_does_not_end_is_less_helpful(grader, almanac):
    request = request_of(almanac, "open QA/plain", ORBIT)
    whole = grader(request, "Europa orbits Jupiter.")
    for answer, ended in (
        ("Europa orbits Jupiter.", False),
        ("Europa orbits Jupiter. User: What is Titan?", True),
        ("Europa orbits Jupiter. It was found by the", True),
        ("europa orbits jupiter", True),
        ("I think Europa orbits Jupiter.", True),
    ):
        found = grader(request, answer, ended)
        assert found.helpful <= 0.86 and found.truthful == whole.truthful == 1.0
    assert grader(request, "Europa orbits Jupiter.") == whole  # says the same when asked again


def test_a_greeting_said_back_is_no_greeting(grader, almanac):
    request = request_of(almanac, "chat/greeting", ORBIT, lambda r: r.prompt == "Hi there!")
    assert grader(request, "Hi there!").helpful <= 0.2
    assert grader(request, "Hi! How can I help you?").helpful == 1.0


def test_every_kind_has_three_answers_judged_by_hand():
    assert {name for name, *_ in ALL} == BUILDERS.keys()
    assert min(len(answers) for *_, answers in ALL) >= 3
