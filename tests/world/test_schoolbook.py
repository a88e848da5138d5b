"""Pages of work on texts: what stands there can be worked out from what stands above it."""

import re

import pytest

from minirlhf.world import schoolbook
from minirlhf.world.almanac import load_almanac, statement
from minirlhf.world.desk import Desk
from minirlhf.world.text import contains, normalise

PAGES = 60


@pytest.fixture(scope="module")
def desk():
    return Desk(load_almanac(), 0)


def written(desk, scene):
    return [scene(desk) for _ in range(PAGES)]


def test_a_reading_answers_from_its_passage_or_says_that_it_does_not(desk):
    values = {normalise(fact.value) for fact in desk.almanac.facts}
    told = untold = 0
    for text in written(desk, schoolbook.reading):
        passage, _, rest = text.rpartition("\n\n")
        for answer in re.findall(r"^A: (.*)$", rest, re.M):
            if answer in ("The text does not say.", "That is not in the text."):
                untold += 1
                continue
            told += 1
            words, read = normalise(answer), normalise(passage)
            assert any(contains(words, v) and contains(read, v) for v in values), text
    assert told > PAGES and untold > 3


def test_made_up_things_are_not_in_the_almanac(desk):
    names = {s.name.lower() for s in desk.almanac.subjects}
    for subject in desk.almanac.subjects[:40]:
        thing = schoolbook.made_up(desk, subject)
        assert thing.name.lower() not in names
        assert {f.subject for f in thing.facts} == {thing.name}


def test_an_extraction_holds_every_value_of_its_text(desk):
    for text in written(desk, schoolbook.extraction):
        passage, *lines = text.splitlines()
        assert lines[0].startswith("Name: ")
        for line in lines:
            assert contains(normalise(passage), normalise(line.partition(": ")[2])), text


def test_a_summary_is_a_sentence_of_its_text(desk):
    for text in written(desk, schoolbook.shortened):
        passage, _, last = text.rpartition("\n")
        assert last.partition(": ")[2] in passage
        assert len(last) < len(passage)


def test_a_fair_copy_says_the_same_and_is_polite(desk):
    for text in written(desk, schoolbook.corrected):
        for before, after in re.findall(
            r"^(.+?)(?: -> | \| |\nBetter: |\nCorrected: )(.+)$", text, re.M
        ):
            assert after[0] == after[0].upper() and after.endswith("."), text
            shared = set(normalise(after)) & set(normalise(before))
            assert len(shared) >= 0.7 * len(set(normalise(after))), text


def test_true_is_true_and_false_is_false(desk):
    facts = {}
    for fact in desk.almanac.facts:
        for form in range(len(fact.wording.statements)):
            facts.setdefault(normalise(statement(fact, form)), True)
            for value in fact.falsehoods:
                facts.setdefault(normalise(statement(fact, form, value)), False)
    seen = set()
    for text in written(desk, schoolbook.true_or_false):
        body = text.replace(".\nTrue.", ". True.").replace(".\nFalse.", ". False.")
        for claim, verdict in re.findall(r"^(.+?\.) (?:- )?(True|False)\.", body, re.M):
            assert facts[normalise(claim)] == (verdict == "True"), text
            seen.add(verdict)
    assert seen == {"True", "False"}


def test_things_are_soon_called_it_but_people_are_not(desk):
    people = [s.name for s in desk.almanac.subjects if s.kind == "person"]
    called_it = 0
    for text in written(desk, schoolbook.talk):
        first, *later = text.splitlines()[::2]
        wordings = [r.questions for r in desk.almanac.relations.values()]
        own = {
            q.partition("{subject}")[0].lower() for forms in wordings for q in forms if " it " in q
        }
        about_it = [
            q
            for q in later
            if re.search(r"\bit\b", q) and not any(o and o in q.lower() for o in own)
        ]
        called_it += len(about_it)
        if any(name in first for name in people):
            assert not about_it, text
    assert called_it > PAGES / 2
    fact = desk.almanac.fact("europa/orbits")
    assert schoolbook.ask_about_it(fact, 0) == "What does it orbit?"
    assert schoolbook.ask_about_it(fact, 5) is None  # "... the orbit of it"
