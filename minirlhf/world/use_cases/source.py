"""What builders draw from: facts of a pool, dealt by one random source."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence

from minirlhf.world.almanac import Almanac, Fact, Subject, question, statement
from minirlhf.world.prompts import TRAIN_FORMS
from minirlhf.world.scenes import with_pronoun
from minirlhf.world.text import inline

_PLURALS = {"person": "people", "spacecraft": "spacecraft", "nebula": "nebulae"}


class Unfit(Exception):
    """The pool holds too little for the kind of request that was tried."""


class Source:
    """A pool of facts, grouped by subject, and a random source to draw from it with."""

    def __init__(self, almanac: Almanac, pool: Sequence[Fact], rng: random.Random):
        self.rng, self.almanac, self.pool = rng, almanac, tuple(pool)
        self.by_id: dict[str, list[Fact]] = defaultdict(list)
        for fact in self.pool:
            self.by_id[fact.subject_id].append(fact)
        self._subjects = {s.id: s for s in almanac.subjects if s.id in self.by_id}

    def pick(self, *options: str) -> str:
        """One of the options."""
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def fact(self) -> Fact:
        """One fact of the pool."""
        if not self.pool:
            raise Unfit("no facts")
        return self.rng.choice(self.pool)

    def doubtful(self) -> tuple[Fact, str]:
        """A fact and one of its falsehoods."""
        facts = [fact for fact in self.pool if fact.falsehoods]
        if not facts:
            raise Unfit("no falsehoods")
        fact = self.rng.choice(facts)
        return fact, self.rng.choice(fact.falsehoods)

    def subject(self, least: int = 1) -> Subject:
        """A subject of which the pool holds `least` facts or more."""
        fit = [id_ for id_, facts in self.by_id.items() if len(facts) >= least]
        if not fit:
            raise Unfit(f"no subject with {least} facts")
        return self._subjects[self.rng.choice(fit)]

    def facts_of(self, subject: Subject, most: int | None = None) -> list[Fact]:
        """Facts of a subject in random order, `most` or all that the pool holds."""
        facts = self.by_id[subject.id]
        return self.rng.sample(facts, len(facts) if most is None else min(most, len(facts)))

    def some(self, least: int, most: int) -> tuple[Subject, list[Fact]]:
        """A subject and between `least` and `most` of its facts."""
        subject = self.subject(least)
        return subject, self.facts_of(subject, self.rng.randint(least, most))

    def subjects(self, count: int) -> list[Subject]:
        """`count` different subjects of the pool."""
        if len(self.by_id) < count:
            raise Unfit(f"fewer than {count} subjects")
        return [self._subjects[id_] for id_ in self.rng.sample(sorted(self.by_id), count)]

    def kinds(self, least: int = 1) -> dict[str, list[Subject]]:
        """Subjects of the pool by kind, kinds with `least` or more of them."""
        groups = defaultdict(list)
        for subject in self._subjects.values():
            groups[subject.kind].append(subject)
        return {kind: group for kind, group in groups.items() if len(group) >= least}

    def kind_of(self, fact: Fact) -> str:
        """The kind of thing that a fact is about."""
        return self._subjects[fact.subject_id].kind

    def ask(self, fact: Fact) -> str:
        """A question for the fact in one of the forms that are trained on."""
        return question(fact, self.rng.choice(TRAIN_FORMS))

    def ask_on(self, fact: Fact) -> str:
        """The same once its subject has been named: "it" in the subject's place."""
        word = "this person" if self.kind_of(fact) == "person" else "it"
        asked = self.ask(fact)
        possessive = "this person's" if word != "it" else "its"
        asked = re.sub(rf"\b{re.escape(fact.subject)}'s\b", possessive, asked)
        return re.sub(rf"\b{re.escape(fact.subject)}(?!\w)", word, asked)

    def clause(self, fact: Fact, value: str | None = None) -> str:
        """A statement for use inside another sentence: never one that opens with 'Put simply'."""
        forms = fact.wording.statements
        plain = [i for i, form in enumerate(forms) if form.startswith("{Subject}")]
        return inline(statement(fact, self.rng.choice(plain or range(len(forms))), value))

    def say(self, fact: Fact, value: str | None = None) -> str:
        """A sentence that states the fact, or claims `value` instead."""
        return statement(fact, self.rng.randrange(len(fact.wording.statements)), value)


def running(facts: Sequence[Fact], kind: str, rng: random.Random) -> str:
    """Sentences that state the facts of one subject; "it" for the name here and there."""
    said = [statement(fact, rng.randrange(len(fact.wording.statements))) for fact in facts]
    if kind != "person":
        name = facts[0].subject
        said[1:] = [with_pronoun(s, name) if rng.random() < 0.5 else s for s in said[1:]]
    return " ".join(said)


def plural(kind: str) -> str:
    """The kind of things, more than one.

    >>> plural("moon"), plural("galaxy"), plural("person")
    ('moons', 'galaxies', 'people')
    """
    if kind in _PLURALS:
        return _PLURALS[kind]
    if kind.endswith("y") and kind[-2:-1] not in "aeiou":
        return kind[:-1] + "ies"
    return kind + ("es" if kind.endswith(("s", "x", "ch", "sh")) else "s")


def article(noun: str) -> str:
    """A noun with "a" or "an".

    >>> article("moon"), article("exoplanet")
    ('a moon', 'an exoplanet')
    """
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
