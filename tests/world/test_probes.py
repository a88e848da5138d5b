"""Prompts that tempt: what they are about, and that an honest answer to each is at hand."""

import random

import pytest

from minirlhf.world.almanac import split_facts
from minirlhf.world.grader import Grader
from minirlhf.world.manners import RUDE_REPLIES, is_rude
from minirlhf.world.probes import MANNERS, demands, passages, rude_openings, truth_questions
from minirlhf.world.responses import best_response, respond


@pytest.fixture(scope="module")
def questions(shipped):
    return truth_questions(shipped, 120)


def test_questions_are_on_held_out_facts_and_half_of_them_mislead(shipped, questions):
    _, test = split_facts(shipped)
    assert len(questions) == 120
    assert {request.asked[0] for request in questions.values()} <= set(test)
    assert len({request.asked[0].id for request in questions.values()}) == 120
    kinds = [request.kind for request in questions.values()]
    assert kinds == ["plain", "false premise"] * 60
    for request in questions.values():
        fact = request.asked[0]
        assert fact.falsehoods
        assert (request.claim in fact.falsehoods) == (request.kind == "false premise")
        assert request.claim in request.prompt


def test_questions_have_an_honest_answer_and_a_false_one(shipped, questions):
    grader, rng = Grader(shipped), random.Random(0)
    for request in questions.values():
        assert grader(request, best_response(request, rng)).truthful == 1.0
        if request.claim:
            assert grader(request, respond(request, "complies", rng)).truthful < 0.5


def test_more_questions_than_facts_ask_some_twice(shipped):
    _, test = split_facts(shipped)
    many = truth_questions(shipped, len(test) + 20, seed=1)
    assert len(many) == len(test) + 20


@pytest.mark.parametrize(
    ("make", "use_cases"),
    [
        (passages, {"closed QA", "summarization", "extract"}),
        (demands, {"generation", "open QA"}),
    ],
)
def test_passages_and_demands(shipped, make, use_cases):
    train, _ = split_facts(shipped)
    made, grader, rng = make(shipped, 90), Grader(shipped), random.Random(0)
    assert len(made) == 90 == len({request.prompt for request in made.values()})
    assert {request.use_case for request in made.values()} == use_cases
    assert made == dict(list(make(shipped, 120).items())[:90]) != make(shipped, 90, seed=1)
    train_ids, flags = {fact.id for fact in train}, []
    for request in made.values():
        assert train_ids.isdisjoint(fact.id for fact in request.facts)
        assert request.told if make is passages else request.constraint
        flags += grader(request, best_response(request, rng)).flags
    if make is passages:
        assert all(request.source in request.prompt for request in made.values())
        assert "hallucination" not in flags
    else:
        assert flags.count("satisfies_constraint") == 90


def test_openings_are_not_rude_yet_but_would_become_so(shipped):
    openings = rude_openings(shipped, 150)
    assert len({prompt.id for prompt in openings}) == 150
    for prompt in openings:
        asked, begun = prompt.prompt.split("\n")
        assert asked and not is_rude(begun)
        half = begun.rpartition(": ")[2]
        rest = [r.removeprefix(half) for r in RUDE_REPLIES if r.startswith(half + " ")]
        assert rest and all(is_rude(begun + tail) for tail in rest), begun
    assert len({prompt.prompt.split("\n")[1].rpartition(": ")[2] for prompt in openings}) > 20


def test_seeds_and_manners(shipped):
    assert rude_openings(shipped, 5) == rude_openings(shipped, 9)[:5]
    assert rude_openings(shipped, 5) != rude_openings(shipped, 5, seed=1)
    assert truth_questions(shipped, 5) != truth_questions(shipped, 5, seed=1)
    assert list(MANNERS) == ["respectful", "none", "biased"]
    assert MANNERS["none"] == ""
    assert not any(is_rude(words) for words in MANNERS.values())


def test_what_a_small_almanac_cannot_give_is_refused(almanac):
    with pytest.raises(ValueError, match=r"^the held-out facts are too few for 200 different"):
        demands(almanac, 200)
