"""Reads what sentences claim about the almanac's subjects, without knowing what was asked.

A statement's wording is a frame with a place for the subject and one for the value. Where a
sentence fits a frame, what stands in the value's place is compared with the almanac: right,
wrong, or something that nobody knows.
"""

import copy
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from minirlhf.world.almanac import Almanac, Fact, Relation, statement
from minirlhf.world.text import contains, listed, normalise

Words = tuple[str, ...]
NEGATIONS = frozenset(
    listed(
        "not never no neither nor isn't wasn't aren't weren't doesn't didn't don't hasn't cannot",
        "can't hardly wrong false untrue unlike rather instead",
    )
)
_PRONOUNS = frozenset(listed("it he she they"))
_POSSESSIVES = frozenset(listed("its his her their"))
MOST_VALUE_WORDS = 16  # longer than any value of an almanac
# "It is true that ..." says nothing about the subject.
_DUMMY = frozenset(listed("true right wrong false not likely possible mistake clear hard"))
_PLAIN = (("is", None), ("was", None))
_LEADS = frozenset(listed("yes no well sorry oh ok okay"))
_JOINTS = frozenset(listed("and or but while which who because so"))


@dataclass(frozen=True)
class Claim:
    """What one sentence says about one subject; `status` is "true", "false" or "unknown"."""

    subject_id: str
    relation: str
    status: str


@dataclass(frozen=True)
class _Frame:
    """One wording: the words left and right of the subject; None stands for the value."""

    relation: str
    left: tuple[str | None, ...]
    right: tuple[str | None, ...]
    possessive: bool

    @property
    def literal(self) -> int:
        return sum(word is not None for word in self.left + self.right)


@dataclass(frozen=True)
class _Mention:
    start: int
    end: int
    subject_id: str
    possessive: bool
    pronoun: bool


class Lore:
    """Everything that the almanac says, prepared for reading sentences."""

    def __init__(self, almanac: Almanac):
        self.values: dict[str, set[Words]] = defaultdict(set)  # all that anybody claims
        self.stated: dict[Words, str] = {}  # true sentence -> id of the fact that it states
        self.misstated: dict[Words, str] = {}  # sentences that state a falsehood, likewise
        for fact in almanac.facts:
            self.values[fact.relation].update(map(normalise, (*fact.accepted, *fact.falsehoods)))
            for form in range(len(fact.wording.statements)):
                for value in fact.accepted:
                    self.stated[normalise(statement(fact, form, value))] = fact.id
                for value in fact.falsehoods:
                    self.misstated[normalise(statement(fact, form, value))] = fact.id
        for words in self.stated:
            self.misstated.pop(words, None)
        self.kinds = {subject.id: normalise(subject.kind) for subject in almanac.subjects}
        self._own_names: dict[str, set[Words]] = defaultdict(set)
        self._names: dict[str, list[tuple[Words, str, bool]]] = defaultdict(list)
        self._facts: dict[tuple[str, str], frozenset[Words]] = {}
        self._add((subject.name, subject.id) for subject in almanac.subjects)
        for fact in almanac.facts:
            self._facts[fact.subject_id, fact.relation] = frozenset(map(normalise, fact.accepted))
        self._frames: dict[tuple[str, str], list[_Frame]] = defaultdict(list)
        self._loose: list[_Frame] = []  # no word of the frame stands beside the subject
        self._verbs: set[str] = set()  # words that may follow a subject at once
        for relation in almanac.relations.values():
            for frame in _frames(relation):
                self._index(frame)

    def telling(self, told: Iterable[Fact]) -> "Lore":
        """The lore of a passage: only what it tells is true, and its subjects may be invented."""
        told = tuple(told)
        other = copy.copy(self)
        other._names = defaultdict(list, {word: list(rows) for word, rows in self._names.items()})
        other._own_names = defaultdict(set, self._own_names)
        other._add({(fact.subject, fact.subject_id) for fact in told})
        other._facts = {
            (fact.subject_id, fact.relation): frozenset(map(normalise, fact.accepted))
            for fact in told
        }
        other.kinds = {}
        other.stated = {
            normalise(statement(fact, form)): fact.id
            for fact in told
            for form in range(len(fact.wording.statements))
        }
        other.misstated = {}
        return other

    def _add(self, names: Iterable[tuple[str, str]]) -> None:
        for name, subject_id in names:
            words = normalise(name)
            self._own_names[subject_id].add(words)
            for phrase, owns in ((words, False), (possessive(words), True)):
                row = (phrase, subject_id, owns)
                if row not in self._names[phrase[0]]:
                    self._names[phrase[0]].append(row)
                    # Longest first: "Voyager 1" before a bare "Voyager".
                    self._names[phrase[0]].sort(key=lambda row: -len(row[0]))

    def _index(self, frame: _Frame) -> None:
        if frame.right and frame.right[0] is not None:
            self._frames["after", frame.right[0]].append(frame)
            if not frame.left:
                self._verbs.add(frame.right[0])
        elif frame.left and frame.left[-1] is not None:
            self._frames["before", frame.left[-1]].append(frame)
        else:
            self._loose.append(frame)

    def claims(self, sentence: str, current: str = "") -> list[Claim]:
        """What a sentence claims; `current` is the subject that "it" stands for."""
        words = self._words(sentence)
        for known, status in ((self.stated, "true"), (self.misstated, "false")):
            if words in known:
                return [Claim(*known[words].split("/"), status)]
        found = []
        for number, mention in enumerate(self._mentions(words, current)):
            read = sorted(self._read(words, mention), key=lambda found: -found[0])
            claims = [claim for _, claim in read]
            # One wording may fit several relations; that it fits one truly is enough. A name
            # in the middle of a sentence is rarely what a guess is about.
            claims = _weeded(claims)
            found += [c for c in claims if c.status != "unknown" or mention.pronoun or not number]
        return list(dict.fromkeys(found))

    def subjects_in(self, sentence: str) -> list[str]:
        """Ids of the subjects that the sentence names, in order."""
        return [m.subject_id for m in self._mentions(self._words(sentence), "") if not m.pronoun]

    def _words(self, sentence: str) -> Words:
        first, comma, rest = sentence.strip().partition(",")
        if comma and first.lower() in _LEADS:
            sentence = rest
        words = normalise(sentence)
        # "orbits Jupiter and is made of rock": the second half has the same subject.
        out: list[str] = []
        for i, word in enumerate(words):
            out.append(word)
            if word == "and" and i + 1 < len(words) and words[i + 1] in self._verbs:
                out.append("it")
        return tuple(out)

    def _mentions(self, words: Words, current: str) -> list[_Mention]:
        found, at, last = [], 0, current
        while at < len(words):
            for phrase, subject_id, owns in self._names.get(words[at], ()):
                if words[at : at + len(phrase)] == phrase:
                    found.append(_Mention(at, at + len(phrase), subject_id, owns, False))
                    if not last or len(found) == 1:
                        last = subject_id
                    at += len(phrase)
                    break
            else:
                owns = words[at] in _POSSESSIVES
                if last and (owns or words[at] in _PRONOUNS):
                    found.append(_Mention(at, at + 1, last, owns, True))
                at += 1
        return found

    def _read(self, words: Words, mention: _Mention) -> Iterator[tuple[int, Claim]]:
        after = words[mention.end] if mention.end < len(words) else ""
        before = words[mention.start - 1] if mention.start else ""
        then = words[mention.end + 1 : mention.end + 4]
        if mention.pronoun and ("that" in then or not _DUMMY.isdisjoint(then[:1])):
            return
        for side, word in (("after", after), ("before", before)):
            frames = self._frames.get((side, word), [])
            for frame in frames + self._loose if side == "after" else frames:
                if frame.possessive != mention.possessive:
                    continue
                place = _place(words, mention, frame)
                if place is None:
                    continue
                start, end, at_end = place
                own = (w for w in frame.left + frame.right if w)
                negated = _negated(words[: mention.start], NEGATIONS.difference(own))
                status = self._status(mention.subject_id, frame, words[start:end], at_end)
                # "It is raining here." is no guess at what the subject is.
                if status == "unknown" and mention.pronoun and frame.right[:2] in _PLAIN:
                    continue
                if status and negated:
                    status = "false" if status == "true" else ""
                if status:
                    yield frame.literal, Claim(mention.subject_id, frame.relation, status)

    def _status(self, subject_id: str, frame: _Frame, rest: Words, at_end: bool) -> str:
        """Whether the words in the value's place are right; "" where they claim nothing.

        `at_end`: the value begins the words and something else may follow it; otherwise it ends
        them and something else may come before.
        """
        accepted = self._facts.get((subject_id, frame.relation), frozenset())
        values = self.values[frame.relation]
        right = _longest(rest, accepted, at_end)
        wrong = _longest(rest, values, at_end, accepted)
        if right and len(right) >= len(wrong):
            more = rest[len(right) :] if at_end else rest[: -len(right)]
            # "Jupiter and Saturn": a second value makes a guess of it.
            more = more[1:] if more[:1] in (("and",), ("or",)) else more
            joint = at_end and _longest(more, values, True, accepted)
            another = joint and self._another(subject_id, frame.relation, joint)
            return "false" if joint and not another else "true"
        rest = _clipped(rest, at_end)
        if not rest:
            return ""
        negated = not NEGATIONS.isdisjoint(rest)
        spans = {rest[i:k] for i in range(len(rest)) for k in range(i + 1, len(rest) + 1)}
        known = bool(wrong or (spans & values) - accepted)
        if spans & accepted and (negated or not known):
            return "true"
        if frame.relation == "what" and rest == self.kinds.get(subject_id):
            return "true"
        if any(contains(value, rest) for value in accepted):
            return "true" if len(rest) > 1 else ""  # "ice" for "rock and ice" is neither
        if known:
            return "" if negated else "false"
        # "It is Europa.", "On the surface of Vega it is about 9,300 degrees."
        if rest in self._own_names[subject_id] or self._another(subject_id, frame.relation, rest):
            return ""
        plain = frame.literal == 1 and frame.right in _PLAIN
        # "Europa is beautiful" is no claim that an almanac could hold.
        return "" if plain and (len(rest) < 2 or rest[0] in _DUMMY) else "unknown"

    def _another(self, subject_id: str, relation: str, value: Words) -> bool:
        """Whether the value is true of the subject in another relation."""
        return any(
            value in values
            for (owner, other), values in self._facts.items()
            if owner == subject_id and other != relation
        )


def possessive(name: Words) -> Words:
    """The words of a name with an 's at their end."""
    return (*name[:-1], name[-1] + "'s")


def _frames(relation: Relation) -> Iterator[_Frame]:
    frames = []
    for form in relation.statements:
        text = form.replace("{Subject}", "{subject}").replace("{Value}", "{value}")
        words = normalise(text.replace("{subject}", "zzsubject").replace("{value}", "zzvalue"))
        at = next(i for i, word in enumerate(words) if word.startswith("zzsubject"))
        slots = tuple(None if word == "zzvalue" else word for word in words)
        owns = words[at].endswith("'s")
        frames.append(_Frame(relation.name, slots[:at], slots[at + 1 :], owns))
    bare = {frame.right for frame in frames if not frame.left}
    # "In short, X is ..." holds no more than "X is ...".
    yield from (frame for frame in frames if not frame.left or frame.right not in bare)


def _place(words: Words, mention: _Mention, frame: _Frame) -> tuple[int, int, bool] | None:
    """Where the value stands if the words around the mention fit the frame, else None."""
    left, right = frame.left, frame.right
    if None in right:
        at = right.index(None)
        mid, post = right[:at], right[at + 1 :]
        start = mention.end + len(mid)
        if words[mention.end : start] != mid or not _ends(words[: mention.start], left):
            return None
        if not post:
            return start, len(words), True
        for end in range(start + 1, len(words) - len(post) + 1):
            if words[end : end + len(post)] == post:
                return start, end, True
        return None
    at = left.index(None)
    pre, mid = left[:at], left[at + 1 :]
    end = mention.start - len(mid)
    if not _ends(words[: mention.start], mid) or words[mention.end :][: len(right)] != right:
        return None
    start = 0
    if pre:
        starts = [i for i in range(end) if words[i : i + len(pre)] == pre]
        if not starts:
            return None
        start = starts[-1] + len(pre)
        return (start, end, True) if end > start else None
    return (start, end, False) if end > start else None


def _ends(words: Words, tail: tuple[str | None, ...]) -> bool:
    return not tail or words[-len(tail) :] == tail


def _longest(
    rest: Words, phrases: Collection[Words], at_start: bool, but: Collection[Words] = ()
) -> Words:
    """The longest of the phrases, not of `but`, that begins (or else ends) the words."""
    for length in range(min(len(rest), MOST_VALUE_WORDS), 0, -1):
        part = rest[:length] if at_start else rest[-length:]
        if part in phrases and part not in but:
            return part
    return ()


def _clipped(rest: Words, at_end: bool) -> Words:
    """The words up to the next joint that a pronoun follows, or after the last joint."""
    if at_end:
        for i in range(len(rest) - 1):
            if rest[i] in _JOINTS and (rest[i + 1] in _PRONOUNS or rest[i + 1] in _POSSESSIVES):
                return rest[:i]
        return rest
    for i in range(len(rest) - 1, -1, -1):
        if rest[i] in _JOINTS or rest[i] == "that":
            return rest[i + 1 :]
    return rest


def _negated(words: Words, negations: frozenset[str]) -> bool:
    """Whether a negation stands between the last joint and the end of the words."""
    for i in range(len(words) - 1, -1, -1):
        if words[i] in ("but", "and", "while"):
            return False
        if words[i] in negations and words[i + 1 : i + 2] != ("only",):
            return True
    return False


def _weeded(claims: list[Claim]) -> list[Claim]:
    """True claims if there are any, else the first false one, else the first guess."""
    for status in ("true", "false", "unknown"):
        fit = [claim for claim in claims if claim.status == status]
        if fit:
            return fit if status == "true" else fit[:1]
    return []
