"""minirlhf.engine.records: a file and what it holds, or one line that says why not."""

import json

import pytest

from minirlhf.engine import records
from minirlhf.engine.records import (
    DataError,
    Demonstration,
    Prompt,
    Ranking,
    as_rows,
    read_records,
    write_records,
    write_text,
)

MIXED = [
    Ranking("Why?", ("a", "b", ""), (2, 1, 1), "Ada", "shorter", "1", "Chat"),
    Ranking("Was ist 月?\u2028Say.", ("Ünï", "c"), (1, 7)),
]


def test_a_round_trip_keeps_everything(tmp_path):
    write_records(tmp_path / "deep" / "r.jsonl", MIXED)
    found = read_records(tmp_path / "deep" / "r.jsonl", Ranking)
    assert found == MIXED
    assert [r.where for r in found] == [f"{tmp_path / 'deep' / 'r.jsonl'}:{n}" for n in (1, 2)]
    said = ("Hello?", "")  # an assistant may have said nothing
    for record in (Prompt("Hi", "7"), Demonstration("Hi", "Hello", "7", "Chat", said)):
        write_records(tmp_path / "one.jsonl", [record])
        assert read_records(tmp_path / "one.jsonl", type(record)) == [record]


def test_rows_have_no_place_and_no_empty_fields(tmp_path):
    write_records(tmp_path / "p.jsonl", [Prompt("Hi", where="elsewhere:3")])
    assert (tmp_path / "p.jsonl").read_bytes() == b'{"prompt": "Hi"}\n'
    assert as_rows(MIXED)[1] == {
        "prompt": "Was ist 月?\u2028Say.", "responses": ("Ünï", "c"), "ranks": (1, 7)
    }  # fmt: skip


def test_blank_lines_are_skipped_but_counted(tmp_path):
    (tmp_path / "p.jsonl").write_text('\n{"prompt": "Hi"}\n\n{"prompt": "Ho"}', encoding="utf-8")
    found = read_records(tmp_path / "p.jsonl", Prompt)
    assert [r.where.rpartition(":")[2] for r in found] == ["2", "4"]


GOOD = {"prompt": "Why?", "responses": ["a", "b", "c"], "ranks": [1, 2, 2]}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"prompt": ""}, "field 'prompt': is empty"),
        ({"prompt": "  \n"}, "field 'prompt': is empty"),
        ({"prompt": 3}, "field 'prompt': must be text, is int"),
        ({"responses": "abc"}, "field 'responses': must be a list, is str"),
        ({"responses": ["a", None, "c"]}, "field 'responses': number 2 is not text"),
        (
            {"responses": ["a"], "ranks": [1]},
            "field 'responses': has 1; a ranking needs at least 2",
        ),
        ({"responses": [], "ranks": []}, "field 'responses': has 0"),
        (
            {"ranks": [1, 2, 3, 4]},
            "field 'ranks': rank number 4 is for a response that is not there",
        ),
        ({"ranks": [1, 2]}, "field 'ranks': response number 3 has no rank"),
        ({"ranks": [1, 1, 1]}, "field 'ranks': all responses are tied"),
        ({"ranks": [0, 1, 2]}, "field 'ranks': number 1 is 0, not 1, 2, 3"),
        ({"ranks": [1, 1.5, 2]}, "field 'ranks': number 2 is 1.5"),
        ({"ranks": [True, 2, 2]}, "field 'ranks': number 1 is True"),
        ({"ranks": 1}, "field 'ranks': must be a list, is int"),
        ({"rank": [1]}, "field 'rank': is unknown; known are"),
    ],
)
def test_bad_rankings_name_file_line_and_field(tmp_path, changes, message):
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | changes), encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_records(file, Ranking)
    assert str(raised.value).startswith(f"{file}:2: {message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"prompt": "Hi"', ":2: broken JSON: "),
        ("['Hi']", ":2: broken JSON: "),
        ('["Hi"]', ":2: must be a JSON object, is list"),
        ('{"response": "Hi"}', ":2: field 'prompt': is missing"),
        ('{"prompt": "Hi"}', ":2: field 'response': is missing"),
        ('{"prompt": "Hi", "response": ""}', ":2: field 'response': is empty"),
        ('{"prompt": "Hi", "response": "a", "where": "x"}', ":2: field 'where': is unknown"),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path, line, message):
    file = tmp_path / "d.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n' + line, encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_records(file, Demonstration)
    assert str(raised.value).startswith(f"{file}{message}")


def test_bad_files_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        read_records(tmp_path / "no.jsonl", Prompt)
    with pytest.raises(DataError, match="is a folder, not a file"):
        read_records(tmp_path, Prompt)
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_records(tmp_path / "latin.jsonl", Prompt)
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no records"):
        read_records(tmp_path / "empty.jsonl", Prompt)


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_an_older_file_survives_a_failure(tmp_path, monkeypatch, step):
    file = tmp_path / "p.jsonl"
    write_records(file, [Prompt("old")])
    before = file.read_bytes()

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.Path if step == "write_text" else records.os, step, full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_records(file, [Prompt("new")])
    assert raised.value.filename == str(file)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]


def test_text_is_written_with_one_kind_of_line_end(tmp_path):
    write_text(tmp_path / "t.txt", "a\nb\n")
    assert (tmp_path / "t.txt").read_bytes() == b"a\nb\n"


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ("Hello?", "field 'history': must be a list, is str"),
        (["Hello?"], "field 'history': has 1 messages; user and assistant take turns"),
        (["", "Hi."], "field 'history': is empty"),
        (["Hello?", 7], "field 'history': message 2 is not text"),
    ],
)
def test_a_broken_history_names_its_line(tmp_path, history, problem):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "And now?", "history": history}) + "\n")
    with pytest.raises(DataError) as error:
        read_records(path, Prompt)
    assert str(error.value).startswith(f"{path}:1: {problem}")
