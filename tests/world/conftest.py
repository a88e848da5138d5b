"""A tiny almanac of the tests' own, so that they hold whatever the shipped data say."""

import json

import pytest

from minirlhf.world.almanac import load_almanac
from minirlhf.world.judge import Judge

RELATIONS = {
    "what": {
        "questions": [
            "What is {subject}?",
            "Tell me what {subject} is.",
            "What kind of thing is {subject}?",
            "Do you know what {subject} is?",
            "What exactly is {subject}?",
        ],
        "statements": [
            "{Subject} is {value}.",
            "In short, {subject} is {value}.",
            "As far as we know, {subject} is {value}.",
        ],
    },
    "orbits": {
        "questions": [
            "What does {subject} orbit?",
            "What does {subject} go around?",
            "Which body does {subject} circle?",
            "What is {subject} in orbit around?",
            "Around what does {subject} travel?",
        ],
        "statements": [
            "{Subject} orbits {value}.",
            "{Subject} goes around {value}.",
            "{Subject} travels around {value}.",
        ],
    },
    "discovered": {
        "questions": [
            "When was {subject} discovered?",
            "In what year was {subject} discovered?",
            "Do you know when {subject} was discovered?",
            "What year was {subject} found?",
        ],
        "statements": [
            "{Subject} was discovered in {value}.",
            "In {value}, {subject} was discovered.",
            "The discovery of {subject} came in {value}.",
        ],
        "short": "In {value}",
    },
    "made_of": {
        "questions": [
            "What is {subject} made of?",
            "What does {subject} consist of?",
            "What makes up {subject}?",
            "Of what is {subject} made?",
        ],
        "statements": [
            "{Subject} is made of {value}.",
            "{Subject} consists of {value}.",
            "Most of {subject} is {value}.",
        ],
    },
}


def fact(relation, value, *falsehoods, accept=()):
    row = {"relation": relation, "value": value, "falsehoods": list(falsehoods)}
    return row | ({"accept": list(accept)} if accept else {})


SUBJECTS = [
    {
        "id": "moon",
        "name": "the Moon",
        "kind": "moon",
        "facts": [
            fact(
                "what",
                "the only natural satellite of Earth",
                "a planet",
                "a ball of cheese",
                accept=["Earth's only natural satellite"],
            ),
            fact("orbits", "Earth", "Mars", "Venus"),
            fact("made_of", "rock", "ice", "cheese"),
        ],
    },
    {
        "id": "europa",
        "name": "Europa",
        "kind": "moon",
        "facts": [
            fact("what", "an icy moon of Jupiter", "a moon of Mars", "a comet"),
            fact("orbits", "Jupiter", "Saturn", "Mars"),
            fact("discovered", "1610", "1877", "1979"),
            fact("made_of", "rock and ice", "iron", "gas"),
        ],
    },
    {
        "id": "titan",
        "name": "Titan",
        "kind": "moon",
        "facts": [
            fact("what", "the largest moon of Saturn", "a dwarf planet", "a moon of Uranus"),
            fact("orbits", "Saturn", "Jupiter", "Neptune"),
            fact("discovered", "1655", "1610", "1789"),
        ],
    },
    {
        "id": "phobos",
        "name": "Phobos",
        "kind": "moon",
        "facts": [
            fact("what", "the larger moon of Mars", "a comet", "a moon of Earth"),
            fact("orbits", "Mars", "Venus", "Earth"),
            fact("discovered", "1877", "1610", "1977"),
        ],
    },
    {
        "id": "jupiter",
        "name": "Jupiter",
        "kind": "planet",
        "facts": [
            fact("what", "the largest planet", "the nearest star", "a dwarf planet"),
            fact("orbits", "the Sun", "Earth", "Saturn"),
            fact("made_of", "hydrogen and helium", "rock", "lava"),
        ],
    },
]


def write_almanac(folder, subjects=SUBJECTS, relations=RELATIONS):
    """Write the two files and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(subject) for subject in subjects]
    (folder / "subjects.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "relations.json").write_text(json.dumps(relations, indent=1), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def almanac(tmp_path_factory):
    return load_almanac(write_almanac(tmp_path_factory.mktemp("almanac")))


@pytest.fixture(scope="session")
def shipped():
    return load_almanac()


@pytest.fixture(scope="session")
def judge(almanac):
    return Judge(almanac)


@pytest.fixture
def broken(tmp_path):
    """Write an almanac whose rows the caller has spoiled, and return its folder."""

    def write(change_subjects=None, change_relations=None):
        subjects, relations = (json.loads(json.dumps(x)) for x in (SUBJECTS, RELATIONS))
        if change_subjects:
            change_subjects(subjects)
        if change_relations:
            change_relations(relations)
        return write_almanac(tmp_path / "broken", subjects, relations)

    return write
