"""Records as the dataset types that TRL and `datasets` know, and back.

Two forms: conversational (messages with role and content; TRL puts in the model's own chat
template, so this is the one to train on) and standard (plain text in the turns of this project's
plain template; TRL appends the end-of-text token). Source: TRL, "Dataset formats and types".

What each type holds, besides `id` and `use_case`:

    prompt-only         Prompt         prompt
    prompt-completion   Demonstration  prompt, completion
    language-modeling   Demonstration  messages, or text
    preference          Ranking        prompt, chosen, rejected: one row for each pair

A ranking becomes its pairs, without ties; `ranking` (its number in the split) and `pair` (places
of chosen and rejected among its responses) put it together again, ties included. Lost are gaps
between ranks (1, 3, 3 returns as 1, 2, 2) and `where`. Texts in the standard form are cut apart
again by `lengths`, the number of characters of each message before the response.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from minirlhf.engine.records import (
    DataError,
    Demonstration,
    Prompt,
    Ranking,
    Record,
    naming,
    write_text,
)
from minirlhf.labeling.rows import dialogue, field, read_rows

TYPES = {
    "prompt-only": Prompt,
    "prompt-completion": Demonstration,
    "language-modeling": Demonstration,
    "preference": Ranking,
}
FORMS = ("conversational", "standard")
FILES = ("jsonl", "parquet")
HEADS = ("User: ", "Assistant: ")
OPEN = "Assistant:"  # a completion follows with the space that parts it from the colon
DATE = re.compile(r"\d{4}-\d\d-\d\d([ T].*)?")


def ranked_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) places in a ranking, ties left out, in the order of the responses.

    >>> ranked_pairs((2, 1, 2))
    [(1, 0), (1, 2)]
    """
    places = [(i, j) for j in range(len(ranks)) for i in range(j) if ranks[i] != ranks[j]]
    return sorted(
        ((i, j) if ranks[i] < ranks[j] else (j, i) for i, j in places),
        key=lambda pair: (min(pair), max(pair)),
    )


def _prompt(record: Record, form: str) -> dict:
    texts = (*record.history, record.prompt)
    if form == "conversational":
        roles = ("user", "assistant")
        return {"prompt": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}
    turns = (f"{HEADS[i % 2]}{text}\n" for i, text in enumerate(texts))
    return {"prompt": "".join(turns) + OPEN, "lengths": [len(text) for text in texts]}


def _response(text: str, form: str) -> str | list[dict]:
    return [{"role": "assistant", "content": text}] if form == "conversational" else " " + text


def _rows(record: Record, number: int, dataset_type: str, form: str) -> Iterator[dict]:
    row = _prompt(record, form)
    # in every row, also where empty: the splits must have the same columns
    names = {"id": record.id, "use_case": record.use_case}
    if dataset_type == "prompt-only":
        yield {**row, **names}
    elif dataset_type == "prompt-completion":
        yield {**row, "completion": _response(record.response, form), **names}
    elif dataset_type == "language-modeling":
        whole = row.pop("prompt") + _response(record.response, form)
        yield {"messages" if form == "conversational" else "text": whole, **row, **names}
    else:
        names |= {"labeler": record.labeler, "reason": record.reason, "ranking": number}
        for better, worse in ranked_pairs(record.ranks):
            chosen = _response(record.responses[better], form)
            rejected = _response(record.responses[worse], form)
            pair = {"chosen": chosen, "rejected": rejected, **names, "pair": [better, worse]}
            yield {**row, **pair}


def export_rows(
    records: Iterable[Record], dataset_type: str, form: str = "conversational"
) -> list[dict]:
    """Records as rows of one of TRL's dataset types, for `datasets.Dataset.from_list`.

    Args:    records, all of the class that the type holds; dataset_type, one of TYPES;
             form, one of FORMS.
    Raises:  DataError where a record is of another class or no record is there.
    >>> export_rows([Prompt("Why?")], "prompt-only")[0]["prompt"]
    [{'role': 'user', 'content': 'Why?'}]
    >>> export_rows([Demonstration("Why?", "So.")], "language-modeling", "standard")[0]["text"]
    'User: Why?\\nAssistant: So.'
    """
    for name, value, known in (("type", dataset_type, TYPES), ("form", form, FORMS)):
        if value not in known:
            raise DataError(f"unknown {name} {value!r}; known are {', '.join(known)}")
    rows = []
    for number, record in enumerate(records):
        where = f"{record.where}: " if getattr(record, "where", "") else ""
        if not isinstance(record, TYPES[dataset_type]):
            raise DataError(
                f"{where}{dataset_type!r} holds {TYPES[dataset_type].__name__} records, "
                f"not {type(record).__name__}"
            )
        rows += _rows(record, number, dataset_type, form)
    if not rows:
        raise DataError("there are no records to export")
    return rows


def export(
    splits: Mapping[str, Sequence[Record]],
    folder: str | Path,
    dataset_type: str,
    form: str = "conversational",
    files: str = "jsonl",
) -> list[Path]:
    """Write a folder that `datasets.load_dataset(folder)` reads: a file per split and a card.

    Args:    splits, such as {"train": [...], "valid": [...]}; folder, made if it is not there;
             dataset_type, one of TYPES; form, one of FORMS; files, one of FILES.
    Returns: the paths written, the card (README.md) last.
    Raises:  DataError, before anything is written.
    """
    if files not in FILES:
        raise DataError(f"unknown files {files!r}; known are {', '.join(FILES)}")
    if not splits:
        raise DataError("there are no splits to export")
    rows = {}
    for split, records in splits.items():
        if not re.fullmatch(r"\w+", split):
            raise DataError(f"split {split!r}: its name must be letters, digits and _")
        try:
            rows[split] = export_rows(records, dataset_type, form)
            _refuse_unwritable(rows[split], files)
        except DataError as error:
            raise DataError(f"split {split!r}: {error}") from None
    folder = Path(folder)
    paths = []
    for split, split_rows in rows.items():
        paths.append(folder / f"{split}.{files}")
        if files == "jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in split_rows)
            write_text(paths[-1], "".join(lines))
        else:
            _write_parquet(paths[-1], split_rows)
    counts = {split: (len(splits[split]), len(rows[split])) for split in rows}
    write_text(folder / "README.md", card(counts, dataset_type, form, files))
    return [*paths, folder / "README.md"]


def _texts(value) -> Iterator[str]:
    """All texts of a column's value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (item["content"] for item in value if isinstance(item, dict))


def _refuse_unwritable(rows: list[dict], files: str) -> None:
    for name in rows[0]:
        texts = [text for row in rows for text in _texts(row[name])]
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                code = ord(text[error.start])
                raise DataError(
                    f"field '{name}': holds half a character (U+{code:04X}), which no file can"
                ) from None
        # `datasets` reads a JSON column in which all texts are dates as timestamps
        if files == "jsonl" and texts and all(DATE.fullmatch(text) for text in texts):
            raise DataError(
                f"field '{name}': every text is a date, which `datasets` would read from JSONL as "
                "a timestamp; export parquet"
            )


def _write_parquet(path: Path, rows: list[dict]) -> None:
    """A whole file or nothing, as `write_text` does."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with naming(path):
        try:
            parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def card(counts: Mapping[str, tuple[int, int]], dataset_type: str, form: str, files: str) -> str:
    """The data card: its YAML head tells `datasets` the splits, its text tells people the rest.

    Args:    counts, (records, rows) of each split.
    """
    data_files = [{"split": split, "path": f"{split}.{files}"} for split in counts]
    head = yaml.safe_dump(
        {"configs": [{"config_name": "default", "data_files": data_files}]}, sort_keys=False
    )
    name = TYPES[dataset_type].__name__
    lines = [
        f"TRL's dataset type {dataset_type}, {form} form, made from {name} records.",
        "",
        "| split | records | rows |",
        "|---|---|---|",
        *(f"| {split} | {records} | {rows} |" for split, (records, rows) in counts.items()),
    ]
    if dataset_type == "preference":
        lines += [
            "",
            "Each row is one pair of a ranking of K responses; ties give none. `ranking` numbers "
            "the rankings of a split, `pair` gives the places of chosen and rejected in it. A "
            "ranking's pairs are no independent comparisons: keep them in one batch or one split.",
        ]
    if form == "standard":
        lines += [
            "",
            "`lengths` counts the characters of each message before the response.",
        ]
    return f"---\n{head}---\n\n" + "\n".join(lines) + "\n"


def read_export(folder: str | Path) -> dict[str, list[Record]]:
    """The records of an exported folder, by split, in their order.

    Raises:  DataError, one line that names file, line and field.
    """
    path = Path(folder) / "README.md"
    try:
        head = path.read_text(encoding="utf-8").split("---\n")[1]
        entries = yaml.safe_load(head)["configs"][0]["data_files"]
        files = {entry["split"]: Path(folder) / entry["path"] for entry in entries}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, LookupError, TypeError):
        raise DataError(f"{path}: has no head that lists the files of each split") from None
    return {split: import_rows(file) for split, file in files.items()}


def import_rows(source: str | Path | Iterable[Mapping]) -> list[Record]:
    """Records from rows of one of TRL's dataset types: a file, a Dataset or a list of dicts.

    The type is told by the columns. Rows from elsewhere are read as well: each preference row
    without `ranking` is a ranking of two. Standard text needs `lengths`, since text alone does
    not tell where a turn ends.

    Raises:  DataError, one line that names file, line and field.
    """
    records, rankings = [], {}
    for where, row in read_rows(source):
        try:
            texts, response = _turns(row)
            if len(texts) % 2 == 0:
                raise DataError("field 'prompt': does not end with a message of the user")
            values = _named(row, "id", "use_case")
            values |= {"prompt": texts[-1], "history": texts[:-1], "where": where}
            if "chosen" not in row:
                answer = {} if response is None else {"response": response}
                records.append((Demonstration if answer else Prompt)(**values, **answer))
                continue
            values |= _named(row, "labeler", "reason")
            number = field(row, "ranking", int, optional=True)
            if number is None:
                number, row = where, {**row, "pair": [0, 1]}
            if number not in rankings:
                rankings[number] = (values, [])
            known = rankings[number][0]
            if (known["prompt"], known["history"]) != (values["prompt"], values["history"]):
                raise DataError(f"field 'prompt': ranking {number} has another in {known['where']}")
            rankings[number][1].append(
                (_pair(row), _answer(row, "chosen"), _answer(row, "rejected"))
            )
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    for number, (values, pairs) in rankings.items():
        try:
            records.append(Ranking(**values, **_put_together(number, pairs)))
        except DataError as error:
            raise DataError(f"{values['where']}: {error}") from None
    if not records:
        raise DataError(
            f"{source if isinstance(source, (str, Path)) else 'the data'}: holds no rows"
        )
    return records


def _named(row: Mapping, *names: str) -> dict[str, str]:
    """Optional texts of a row, "" where they are missing."""
    return {name: field(row, name, str, optional=True) or "" for name in names}


def _turns(row: Mapping) -> tuple[tuple[str, ...], str | None]:
    """The messages before the response of a row, and the response where there is one."""
    name = next((name for name in ("prompt", "messages", "text") if name in row), "prompt")
    if isinstance(row.get(name), str):
        texts, rest = _cut(row[name], field(row, "lengths", list), name)
    else:
        texts, rest = dialogue(row, name), ""
        if name == "messages":
            texts, rest = texts[:-1], " " + texts[-1]
    if name == "prompt":
        if rest:
            raise DataError("field 'lengths': there is more text after them in 'prompt'")
        return texts, _answer(row, "completion") if "completion" in row else None
    return texts, rest.removeprefix(" ")


def _cut(text: str, lengths: list, name: str) -> tuple[tuple[str, ...], str]:
    """A standard text's messages before the response, and what follows them."""
    texts, position = [], 0
    for i in range(len(lengths)):
        head = HEADS[i % 2]
        start = position + len(head)
        end = start + field({"lengths": lengths[i]}, "lengths", int)
        if not text.startswith(head, position) or text[end : end + 1] != "\n":
            raise DataError(f"field 'lengths': message {i + 1} is not there in '{name}'")
        texts.append(text[start:end])
        position = end + 1
    if not texts or not text.startswith(OPEN, position):
        raise DataError(f"field 'lengths': no response is opened after them in '{name}'")
    return tuple(texts), text[position + len(OPEN) :]


def _answer(row: Mapping, name: str) -> str:
    if isinstance(row.get(name), str):
        return row[name].removeprefix(" ")
    texts = dialogue(row, name, first="assistant")
    if len(texts) > 1:
        raise DataError(f"field '{name}': has {len(texts)} messages, not one response")
    return texts[0]


def _pair(row: Mapping) -> tuple[int, int]:
    pair = field(row, "pair", list)
    if len(pair) != 2 or not all(type(place) is int and place >= 0 for place in pair):
        raise DataError(f"field 'pair': must be two places from 0, is {pair}")
    return tuple(pair)


def _put_together(number: int | str, pairs: list[tuple[tuple[int, int], str, str]]) -> dict:
    """Responses and ranks of a ranking from its pairs: who loses less often stands higher."""
    found: dict[int, str] = {}
    for places, chosen, rejected in pairs:
        for place, text in zip(places, (chosen, rejected), strict=True):
            if found.setdefault(place, text) != text:
                raise DataError(f"field 'pair': ranking {number} has two texts at place {place}")
    losses = [sum(worse == place for (_, worse), _, _ in pairs) for place in range(len(found))]
    order = sorted(set(losses))
    ranks = tuple(order.index(count) + 1 for count in losses)
    if sorted(found) != list(range(len(found))) or sorted(ranked_pairs(ranks)) != sorted(
        places for places, _, _ in pairs
    ):
        raise DataError(f"field 'pair': the pairs of ranking {number} are not all its pairs")
    return {"responses": tuple(found[place] for place in range(len(found))), "ranks": ranks}
