"""Rows of a data file, whatever holds them: JSON Lines, a JSON array, parquet, also gzipped."""

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from minirlhf.engine.records import DataError, json_lines

KINDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def read_rows(source: str | Path | Iterable[Mapping]) -> Iterator[tuple[str, dict]]:
    """The rows of a file or of a `datasets.Dataset`, each with the place to name in a complaint.

    What a file holds is told by its first bytes, not by its name: published files called .json are
    JSON Lines and the other way round. Parquet has no lines, so there the number is the row's.

    Args:    source: path of a file, or rows already loaded (a Dataset or a list of dicts).
    Yields:  (FILE:LINE or "row N", row), numbers from 1.
    Raises:  DataError, one line that names file and line.
    """
    if isinstance(source, Mapping):
        raise DataError(f"the data has several splits ({', '.join(source)}); choose one of them")
    if not isinstance(source, (str, Path)):
        places = ((f"row {number}", row) for number, row in enumerate(source, start=1))
    else:
        path = Path(source)
        data = _read(path)
        if data[:4] == b"PAR1":
            rows = enumerate(_parquet_rows(path, data), start=1)
        else:
            rows = _json_rows(path, data)
        places = ((f"{path}:{number}", row) for number, row in rows)
    for where, row in places:
        if not isinstance(row, Mapping):
            raise DataError(f"{where}: must be a JSON object, is {type(row).__name__}")
        yield where, dict(row)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a file") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: broken gzip: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parquet_rows(path: Path, data: bytes) -> Iterator[dict]:
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(io.BytesIO(data)).iter_batches():
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        line = str(error).splitlines()[0]
        raise DataError(f"{path}: broken parquet: {line}") from None


def _json_rows(path: Path, data: bytes) -> Iterator[tuple[int, Any]]:
    try:
        text = data.decode("utf-8-sig")  # Notepad writes a mark in front
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    if text.lstrip().startswith("["):
        yield from _array_rows(path, text)
    else:
        yield from json_lines(path, text)


def _array_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The elements of one JSON array, each with the line on which it starts."""

    def skip(position: int) -> int:
        while position < len(text) and text[position] in " \t\r\n":
            position += 1
        return position

    def broken(what: str, position: int) -> DataError:
        return DataError(f"{path}:{text.count(chr(10), 0, position) + 1}: broken JSON: {what}")

    decoder = json.JSONDecoder()
    position = skip(text.index("[") + 1)
    line, counted = 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise broken(error.msg, error.pos) from None
        yield line, row
        position = skip(position)
        mark = text[position : position + 1]
        if mark == ",":
            position = skip(position + 1)
            if text[position : position + 1] == "]":
                raise broken("a comma before the end of the list", position)
        elif mark != "]":
            raise broken("',' or ']' expected", position)
    if text[position + 1 :].strip():
        raise broken("text after the end of the list", skip(position + 1))


def field(row: Mapping, path: str, kind: type, optional: bool = False) -> Any:
    """The value at a dotted path of a row, of one kind; None if optional and missing or null.

    Raises:  DataError, "field 'info.post': is missing", or with the kind it has.
    >>> field({"info": {"post": "Hi"}}, "info.post", str)
    'Hi'
    """
    value, place = row, ""
    for name in path.split("."):
        if not isinstance(value, Mapping):
            raise DataError(f"field '{place}': must be an object, is {type(value).__name__}")
        place = f"{place}.{name}" if place else name
        if value.get(name) is None:
            if optional:
                return None
            raise DataError(f"field '{place}': is {'null' if name in value else 'missing'}")
        value = value[name]
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise DataError(f"field '{path}': must be {KINDS[kind]}, is {type(value).__name__}")
    return value


def dialogue(row: Mapping, name: str, first: str = "user") -> tuple[str, ...]:
    """The texts of a column of messages [{"role", "content"}], user and assistant in turn.

    Raises:  DataError that names column and message.
    """
    messages = field(row, name, list)
    if not messages:
        raise DataError(f"field '{name}': holds no message")
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            found = type(message).__name__
            raise DataError(f"field '{name}': message {i + 1} must be an object, is {found}")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise DataError(f"field '{name}': message {i + 1} has no text as its '{key}'")
        if message["role"] != roles[i % 2]:
            raise DataError(
                f"field '{name}': message {i + 1} is by {message['role']!r}, not by "
                f"{roles[i % 2]!r}; user and assistant take turns"
            )
    return tuple(message["content"] for message in messages)
