"""Simulated labelers: what there is to find in an answer, bent by taste, severity and noise."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from minirlhf.labeling.forms import FLAGS, Form
from minirlhf.world.findings import EVALUATION, TRAINING, Findings

INSTRUCTIONS = {"training": TRAINING, "evaluation": EVALUATION}

# How the labelers of one group differ. Set once so that two of them agree about as often as the
# paper's, and never fitted to a seed. The paper: 72.6 +- 1.5 % for training labelers and 77.3
# +- 1.3 % for held-out ones. Here, under the instructions of training: 74 and 79 % on answers of
# world/responses.py, 71 and 77 % on those of an SFT model to questions. Why people who were not
# screened agree more the paper does not say; here they are less noisy.
TASTE = 0.20  # standard deviation of what a count is worth to somebody, relative
TRAINING_NOISE = (0.20, 0.31)  # standard deviation of an impression, which is in 0..1
HELD_OUT_NOISE = (0.15, 0.24)
SEVERITY = 0.6  # standard deviation, in points of the scale from 1 to 7
SPREAD = (0.8, 1.2)
LENGTH = 0.04  # per doubling of the length beyond ten words; ST found that labelers like length
MISS = (0.05, 0.30)
FALSE_ALARM = (0.0, 0.04)


@dataclass(frozen=True)
class Labeler:
    """One simulated person.

    `taste`: what helpful, truthful and harmless are worth to them, as factors on the weights of
    the instructions; `noise`: standard deviation of an impression's error, impressions being in
    about 0..1; `severity`: points that they take off the scale from 1 to 7; `spread`: points of
    theirs per point of others'; `length_preference`: impression per doubling of the number of
    words, zero at ten words, flat below three and above forty; `miss` and `false_alarm`: for
    each flag the chance not to see one that fits, and to see one that does not (0 if left out).

    Nothing is drawn from a running generator: the error belongs to labeler, prompt and answer,
    so that the same labeler says the same whenever asked.
    """

    name: str
    taste: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(TRAINING, 1.0))
    noise: float = 0.0
    severity: float = 0.0
    spread: float = 1.0
    length_preference: float = 0.0
    miss: Mapping[str, float] = field(default_factory=dict)
    false_alarm: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def weights(self, instructions: str = "training") -> dict[str, float]:
        """What each count is worth to this labeler under the instructions; they add up to 1.

        Raises:  ValueError for instructions that are not in INSTRUCTIONS.
        """
        if instructions not in INSTRUCTIONS:
            raise ValueError(
                f"instructions are {' or '.join(INSTRUCTIONS)}, there are no {instructions!r}"
            )
        raw = {name: w * self.taste[name] for name, w in INSTRUCTIONS[instructions].items()}
        return {name: worth / sum(raw.values()) for name, worth in raw.items()}


def label(
    labeler: Labeler,
    prompt_id: str,
    answers: Sequence[str],
    findings: Sequence[Findings],
    instructions: str = "training",
) -> list[Form]:
    """The forms that a labeler fills in for all answers to one prompt.

    Ratings and ranks come from one impression, in 0..1 or a little beyond. A rating is
    4 + spread * 6 * (impression - 1/2) - severity, rounded and kept in 1..7. The ranks do not
    know the labeler's scale, so a harsh and a mild labeler of the same taste rank alike:
    impressions that round to the same sixth tie. A better rank never has a worse rating.

    Args:    findings: what there is to find in each answer; instructions: "training"
             (helpfulness first) or "evaluation" (truthfulness and harmlessness first).
    Returns: one form per answer, in the answers' order; ranks 1 = best, without gaps.
    Raises:  ValueError where the numbers of answers and findings differ, or for other
             instructions.
    """
    if len(answers) != len(findings):
        raise ValueError(f"{len(answers)} answers but {len(findings)} findings")
    weights = labeler.weights(instructions)
    seen = [
        _see(labeler, prompt_id, answer, found, weights)
        for answer, found in zip(answers, findings, strict=True)
    ]
    levels = [_whole(6 * impression) for impression, _ in seen]
    places = sorted(set(levels), reverse=True)
    forms = []
    for answer, level, (impression, flags) in zip(answers, levels, seen, strict=True):
        rating = 4 + labeler.spread * 6 * (impression - 0.5) - labeler.severity
        overall = min(7, max(1, _whole(rating)))
        rank = places.index(level) + 1
        forms.append(Form(prompt_id, answer, labeler.name, overall, flags, rank))
    return forms


def _see(
    labeler: Labeler, prompt_id: str, answer: str, found: Findings, weights: dict[str, float]
) -> tuple[float, tuple[str, ...]]:
    """Impression and flags of one answer."""
    rng = random.Random(f"{labeler.seed}/{labeler.name}/{prompt_id}/{answer}")
    error = rng.gauss(0.0, labeler.noise)
    words = min(40, max(3, len(answer.split())))
    length = labeler.length_preference * math.log2(words / 10)
    ticked = []
    for flag in FLAGS:
        luck = rng.random()  # drawn for every flag, so that no flag moves another one's luck
        if flag in found.flags:
            seen = luck >= labeler.miss.get(flag, 0.0)
        else:
            seen = luck < labeler.false_alarm.get(flag, 0.0)
        if seen:
            ticked.append(flag)
    return found.weighted(weights) + length + error, tuple(ticked)


def _whole(value: float) -> int:
    """The nearest whole number, halves up: `round` would take 4.5 to 4 and 5.5 to 6."""
    return math.floor(value + 0.5)


def training_labelers(seed: int = 0) -> list[Labeler]:
    """Forty labelers, as many as the paper's team had; two agree on about 73 % of pairs."""
    rng = random.Random(f"training labelers/{seed}")
    return [draw_labeler(f"labeler-{i + 1:02d}", rng, TRAINING_NOISE, seed) for i in range(40)]


def held_out_labelers(seed: int = 0) -> list[Labeler]:
    """Ten labelers who rank nothing that is trained on; two agree on about 77 % of pairs."""
    rng = random.Random(f"held-out labelers/{seed}")
    return [draw_labeler(f"held-out-{i + 1:02d}", rng, HELD_OUT_NOISE, seed) for i in range(10)]


def draw_labeler(
    name: str, rng: random.Random, noise: tuple[float, float], seed: int = 0
) -> Labeler:
    """A careful person: sees most of what is there, weighs it much as the instructions say."""
    return Labeler(
        name,
        {count: max(0.1, rng.gauss(1.0, TASTE)) for count in TRAINING},
        rng.uniform(*noise),
        rng.gauss(0.0, SEVERITY),
        rng.uniform(*SPREAD),
        rng.gauss(LENGTH, LENGTH / 2),
        {flag: rng.uniform(*MISS) for flag in FLAGS},
        {flag: rng.uniform(*FALSE_ALARM) for flag in FLAGS},
        seed,
    )
