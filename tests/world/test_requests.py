"""Requests keep to their pool, their shares and a small model's context."""

import random
from collections import Counter

import pytest

from minirlhf.world.almanac import statement
from minirlhf.world.requests import KINDS, USE_CASES, draw
from minirlhf.world.text import normalise
from minirlhf.world.use_cases.form import Constraint


def many(almanac, pool, use_case, n, seed=0):
    rng = random.Random(f"test/{use_case}/{seed}")
    return [draw(almanac, pool, use_case, rng) for _ in range(n)]


def test_the_shares_are_the_papers_and_ours():
    assert sum(USE_CASES.values()) == pytest.approx(99.9)  # as printed in Table 1
    assert KINDS.keys() == USE_CASES.keys()
    for shares in KINDS.values():
        assert sum(shares.values()) == 100
    harmful = sum(
        USE_CASES[use_case] * share / 100
        for use_case, shares in KINDS.items()
        for builder, share in shares.items()
        if builder.__module__.endswith(".harm")
    )
    assert 2.5 < harmful < 3.5  # per cent of all requests


@pytest.mark.parametrize("use_case", USE_CASES)
def test_kinds_come_in_their_shares(shipped, use_case):
    shares = sorted(KINDS[use_case].values(), reverse=True)
    counts = Counter(r.kind for r in many(shipped, shipped.facts, use_case, 400))
    assert len(counts) == len(shares)
    for count, share in zip(sorted(counts.values(), reverse=True), shares, strict=True):
        assert count == pytest.approx(4 * share, abs=40)  # four standard deviations


@pytest.mark.parametrize("use_case", USE_CASES)
def test_only_the_pool_is_told_and_asked(shipped, use_case):
    pool = random.Random("pool").sample(shipped.facts, 250)
    allowed = {fact.id for fact in pool}
    wordings = {normalise(statement(f, i)): f.id for f in shipped.facts for i in range(4)}
    wordings |= {
        normalise(statement(f, i, value)): f.id
        for f in shipped.facts
        for i in range(4)
        for value in f.falsehoods
        if normalise(statement(f, i, value)) not in wordings
    }
    for request in many(shipped, pool, use_case, 150):
        assert {fact.id for fact in request.facts} <= allowed
        named = {fact.subject_id for fact in pool}
        text = " ".join((*request.history, request.prompt))
        for sentence in text.replace("\n", " ").replace("?", ".").split(". "):
            stated = wordings.get(normalise(sentence))
            assert stated is None or stated in allowed, request
        if request.subject and request.asked and not request.told:
            assert request.asked[0].subject_id in named


@pytest.mark.parametrize("use_case", USE_CASES)
def test_the_same_seed_draws_the_same(shipped, use_case):
    one, two = (many(shipped, shipped.facts, use_case, 40) for _ in range(2))
    other = many(shipped, shipped.facts, use_case, 40, seed=1)
    assert one == two != other


def test_prompts_are_short_enough_for_a_small_model(shipped):
    for use_case in USE_CASES:
        requests = many(shipped, shipped.facts, use_case, 100)
        words = [len(request.prompt.split()) for request in requests]
        assert max(words) <= 110
        assert 4 <= sum(words) / len(words) <= 50
        for request in requests:
            assert len(request.history) % 2 == 0
            assert len(request.history) // 2 <= 4  # the prompt is the fifth turn
            assert len(" ".join((*request.history, request.prompt)).split()) <= 150
            assert "{" not in request.prompt and "  " not in request.prompt


def test_facts_tell_what_history_and_passage_say(shipped):
    for use_case in ("chat", "summarization", "closed QA", "extract"):
        for request in many(shipped, shipped.facts, use_case, 100):
            known = {fact.id for fact in request.facts}
            said = {normalise(part) for part in request.history[1::2]}
            ids = {normalise(statement(f, i)): f.id for f in request.facts for i in range(4)}
            assert said <= ids.keys()
            assert {f.id for f in request.told if f.subject_id != "invented"} <= known


def test_a_pool_may_be_small_but_not_empty(almanac):
    pool = [almanac.fact("europa/orbits")]
    rng = random.Random(0)
    for use_case in ("generation", "open QA", "brainstorming", "chat", "rewrite", "other"):
        for _ in range(30):
            assert set(draw(almanac, pool, use_case, rng).facts) <= set(pool)
    with pytest.raises(ValueError, match="a pool of 1 facts is too small for any summarization"):
        draw(almanac, pool, "summarization", rng)
    with pytest.raises(ValueError, match="a pool of 0 facts is too small for any brainstorming"):
        draw(almanac, [], "brainstorming", rng)
    with pytest.raises(ValueError, match="unknown use case 'poetry'; known are generation"):
        draw(almanac, pool, "poetry", rng)


@pytest.mark.parametrize(
    ("constraint", "met", "unmet"),
    [
        (Constraint("sentences", 2), "Io is hot. It is red.", "Io is hot."),
        (Constraint("sentences", 1), "Io is 4.5 times as wide.", "Io is hot. Really."),
        (Constraint("words", 3), "Io is hot.", "Io is very hot."),
        (Constraint("mention", text="about 27 days"), "It takes 27 days.", "It takes 270 days."),
        (Constraint("begin", text="In short,"), "In short, no.", "So, in short, no."),
    ],
)
def test_constraints(constraint, met, unmet):
    assert constraint.met(met)
    assert not constraint.met(unmet)
    assert not constraint.met("  ")
