"""The almanac: true facts about real subjects, how to ask for them and how to state them.

`data/almanac/subjects.jsonl` holds one subject per line, `data/almanac/relations.json` the
wording of each relation. Everything else in the world is made from these two files.
"""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import DataError
from minirlhf.world.text import capitalise, normalise

MIN_QUESTIONS = 4  # forms 0..3 are trained on; more are held out
MIN_STATEMENTS = 3
# The course's first question must stay unseen by SFT, so that its answers show generalisation.
MOON_QUESTION = ("moon", "what")


@dataclass(frozen=True)
class Relation:
    """How one relation is asked for and stated; `{subject}`, `{Subject}`, `{value}`, `{Value}`.

    `short` is the answer in a few words, such as "In {value}".
    """

    name: str
    questions: tuple[str, ...]
    statements: tuple[str, ...]
    short: str = "{Value}"
    where: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Fact:
    """One true fact: `subject` stands in `relation` to `value`, and not to any of `falsehoods`.

    `accept` are other true wordings of the value; `wording` is the relation itself.
    """

    subject_id: str
    subject: str
    relation: str
    value: str
    falsehoods: tuple[str, ...]
    accept: tuple[str, ...] = ()
    wording: Relation = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> str:
        """`subject/relation`, unique in an almanac."""
        return f"{self.subject_id}/{self.relation}"

    @property
    def accepted(self) -> tuple[str, ...]:
        """Every true wording of the value, the usual one first."""
        return (self.value, *self.accept)


@dataclass(frozen=True)
class Subject:
    """A thing that facts are about; `where` is FILE:LINE."""

    id: str
    name: str
    kind: str
    facts: tuple[Fact, ...]
    where: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Almanac:
    """All subjects and relations, in the files' order."""

    subjects: tuple[Subject, ...]
    relations: dict[str, Relation]

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """All facts, in the file's order."""
        return tuple(fact for subject in self.subjects for fact in subject.facts)

    @cached_property
    def _by_id(self) -> dict[str, Fact]:
        return {fact.id: fact for fact in self.facts}

    def fact(self, fact_id: str) -> Fact:
        """The fact called `subject/relation`.

        Raises:  KeyError with a readable line where there is none.
        """
        try:
            return self._by_id[fact_id]
        except KeyError:
            raise KeyError(f"no fact {fact_id!r} in the almanac") from None

    @cached_property
    def by_subject(self) -> dict[str, tuple[Fact, ...]]:
        """The facts of each subject id."""
        return {subject.id: subject.facts for subject in self.subjects}


def question(fact: Fact, form: int) -> str:
    """The question for `fact` in wording number `form` (0, 1, ...).

    Raises:  IndexError where the relation has no such form.
    """
    forms = fact.wording.questions
    if not 0 <= form < len(forms):
        raise IndexError(f"relation {fact.relation!r} has question forms 0..{len(forms) - 1}")
    return _fill(forms[form], fact.subject, "")


def statement(fact: Fact, form: int, value: str | None = None) -> str:
    """A sentence that answers the question for `fact`; with `value`, one that claims that value.

    `form` wraps around, so that any integer picks a wording.
    """
    forms = fact.wording.statements
    return _fill(forms[form % len(forms)], fact.subject, fact.value if value is None else value)


def short_answer(fact: Fact, value: str | None = None) -> str:
    """The answer in a few words, without a full stop; with `value`, one that claims that value."""
    return _fill(fact.wording.short, fact.subject, fact.value if value is None else value)


def _fill(template: str, subject: str, value: str) -> str:
    return (
        template.replace("{subject}", subject)
        .replace("{Subject}", capitalise(subject))
        .replace("{value}", value)
        .replace("{Value}", capitalise(value))
    )


def load_almanac(path: str | Path | None = None) -> Almanac:
    """Read an almanac folder; without `path`, the one that comes with the project.

    Raises:  DataError, one line with file, line and field, where the files are broken. What is
             well-formed but doubtful is for `check_almanac`.
    """
    folder = Path(path) if path is not None else data_folder() / "almanac"
    relations = _read_relations(folder / "relations.json")
    subjects = _read_subjects(folder / "subjects.jsonl", relations)
    return Almanac(tuple(subjects), relations)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parse(text: str, path: Path, line: int) -> dict:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        raise DataError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}:{line}: must be a JSON object, is {type(value).__name__}")
    return value


def _text(values: dict, name: str, where: str, label: str = "") -> str:
    label = label or name
    if name not in values:
        raise DataError(f"{where}: field '{label}': is missing")
    value = values[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field '{label}': must be text that is not empty")
    return value


def _texts(values: dict, name: str, where: str, label: str) -> tuple[str, ...]:
    value = values.get(name, [])
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise DataError(f"{where}: field '{label}': must be a list of texts that are not empty")
    return tuple(value)


def _read_relations(path: Path) -> dict[str, Relation]:
    text = _read_text(path)
    relations = {}
    for name, values in _parse(text, path, 1).items():
        # JSON keeps no line numbers, so the key is looked up in the text.
        place = text.find(f'"{name}"')
        where = f"{path}:{text.count(chr(10), 0, place) + 1}"
        if not isinstance(values, dict):
            raise DataError(f"{where}: field '{name}': must be an object")
        forms = []
        for key, least in (("questions", MIN_QUESTIONS), ("statements", MIN_STATEMENTS)):
            label = f"{name}.{key}"
            texts = _texts(values, key, where, label)
            if len(texts) < least:
                raise DataError(
                    f"{where}: field '{label}': has {len(texts)} forms, needs at least {least}"
                )
            needs = ("{subject}", "{value}") if key == "statements" else ("{subject}",)
            for number, form in enumerate(texts, start=1):
                for slot in needs:
                    if slot not in form.lower():
                        raise DataError(f"{where}: field '{label}': form {number} lacks {slot}")
            forms.append(texts)
        short = _text(values, "short", where, f"{name}.short") if "short" in values else "{Value}"
        relations[name] = Relation(name, *forms, short=short, where=where)
    return relations


def _read_subjects(path: Path, relations: dict[str, Relation]) -> Iterator[Subject]:
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield _read_subject(_parse(line, path, number), where, relations)


def _read_subject(values: dict, where: str, relations: dict[str, Relation]) -> Subject:
    subject_id, name, kind = (_text(values, key, where) for key in ("id", "name", "kind"))
    facts = []
    items: Any = values.get("facts")
    if not isinstance(items, list) or not items:
        raise DataError(f"{where}: field 'facts': must be a list that is not empty")
    for index, item in enumerate(items):
        label = f"facts[{index}]"
        if not isinstance(item, dict):
            raise DataError(f"{where}: field '{label}': must be an object")
        relation = _text(item, "relation", where, f"{label}.relation")
        if relation not in relations:
            raise DataError(f"{where}: field '{label}.relation': unknown relation {relation!r}")
        facts.append(
            Fact(
                subject_id,
                name,
                relation,
                _text(item, "value", where, f"{label}.value"),
                _texts(item, "falsehoods", where, f"{label}.falsehoods"),
                _texts(item, "accept", where, f"{label}.accept"),
                relations[relation],
            )
        )
    return Subject(subject_id, name, kind, tuple(facts), where)


def check_almanac(almanac: Almanac) -> list[str]:
    """What is doubtful in a well-formed almanac, one `FILE:LINE: field 'x': problem` each.

    Looks for duplicate ids, names, facts and forms; a relation stated twice for one subject
    (a contradiction, or two facts under one id); a falsehood that is true; too few falsehoods;
    values that the judge could not tell from a falsehood; relations that nobody uses.
    """
    problems = []
    ids, names = Counter(), Counter()
    for subject in almanac.subjects:
        ids[subject.id] += 1
        names[subject.name.lower()] += 1
        if ids[subject.id] == 2:
            problems.append(f"{subject.where}: field 'id': {subject.id!r} is used twice")
        if names[subject.name.lower()] == 2:
            problems.append(f"{subject.where}: field 'name': {subject.name!r} is used twice")
        stated = Counter(fact.relation for fact in subject.facts)
        for index, fact in enumerate(subject.facts):
            label = f"{subject.where}: field 'facts[{index}]"
            if stated[fact.relation] > 1:
                problems.append(
                    f"{label}.relation': {fact.relation!r} is stated {stated[fact.relation]} times"
                )
            problems += [f"{label}.{problem}" for problem in _check_fact(fact)]
    used = {fact.relation for fact in almanac.facts}
    for relation in almanac.relations.values():
        for key in ("questions", "statements"):
            forms = getattr(relation, key)
            if len(set(forms)) < len(forms):
                problems.append(
                    f"{relation.where}: field '{relation.name}.{key}': a form stands there twice"
                )
        if relation.name not in used:
            problems.append(f"{relation.where}: field '{relation.name}': no subject uses it")
    return problems


def _check_fact(fact: Fact) -> Iterator[str]:
    accepted = {normalise(value): value for value in fact.accepted}
    if len(fact.falsehoods) < 2:
        yield f"falsehoods': has {len(fact.falsehoods)}, needs at least 2"
    if len({normalise(f) for f in fact.falsehoods}) < len(fact.falsehoods):
        yield "falsehoods': two say the same"
    for falsehood in fact.falsehoods:
        words = normalise(falsehood)
        if words in accepted:
            yield f"falsehoods': {falsehood!r} is true: it says the same as {accepted[words]!r}"
    for words, value in accepted.items():
        if not words:
            yield f"value': {value!r} has no word that the judge can look for"
    if fact.value.endswith((".", "!", "?")) and not fact.value.endswith(("St.", "Jr.")):
        yield f"value': {fact.value!r} ends like a sentence; the statement adds the full stop"


def split_facts(
    almanac: Almanac, seed: int = 0, test_share: float = 0.2
) -> tuple[list[Fact], list[Fact]]:
    """Training and test facts, each in the almanac's order.

    A fact is on one side with all its question forms. Every relation is represented in the test
    part as far as its size allows, and the moon question is always there.

    Args:    test_share in (0, 1), the part of the facts that is held out.
    Raises:  ValueError where test_share is outside (0, 1).
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1, is {test_share}")
    groups = defaultdict(list)
    for fact in almanac.facts:
        groups[fact.relation].append(fact)
    test, owed = set(), 0.0
    for relation in sorted(groups):
        facts = list(groups[relation])
        random.Random(f"split/{seed}/{relation}").shuffle(facts)
        facts.sort(key=lambda fact: (fact.subject_id, fact.relation) != MOON_QUESTION)
        # What rounding leaves over goes to the next relation, so that the shares add up.
        owed += test_share * len(facts)
        take = min(round(owed), len(facts) - 1)
        take = max(take, int(facts[0].id == "/".join(MOON_QUESTION)))
        owed -= take
        test.update(fact.id for fact in facts[:take])
    return (
        [fact for fact in almanac.facts if fact.id not in test],
        [fact for fact in almanac.facts if fact.id in test],
    )
