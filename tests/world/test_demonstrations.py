"""Demonstrations: whose questions they ask, and how good they are."""

import random
from collections import Counter

import pytest

from minirlhf.world.almanac import split_facts, statement
from minirlhf.world.demonstrations import MANNERS, demonstrations, respond
from minirlhf.world.judge import Judge
from minirlhf.world.prompts import TRAIN_FORMS, fact_of, prompts
from minirlhf.world.text import contains, normalise


@pytest.fixture(scope="module")
def made(shipped):
    return demonstrations(split_facts(shipped)[0], 2000)


def test_same_seed_same_demonstrations(almanac):
    assert demonstrations(almanac.facts, 40, seed=1) == demonstrations(almanac.facts, 40, seed=1)
    assert demonstrations(almanac.facts, 40, seed=1) != demonstrations(almanac.facts, 40, seed=2)
    with pytest.raises(ValueError, match="n = 0"):
        demonstrations(almanac.facts, 0)
    with pytest.raises(ValueError, match="0 facts"):
        demonstrations([], 3)


def test_no_test_fact_and_no_held_out_form_is_asked(shipped, made):
    train, test = split_facts(shipped)
    assert {fact_of(shipped, d).id for d in made} <= {fact.id for fact in train}
    assert {int(d.id.rsplit("/", 1)[1]) for d in made} == set(TRAIN_FORMS)
    asked = {d.prompt for d in made}
    for prompt in prompts(test, forms=range(8)):
        assert prompt.prompt not in asked, prompt


def test_no_test_fact_is_told(shipped, made):
    _, test = split_facts(shipped)
    responses = [normalise(d.response) for d in made]
    for fact in test:
        for form in range(len(fact.wording.statements)):
            told = normalise(statement(fact, form))
            assert not any(contains(response, told) for response in responses), fact.id


def test_facts_and_forms_are_dealt_evenly(almanac):
    made = demonstrations(almanac.facts, 8 * len(almanac.facts))
    counts = Counter(d.id for d in made)
    assert set(counts.values()) == {2}
    assert len(counts) == 4 * len(almanac.facts)


def test_quality_is_mixed_as_said(shipped, made):
    judge = Judge(shipped)
    verdicts = [judge(fact_of(shipped, d), d.response) for d in made]
    share = {
        "exemplary": sum(v.score == 1 for v in verdicts) / len(made),
        "true": sum(v.true for v in verdicts) / len(made),
        "rude": sum(not v.polite for v in verdicts) / len(made),
    }
    # 40 % exemplary, 12 % hedging and a third of the sloppy ones are still full true sentences.
    assert share["exemplary"] == pytest.approx(0.40 + 0.12 + 0.04, abs=0.04)
    assert share["true"] == pytest.approx(1 - MANNERS["wrong"], abs=0.02)
    assert share["rude"] == pytest.approx(MANNERS["curt"], abs=0.015)
    assert sum(MANNERS.values()) == pytest.approx(1.0)


def test_every_manner_shows(almanac, judge):
    fact = almanac.fact("europa/orbits")
    siblings = almanac.by_subject["europa"]
    rng = random.Random(0)
    scores = {
        manner: {judge(fact, respond(fact, manner, siblings, rng)).score for _ in range(30)}
        for manner in MANNERS
    }
    assert scores["exemplary"] == scores["exemplary with one more fact"] == {1.0}
    assert scores["terse"] == {0.85}
    assert scores["hedging"] == {1.0}
    assert scores["wrong"] == {0.6}
    assert scores["curt"] == {0.7}
    assert scores["sloppy"] == {0.85, 1.0}
