"""minirlhf.labeling.rows: the same rows out of every container, and a place for each complaint."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirlhf.engine.records import DataError
from minirlhf.labeling.rows import dialogue, field, read_rows

ROWS = [{"a": "x\u2028y", "n": 1}, {"a": "", "n": 2}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def read(tmp_path, data):
    path = tmp_path / "data"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [(where.removeprefix(str(path)), row) for where, row in read_rows(path)]


@pytest.mark.parametrize(
    "data, numbers",
    [
        (LINES, "1 2"),
        ("\ufeff" + LINES.replace("\n", "\r\n\r\n"), "1 3"),
        (gzip.compress(LINES.encode()), "1 2"),
        (json.dumps(ROWS), "1 1"),
        (" \n[\n" + LINES.replace("\n", ",\n\n") + "\n]\n", "3 5"),
        (gzip.compress(json.dumps(ROWS, indent=2).encode()), "2 6"),
    ],
)
def test_every_container(tmp_path, data, numbers):
    assert read(tmp_path, data) == [
        (f":{n}", row) for n, row in zip(numbers.split(), ROWS, strict=True)
    ]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(), st.text() | st.floats(0, 1))),
    indent=st.none() | st.just(1),
)
def test_an_array_has_the_rows_of_json_loads(tmp_path_factory, rows, indent):
    path = tmp_path_factory.mktemp("array") / "data.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    assert [row for _, row in read_rows(path)] == rows


@pytest.mark.parametrize(
    "data, message",
    [
        ('{"a": 1}\n{"a":', r"data:2: broken JSON: Expecting value at column 6"),
        ('{"a": 1}\n[1]', r"data:2: must be a JSON object, is list"),
        ('[{"a": 1},\n\n 3]', r"data:3: must be a JSON object, is int"),
        ('[{"a": 1}\n{"a": 2}]', r"data:2: broken JSON: ',' or '\]' expected"),
        ('[{"a": 1},\n]', r"data:2: broken JSON: a comma before the end"),
        ('[{"a": 1}', r"data:1: broken JSON: ',' or '\]' expected"),
        ('[{"a": 1}]\n]', r"data:2: broken JSON: text after the end"),
        ('[{"a": 1},\n{"b" 2}]', r"data:2: broken JSON: Expecting ':' delimiter"),
        ("[", r"data:1: broken JSON: Expecting value"),
        (b'{"a": "\xff"}', r"data: is not UTF-8 text \(byte 7\)"),
        (gzip.compress(LINES.encode())[:-9], r"data: broken gzip: "),
        (b"PAR1 and no more", r"data: broken parquet: "),
    ],
)
def test_broken_files_are_named(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, data)


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="nothing: no such file"):
        list(read_rows(tmp_path / "nothing"))
    with pytest.raises(DataError, match="is a folder, not a file"):
        list(read_rows(str(tmp_path)))
    with pytest.raises(DataError, match="row 2: must be a JSON object, is str"):
        list(read_rows([{}, "x"]))


def test_fields_of_a_row():
    row = {"a": {"b": {"c": 1}}, "n": 2, "none": None, "yes": True, "f": 0.5}
    assert field(row, "a.b.c", int) == 1 and field(row, "n", float) == 2
    assert field(row, "none", str, optional=True) is None
    assert field(row, "a.x.y", str, optional=True) is None
    for path, kind, message in [
        ("a.x.y", str, "field 'a.x': is missing"),
        ("none", str, "field 'none': is null"),
        ("none.x", str, "field 'none': is null"),
        ("n.x", str, "field 'n': must be an object, is int"),
        ("f", int, "field 'f': must be a whole number, is float"),
        ("yes", float, "field 'yes': must be a number, is bool"),
    ]:
        with pytest.raises(DataError) as error:
            field(row, path, kind)
        assert str(error.value) == message


def test_dialogues_take_turns():
    def said(*roles):
        return {"m": [{"role": role, "content": role[0]} for role in roles]}

    assert dialogue(said("user", "assistant", "user"), "m") == ("u", "a", "u")
    assert dialogue(said("assistant"), "m", first="assistant") == ("a",)
    with pytest.raises(DataError, match="'m': message 2 is by 'user', not by 'assistant'"):
        dialogue(said("user", "user"), "m")
    with pytest.raises(DataError, match="'m': message 1 is by 'system', not by 'user'"):
        dialogue(said("system", "user"), "m")
    with pytest.raises(DataError, match="'m': message 1 must be an object, is str"):
        dialogue({"m": ["Hi"]}, "m")
