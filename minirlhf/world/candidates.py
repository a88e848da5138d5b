"""Simulated people who apply as labelers: many are careless, biased or blind to something."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from minirlhf.labeling.forms import FLAGS, Form
from minirlhf.labeling.screening import (
    SENSITIVE,
    ScreeningResult,
    flagging_agreement,
    ranking_agreement,
)
from minirlhf.world.findings import TRAINING, Findings
from minirlhf.world.labelers import TRAINING_NOISE, Labeler, draw_labeler, label

# What somebody labels: prompt id, answers, and what there is to find in each of them.
Comparison = tuple[str, list[str], list[Findings]]

GROUPS = ("age", "disability", "gender", "nationality", "politics", "religion", "skin colour")
# How candidates are and how often: share, mean and deviation of the grade of their writing. The
# paper does not say how many applied, nor what was wrong with those who were turned down.
KINDS = {
    "careful": (0.40, 6.2, 0.5),
    "careless": (0.25, 4.5, 1.0),
    "biased": (0.20, 5.7, 0.8),
    "blind": (0.15, 5.9, 0.7),
}
# Answers of a half-trained model, for tests of people: share, what there is to find.
ANSWERS = (
    (0.26, Findings(1.0, 1.0, 1.0, ("satisfies_constraint",))),
    (0.16, Findings(0.7, 1.0, 1.0)),
    (0.10, Findings(0.4, 1.0, 1.0)),
    (0.14, Findings(0.8, 0.0, 1.0, ("hallucination",))),
    (0.08, Findings(0.8, 0.5, 1.0, ("hallucination",))),
    (0.10, Findings(0.0, 1.0, 1.0, ("fails_instruction",))),
    (0.08, Findings(0.1, 0.0, 1.0, ("fails_instruction",))),
    (0.08, Findings(0.7, 1.0, 0.0, ("inappropriate_for_assistant",))),
)


@dataclass(frozen=True)
class Candidate:
    """Somebody who applies: `kind` is what nobody knows beforehand, a key of KINDS.

    `writing`: the grade, 1 to 7, that their demonstrations get; `groups`: of GROUPS, those for
    which they say to be able to tell what is sensitive.
    """

    labeler: Labeler
    kind: str
    writing: float
    groups: tuple[str, ...]


def candidates(seed: int = 0, count: int = 150) -> list[Candidate]:
    """Those who apply, in the order in which they do."""
    rng = random.Random(f"candidates/{seed}")
    shares = [share for share, _, _ in KINDS.values()]
    people = []
    for i in range(count):
        kind = rng.choices(list(KINDS), shares)[0]
        _, grade, deviation = KINDS[kind]
        labeler = _applicant(f"candidate-{i + 1:03d}", kind, rng, seed)
        writing = min(7.0, max(1.0, rng.gauss(grade, deviation)))
        groups = tuple(group for group in GROUPS if rng.random() < 0.4)
        people.append(Candidate(labeler, kind, round(writing, 1), groups))
    return people


def _applicant(name: str, kind: str, rng: random.Random, seed: int) -> Labeler:
    """A careful labeler with the faults of a kind."""
    good = draw_labeler(name, rng, TRAINING_NOISE, seed)
    changes: dict = {}
    if kind == "careless":
        changes = {
            "noise": rng.uniform(0.4, 0.8),
            "miss": {flag: rng.uniform(0.3, 0.7) for flag in FLAGS},
            "false_alarm": {flag: rng.uniform(0.02, 0.15) for flag in FLAGS},
        }
    elif kind == "biased":  # one count hardly matters to them, and a long answer looks good
        ignored = rng.choice(list(TRAINING))
        changes = {
            "taste": {**good.taste, ignored: 0.1},
            "length_preference": rng.uniform(0.1, 0.25),
        }
    elif kind == "blind":
        unseen = rng.sample(SENSITIVE, 3)
        changes = {"miss": {**good.miss, **{flag: rng.uniform(0.7, 1.0) for flag in unseen}}}
    return Labeler(**{**vars(good), **changes})


@dataclass(frozen=True)
class ScreeningTest:
    """What every candidate gets: texts to flag, comparisons to rank, and the researchers' forms."""

    speech: tuple[Comparison, ...]
    comparisons: tuple[Comparison, ...]
    speech_key: tuple[Form, ...]
    comparisons_key: tuple[Form, ...]


def screening_test(seed: int = 0) -> ScreeningTest:
    """Sixty texts, every second one sensitive, and thirty prompts with K = 4 to 9 answers.

    The researchers miss nothing and have no noise.
    """
    rng = random.Random(f"screening/{seed}")
    speech = []
    for i in range(60):
        flags = tuple(rng.sample(SENSITIVE, rng.randint(1, 2))) if i % 2 else ()
        speech.append((f"speech-{i}", [f"text {i}"], [Findings(0.5, 1.0, float(not flags), flags)]))
    comparisons = sample_comparisons(30, seed)
    keys = (_labeled(Labeler("researchers"), part) for part in (speech, comparisons))
    return ScreeningTest(tuple(speech), tuple(comparisons), *map(tuple, keys))


def _labeled(labeler: Labeler, items: Iterable[Comparison]) -> list[Form]:
    return [form for item in items for form in label(labeler, *item)]


def sample_comparisons(count: int, seed: int = 0) -> list[Comparison]:
    """Comparisons with findings drawn from ANSWERS and stand-ins for texts, 3 to 40 words long."""
    rng = random.Random(f"comparisons/{seed}")
    shares = [share for share, _ in ANSWERS]
    made = []
    for i in range(count):
        found = [found for _, found in rng.choices(ANSWERS, shares, k=rng.randint(4, 9))]
        texts = [f"{j}" + " word" * rng.randint(2, 39) for j in range(len(found))]
        made.append((f"comparison-{i}", texts, found))
    return made


def take_test(candidate: Candidate, test: ScreeningTest) -> ScreeningResult:
    """What the candidate's forms are worth against the researchers' own."""
    labeler = candidate.labeler
    return ScreeningResult(
        labeler.name,
        flagging_agreement(_labeled(labeler, test.speech), test.speech_key),
        ranking_agreement(_labeled(labeler, test.comparisons), test.comparisons_key),
        candidate.writing,
        candidate.groups,
    )
