"""What the corpus is written with: one random source and decks that deal all facts evenly."""

import random
from collections import defaultdict

from minirlhf.world.almanac import (
    Almanac,
    Fact,
    Relation,
    Subject,
    question,
    short_answer,
    statement,
)
from minirlhf.world.manners import answer_noisily, ask_noisily


class Desk:
    """What a scene writes with: one random source and decks that deal all facts evenly."""

    def __init__(self, almanac: Almanac, seed: int):
        self.rng = random.Random(f"corpus/{seed}")
        self.almanac = almanac
        self._facts: list[Fact] = []
        self._subjects: list[Subject] = []
        self._left: dict[str, list[Fact]] = {}
        self._values: dict[str, list[str]] = defaultdict(list)
        for fact in almanac.facts:
            self._values[fact.relation].append(fact.value)
        #: Names of the subjects of each kind that has at least three of them.
        self.names: dict[str, list[str]] = defaultdict(list)
        for subject in almanac.subjects:
            self.names[subject.kind].append(subject.name)
        self.names = {kind: names for kind, names in self.names.items() if len(names) >= 3}

    def fact(self) -> Fact:
        """The next fact of a shuffled deck that holds every fact once."""
        if not self._facts:
            self._facts = self.rng.sample(self.almanac.facts, len(self.almanac.facts))
        return self._facts.pop()

    def facts(self, count: int) -> list[Fact]:
        """Up to `count` different facts, from the deck."""
        return list({fact.id: fact for fact in (self.fact() for _ in range(count))}.values())

    def subject(self) -> Subject:
        """The next subject of a deck in which a subject stands once for every three facts."""
        if not self._subjects:
            deck = [s for s in self.almanac.subjects for _ in range(-(-len(s.facts) // 3))]
            self._subjects = self.rng.sample(deck, len(deck))
        return self._subjects.pop()

    def facts_of(self, subject: Subject, count: int) -> list[Fact]:
        """`count` different facts of one subject (or all), rarely used ones first."""
        count = min(count, len(subject.facts))
        left = self._left.setdefault(subject.id, [])
        while len(left) < count:
            fresh = [fact for fact in subject.facts if fact not in left]
            left[:0] = self.rng.sample(fresh, len(fresh))
        return [left.pop() for _ in range(count)]

    def values(self, relation: Relation) -> list[str]:
        """Every true value of a relation, as often as it stands in the almanac."""
        return self._values[relation.name]

    def pick(self, *options):
        """One of the options."""
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def ask(self, fact: Fact, noise: float) -> str:
        """A question for the fact in any of its forms."""
        form = self.rng.randrange(len(fact.wording.questions))
        return ask_noisily(question(fact, form), self.rng, noise)

    def state(self, fact: Fact, right: float = 1.0) -> str:
        """A full sentence for the fact, true with probability `right`."""
        form = self.rng.randrange(len(fact.wording.statements))
        return statement(fact, form, self._value(fact, right))

    def state_falsely(self, fact: Fact) -> str:
        """A full sentence that claims one of the fact's falsehoods."""
        form = self.rng.randrange(len(fact.wording.statements))
        return statement(fact, form, self.rng.choice(fact.falsehoods))

    def answer(self, fact: Fact, right: float, full: float, noise: float) -> str:
        """An answer: a full sentence with probability `full`, else hardly more than the value."""
        if self.chance(full):
            return answer_noisily(self.state(fact, right), self.rng, noise)
        text = short_answer(fact, self._value(fact, right))
        if not noise:
            return text + "."
        frames = ("{}.", "{}.", "{}", "{}", "{}, I think.", "{}, I guess", "{}, if I am right")
        text = self.rng.choice(frames).format(text)
        return text.lower() if self.chance(0.3) else text

    def _value(self, fact: Fact, right: float) -> str:
        if not fact.falsehoods or self.chance(right):
            return fact.value
        return self.rng.choice(fact.falsehoods)
