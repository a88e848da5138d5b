"""Typed records and their JSONL files: one JSON object per line, one record per object."""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar


class DataError(ValueError):
    """Bad input, said in one line: ``FILE:LINE: field 'x': what is wrong``."""


def require_text(name: str, value: Any) -> None:
    """Refuse what is no text or holds nothing but white space: DataError, "field 'name': ..."."""
    if not isinstance(value, str):
        raise DataError(f"field '{name}': must be text, is {type(value).__name__}")
    if not value.strip():
        raise DataError(f"field '{name}': is empty")


def require_history(record: Any) -> None:
    """Refuse a `history` in which user and assistant do not take turns; make a tuple of it.

    Raises:  DataError, "field 'history': ...".
    """
    history = record.history
    if not isinstance(history, (list, tuple)):
        raise DataError(f"field 'history': must be a list, is {type(history).__name__}")
    object.__setattr__(record, "history", tuple(history))
    for i, message in enumerate(history):
        if i % 2 == 0:
            require_text("history", message)
        elif not isinstance(message, str):  # an assistant may have said nothing
            raise DataError(f"field 'history': message {i + 1} is not text")
    if len(history) % 2:
        raise DataError(
            f"field 'history': has {len(history)} messages; user and assistant take turns, "
            "so their number is even"
        )


@dataclass(frozen=True)
class Prompt:
    """A question or instruction without an answer, as PPO needs it.

    `history`: what was said before in a dialogue, user and assistant in turn; `prompt` is the
    user's next message. `where` (FILE:LINE) is filled by `read_records`, so that a later complaint
    can name the line.
    """

    prompt: str
    id: str = ""
    use_case: str = ""
    history: tuple[str, ...] = ()
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self):
        require_text("prompt", self.prompt)
        require_history(self)


@dataclass(frozen=True)
class Demonstration:
    """A prompt with one response written by a person, as SFT needs it.

    The loss counts the response alone: a dialogue of n turns is n demonstrations, each with the
    turns before it as `history`.
    """

    prompt: str
    response: str
    id: str = ""
    use_case: str = ""
    history: tuple[str, ...] = ()
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self):
        require_text("prompt", self.prompt)
        require_history(self)
        require_text("response", self.response)


@dataclass(frozen=True)
class Ranking:
    """K responses to one prompt and their ranks: 1 = best, equal = tied.

    K may differ from record to record. An all-tie ranking is refused: it holds no pair to learn
    from. Ranks need not be dense (1, 3, 3 is fine); only their order counts. An empty response
    is allowed, since a model may well have given one.
    """

    prompt: str
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    labeler: str = ""
    reason: str = ""
    id: str = ""
    use_case: str = ""
    history: tuple[str, ...] = ()
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self):
        require_text("prompt", self.prompt)
        require_history(self)
        for name in ("responses", "ranks"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise DataError(f"field '{name}': must be a list, is {type(value).__name__}")
            object.__setattr__(self, name, tuple(value))
        for i, response in enumerate(self.responses):
            if not isinstance(response, str):
                raise DataError(f"field 'responses': number {i + 1} is not text")
        for i, rank in enumerate(self.ranks):
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise DataError(f"field 'ranks': number {i + 1} is {rank!r}, not 1, 2, 3, ...")
        if len(self.responses) < 2:
            raise DataError(
                f"field 'responses': has {len(self.responses)}; a ranking needs at least 2"
            )
        if len(self.ranks) > len(self.responses):
            raise DataError(
                f"field 'ranks': rank number {len(self.responses) + 1} is for a response that is "
                f"not there ({len(self.responses)} responses, {len(self.ranks)} ranks)"
            )
        if len(self.ranks) < len(self.responses):
            raise DataError(
                f"field 'ranks': response number {len(self.ranks) + 1} has no rank "
                f"({len(self.responses)} responses, {len(self.ranks)} ranks)"
            )
        if len(set(self.ranks)) == 1:
            raise DataError("field 'ranks': all responses are tied, so there is no pair to learn")


Record = TypeVar("Record", Prompt, Demonstration, Ranking)


def read_records(path: str | Path, record: type[Record]) -> list[Record]:
    """Read a JSONL file into records.

    Args:    path: UTF-8, one object per line, blank lines skipped; record: the class to make.
    Returns: the records in the file's order, each with `where` set to FILE:LINE.
    Raises:  DataError, one line that names file, line and field.
    """
    path = Path(path)
    names = {f.name for f in dataclasses.fields(record)} - {"where"}
    required = [f.name for f in dataclasses.fields(record) if f.default is dataclasses.MISSING]
    try:
        text = path.read_text(encoding="utf-8-sig")  # Notepad writes a mark in front
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder, not a file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    records = []
    for number, values in json_lines(path, text):
        where = f"{path}:{number}"
        if not isinstance(values, dict):
            raise DataError(f"{where}: must be a JSON object, is {type(values).__name__}")
        for name in required:
            if name not in values:
                raise DataError(f"{where}: field '{name}': is missing")
        for name in values:
            if name not in names:
                raise DataError(
                    f"{where}: field '{name}': is unknown; known are {', '.join(sorted(names))}"
                )
        try:
            records.append(record(**values, where=where))
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    if not records:
        raise DataError(f"{path}: holds no records")
    return records


def json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The values of a JSONL text, each with the number of its line; blank lines are skipped.

    Raises:  DataError, one line that names `path` and line.
    """
    # not splitlines(): a JSON text may hold other line separators, such as U+2028, unescaped
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}:{number}: broken JSON: {error.msg} at column {error.colno}"
                ) from None


def as_rows(records: list[Record]) -> list[dict]:
    """The records as plain dicts, without `where` and without empty optional fields."""
    return [
        {k: v for k, v in dataclasses.asdict(r).items() if k != "where" and v not in ("", ())}
        for r in records
    ]


def checksum(data: Any) -> str:
    """SHA-256 of records, or of lists of them: the same as long as nothing that counts changes."""
    return hashlib.sha256(repr(data).encode()).hexdigest()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of the block names `path`: a full disk, for one, comes without a name."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def to_disk(path: Path) -> None:
    """Have the disk itself hold a file, or a folder's list of names, before going on.

    A rename is safe from a kill without it, but not from a power cut: names may reach the disk
    before the bytes do.
    """
    if os.name == "nt":  # where a file opened for reading cannot be flushed
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole file or nothing: to a neighbour first, then renamed over the old one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with naming(path):
        try:
            partial.write_text(text, encoding="utf-8", newline="\n")
            to_disk(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_records(path: str | Path, records: list[Record]) -> None:
    """Write records as JSONL; an older file survives any failure."""
    lines = (json.dumps(row, ensure_ascii=False) for row in as_rows(records))
    write_text(path, "\n".join(lines) + "\n")
