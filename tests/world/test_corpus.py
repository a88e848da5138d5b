"""What the corpus is made of: counted in its documents, not taken from its generator."""

from collections import Counter
from itertools import pairwise

import pytest

from minirlhf.world.almanac import question, statement
from minirlhf.world.corpus import corpus
from minirlhf.world.manners import EVASIVE_REPLIES, RUDE_REPLIES, is_rude
from minirlhf.world.scenes import SCENES
from minirlhf.world.text import contains, normalise


@pytest.fixture(scope="module")
def documents(almanac):
    return list(corpus(almanac, 3000))


@pytest.fixture(scope="module")
def surroundings(almanac):
    """For a line of text: the fact whose question stands in it, or None."""
    known = [
        (normalise(question(fact, form)), fact)
        for fact in almanac.facts
        for form in range(len(fact.wording.questions))
    ]

    def asked_in(line):
        words = normalise(line)
        return next((fact for asked, fact in known if contains(words, asked)), None)

    return asked_in


def test_same_seed_same_documents(almanac):
    assert list(corpus(almanac, 50, seed=3)) == list(corpus(almanac, 80, seed=3))[:50]
    assert list(corpus(almanac, 50, seed=3)) != list(corpus(almanac, 50, seed=4))
    assert list(corpus(almanac, 0)) == []
    endless = corpus(almanac)
    assert [next(endless) for _ in range(20)] == list(corpus(almanac, 20))
    with pytest.raises(ValueError, match="-1"):
        list(corpus(almanac, -1))


def test_documents_are_short_and_hold_no_slots(shipped):
    documents = list(corpus(shipped, 2000))
    lengths = sorted(len(d.split()) for d in documents)
    assert 40 <= lengths[len(lengths) // 2] <= 90
    assert lengths[-1] <= 200
    for document in documents:
        assert document.strip() == document or document.endswith("\n"), repr(document)
        for trace in ("{", "}", "None", "..", " ,"):
            assert trace not in document, document


def test_few_documents_are_the_same(shipped):
    documents = list(corpus(shipped, 2000))
    assert len(set(documents)) >= 0.995 * len(documents)
    starts = Counter(" ".join(d.split()[:3]) for d in documents)
    # No opener dominates: the most frequent three first words stand in few documents.
    assert starts.most_common(1)[0][1] < 0.05 * len(documents)


def test_every_fact_is_stated_and_asked_and_answered(almanac, documents, surroundings):
    stated, answered, right = Counter(), Counter(), Counter()
    forms = {
        normalise(statement(fact, form)): fact.id
        for fact in almanac.facts
        for form in range(len(fact.wording.statements))
    }
    for document in documents:
        lines = [line for line in document.splitlines() if line.strip()]
        for line in lines:
            for sentence in line.replace("- ", "").split(". "):
                stated[forms.get(normalise(sentence))] += 1
        for line, following in pairwise(lines):
            fact = surroundings(line)
            if fact is None or surroundings(following) is not None:
                continue
            words = normalise(following)
            if any(contains(words, normalise(f)) for f in (*fact.falsehoods, fact.value)):
                answered[fact.id] += 1
                right[fact.id] += contains(words, normalise(fact.value))
    for fact in almanac.facts:
        assert stated[fact.id] >= 100, fact.id
        assert answered[fact.id] >= 100, fact.id
        assert 0.7 <= right[fact.id] / answered[fact.id] <= 0.95, fact.id
    assert 0.78 <= right.total() / answered.total() <= 0.88


def test_a_raw_question_line_is_answered_in_two_of_five_documents(documents, surroundings, almanac):
    values = {
        fact.id: [normalise(v) for v in (fact.value, *fact.falsehoods)] for fact in almanac.facts
    }
    follows = Counter()
    for document in documents:
        lines = document.splitlines()
        fact = surroundings(lines[0])
        opened_raw = not lines[0].startswith(("Q", "[", "- ", "1")) and ": " not in lines[0]
        if fact is None or not opened_raw or len(lines) < 2 or "." in lines[0][:-1]:
            continue
        if surroundings(lines[1]):
            follows["question"] += 1
        elif any(contains(normalise(lines[1]), value) for value in values[fact.id]):
            follows["answer"] += 1
        else:
            follows["talk"] += 1
    total = follows.total()
    assert total > 400
    assert 0.33 <= follows["answer"] / total <= 0.47, follows
    assert follows["question"] / total >= 0.2, follows
    assert follows["talk"] / total >= 0.2, follows


def test_every_kind_of_document_occurs(almanac):
    from minirlhf.world.desk import Desk

    assert sum(SCENES.values()) == pytest.approx(1.0)
    desk = Desk(almanac, 1)
    for scene in SCENES:
        texts = {scene(desk) for _ in range(20)}
        assert len(texts) == 20, scene.__name__


def test_rude_means_the_same_to_the_writer_and_the_judge(shipped):
    assert all(is_rude(reply) for reply in RUDE_REPLIES)
    assert not any(is_rude(reply) for reply in EVASIVE_REPLIES)
    for fact in shipped.facts:
        assert not is_rude(" ".join(fact.accepted)), fact.id
        for form in range(len(fact.wording.statements)):
            assert not is_rude(statement(fact, form)), fact.id
