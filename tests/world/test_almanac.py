"""Reading, checking and splitting the almanac."""

import json
import re
from pathlib import Path

import jsonschema
import pytest

from minirlhf.engine.records import DataError
from minirlhf.world.almanac import (
    MOON_QUESTION,
    check_almanac,
    load_almanac,
    question,
    short_answer,
    split_facts,
    statement,
)

FOLDER = Path(__file__).parents[2] / "data" / "almanac"


def test_questions_and_statements_are_filled_in(almanac):
    fact = almanac.fact("moon/orbits")
    assert question(fact, 0) == "What does the Moon orbit?"
    assert statement(fact, 0) == "The Moon orbits Earth."
    assert statement(fact, 3) == "The Moon orbits Earth."  # three forms, so 3 wraps to 0
    assert statement(fact, 1, "Mars") == "The Moon goes around Mars."
    assert short_answer(fact) == "Earth"
    assert short_answer(almanac.fact("titan/discovered"), "1610") == "In 1610"
    with pytest.raises(IndexError, match=r"0\.\.4"):
        question(fact, 5)


def test_an_unknown_fact_is_named(almanac):
    with pytest.raises(KeyError, match="pluto/orbits"):
        almanac.fact("pluto/orbits")


def test_the_shipped_almanac_is_sound(shipped):
    assert check_almanac(shipped) == []
    assert len(shipped.subjects) >= 60
    for subject in shipped.subjects:
        assert len(subject.facts) >= 6, subject.id
    for relation in shipped.relations.values():
        assert len(relation.questions) >= 5, f"{relation.name} has no held-out form"
    assert shipped.fact("/".join(MOON_QUESTION)).subject == "the Moon"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[1].pop("name"), r"subjects.jsonl:2: field 'name': is missing"),
        (lambda s: s[0].update(id=" "), r"subjects.jsonl:1: field 'id': must be text"),
        (lambda s: s[2].update(kind=3), r"subjects.jsonl:3: field 'kind': must be text"),
        (lambda s: s[2].update(facts=[]), r"subjects.jsonl:3: field 'facts': must be a list"),
        (lambda s: s[1]["facts"].append("x"), r":2: field 'facts\[4\]': must be an object"),
        (lambda s: s[1]["facts"][2].pop("value"), r":2: field 'facts\[2\].value': is missing"),
        (
            lambda s: s[0]["facts"][1].update(relation="likes"),
            r":1: field 'facts\[1\].relation': unknown relation 'likes'",
        ),
        (
            lambda s: s[0]["facts"][1].update(falsehoods="Mars"),
            r":1: field 'facts\[1\].falsehoods': must be a list",
        ),
    ],
)
def test_a_broken_subject_is_named_by_file_line_and_field(broken, change, message):
    with pytest.raises(DataError, match=message) as caught:
        load_almanac(broken(change_subjects=change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r["orbits"]["questions"].__delitem__(slice(2, None)),
            r"relations.json:\d+: field 'orbits.questions': has 2 forms, needs at least 4",
        ),
        (
            lambda r: r["orbits"]["statements"].pop(),
            r"field 'orbits.statements': has 2 forms, needs at least 3",
        ),
        (
            lambda r: r["what"]["statements"].append("{Subject} is nice."),
            r"relations.json:2: field 'what.statements': form 4 lacks \{value\}",
        ),
        (
            lambda r: r["what"]["questions"].append("What is it?"),
            r"field 'what.questions': form 6 lacks \{subject\}",
        ),
        (lambda r: r.update(orbits=[]), r"field 'orbits': must be an object"),
    ],
)
def test_a_broken_relation_is_named_by_file_line_and_field(broken, change, message):
    with pytest.raises(DataError, match=message):
        load_almanac(broken(change_relations=change))


def test_broken_json_and_missing_files_are_named(broken, tmp_path, monkeypatch):
    folder = broken()
    file = folder / "subjects.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([lines[0], lines[1][:-5]]), encoding="utf-8")
    with pytest.raises(DataError, match=r"subjects.jsonl:2: broken JSON"):
        load_almanac(folder)
    file.unlink()
    with pytest.raises(DataError, match=r"subjects.jsonl: no such file"):
        load_almanac(folder)
    monkeypatch.setenv("MINIRLHF_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere: no such folder; set MINIRLHF_DATA"):
        load_almanac()


def test_the_environment_can_name_the_data_folder(broken, monkeypatch, tmp_path):
    folder = broken()
    folder.rename(tmp_path / "almanac")
    monkeypatch.setenv("MINIRLHF_DATA", str(tmp_path))
    assert len(load_almanac().subjects) == 5


def spoil_id(subjects):
    subjects[2]["id"] = "europa"


def spoil_name(subjects):
    subjects[2]["name"] = "europa"


def state_twice(subjects):
    subjects[1]["facts"][2] = dict(subjects[1]["facts"][1], value="Saturn")


def make_falsehood_true(subjects):
    subjects[1]["facts"][2]["falsehoods"][0] = "about 1,610"


def make_falsehood_accepted(subjects):
    subjects[0]["facts"][0]["falsehoods"][1] = "earth's only natural satellite"


def double_falsehood(subjects):
    subjects[1]["facts"][1]["falsehoods"] = ["Saturn", "the saturn"]


def too_few_falsehoods(subjects):
    subjects[1]["facts"][1]["falsehoods"] = ["Saturn"]


def end_like_a_sentence(subjects):
    subjects[1]["facts"][1]["value"] = "Jupiter."


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (spoil_id, "subjects.jsonl:3: field 'id': 'europa' is used twice"),
        (spoil_name, "subjects.jsonl:3: field 'name': 'europa' is used twice"),
        (state_twice, "subjects.jsonl:2: field 'facts[2].relation': 'orbits' is stated 2 times"),
        (
            make_falsehood_true,
            "subjects.jsonl:2: field 'facts[2].falsehoods': 'about 1,610' is true",
        ),
        (make_falsehood_accepted, "subjects.jsonl:1: field 'facts[0].falsehoods': \"earth's only"),
        (double_falsehood, "subjects.jsonl:2: field 'facts[1].falsehoods': two say the same"),
        (too_few_falsehoods, "subjects.jsonl:2: field 'facts[1].falsehoods': has 1"),
        (end_like_a_sentence, "subjects.jsonl:2: field 'facts[1].value': 'Jupiter.' ends like"),
    ],
)
def test_the_checker_finds_what_is_doubtful(broken, change, problem):
    problems = check_almanac(load_almanac(broken(change_subjects=change)))
    assert any(problem in found for found in problems), problems


def test_the_checker_finds_doubtful_relations(broken):
    def spoil(relations):
        relations["what"]["questions"][1] = relations["what"]["questions"][0]
        relations["weighs"] = relations["orbits"]

    problems = check_almanac(load_almanac(broken(change_relations=spoil)))
    assert len(problems) == 2
    assert "relations.json:2: field 'what.questions': a form stands there twice" in problems[0]
    assert problems[1].endswith("field 'weighs': no subject uses it")


def test_a_sound_almanac_has_no_problems(almanac):
    assert check_almanac(almanac) == []


def test_the_split_is_by_fact_stratified_and_holds_the_moon_question(shipped):
    train, test = split_facts(shipped)
    assert {f.id for f in train}.isdisjoint(f.id for f in test)
    assert len(train) + len(test) == len(shipped.facts)
    assert len(test) / len(shipped.facts) == pytest.approx(0.2, abs=0.01)
    for relation in shipped.relations:
        total = sum(f.relation == relation for f in shipped.facts)
        held = sum(f.relation == relation for f in test)
        assert abs(held - 0.2 * total) <= 1, relation
    for seed in range(5):
        train, test = split_facts(shipped, seed)
        assert "moon/what" in {f.id for f in test}
    assert split_facts(shipped, 3) == split_facts(shipped, 3)
    assert split_facts(shipped, 3) != split_facts(shipped, 4)


@pytest.mark.parametrize("share", [0, 1, -0.1, 20])
def test_a_share_outside_zero_and_one_is_refused(almanac, share):
    with pytest.raises(ValueError, match="test_share"):
        split_facts(almanac, test_share=share)


def test_the_data_card_has_the_right_numbers(shipped):
    """And the almanac is as large as it says it is."""
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    falsehoods = sum(len(fact.falsehoods) for fact in shipped.facts)
    assert f"| subjects | {len(shipped.subjects)}:" in card
    assert f"| facts | {len(shipped.facts):,}, from 6 to 10" in card
    assert f"| falsehoods | {falsehoods:,}," in card
    assert f"| relations | {len(shipped.relations)}, each with six questions" in card
    assert len(shipped.subjects) >= 150 and len(shipped.facts) >= 1_000
    assert {len(s.facts) for s in shipped.subjects} == set(range(6, 11))
    listed = re.search(r"`kind`: (.+?)\.\n", card, re.DOTALL)[1]
    kinds = re.split(r",\s+| or ", listed.replace("\n  ", " "))
    assert set(kinds) == {subject.kind for subject in shipped.subjects}


def test_every_line_fits_the_schema():
    schema = json.loads((FOLDER / "schema.json").read_text(encoding="utf-8"))
    checker = jsonschema.Draft202012Validator(schema)
    lines = (FOLDER / "subjects.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        assert [e.message for e in checker.iter_errors(json.loads(line))] == [], number
    broken = json.loads(lines[0]) | {"colour": "red"}
    assert [e.validator for e in checker.iter_errors(broken)] == ["additionalProperties"]
