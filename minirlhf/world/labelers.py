"""Simulated labelers: the gold judge's view, bent by taste and noise, on a scale of 1 to 7."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from minirlhf.world.almanac import Fact
from minirlhf.world.judge import WEIGHTS, Judge

# Labelers weigh what an answer does in their own way; the judge's weights are the middle.
_TASTE = 0.15  # standard deviation of a labeler's weights, relative
_NOISE = (0.19, 0.30)  # per answer, in units of the judge's score (0..1)
_LENGTH = 0.04  # per doubling of the length beyond ten words; ST found labelers like length


@dataclass(frozen=True)
class Labeler:
    """One simulated person.

    `weights`: what each finding is worth to them (sums to 1); `noise`: standard deviation of a
    rating's error in score units; `length_preference`: score units per doubling of the number of
    words, zero at ten words, flat below three and above forty.

    The same labeler rates the same answer to the same question the same, whenever asked: the
    noise is drawn from a hash of these, not from a running generator.
    """

    name: str
    judge: Judge = field(repr=False)
    weights: dict[str, float]
    noise: float = 0.0
    length_preference: float = 0.0
    seed: int = 0

    def rate(self, fact: Fact, answer: str, ended: bool = True) -> int:
        """Overall quality from 1 (worst) to 7 (best), as on the paper's form."""
        return min(7, max(1, round(1 + 6 * self._impression(fact, answer, ended))))

    def rank(
        self, fact: Fact, responses: Sequence[str], ended: Sequence[bool] | None = None
    ) -> list[int]:
        """Ranks of the responses: 1 = best, equal ratings tie, no gaps.

        Raises:  ValueError where `ended` has another length than `responses`.
        """
        ended = [True] * len(responses) if ended is None else ended
        if len(ended) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(ended)} entries in ended")
        ratings = [self.rate(fact, r, e) for r, e in zip(responses, ended, strict=True)]
        order = sorted(set(ratings), reverse=True)
        return [order.index(rating) + 1 for rating in ratings]

    def _impression(self, fact: Fact, answer: str, ended: bool) -> float:
        flags = self.judge(fact, answer, ended).flags
        score = sum(self.weights[name] for name, found in flags.items() if found)
        words = min(40, max(3, len(answer.split())))
        score += self.length_preference * math.log2(words / 10)
        rng = random.Random(f"{self.seed}/{self.name}/{fact.id}/{ended}/{answer}")
        return score + rng.gauss(0.0, self.noise)


def default_labelers(judge: Judge, n: int = 8, seed: int = 0) -> list[Labeler]:
    """`n` labelers who differ in weights, noise and love of length.

    Two of them agree on about 73 % of the pairs that both put in an order, as in the paper.
    """
    rng = random.Random(f"labelers/{seed}")
    people = []
    for i in range(n):
        raw = {name: w * max(0.1, rng.gauss(1.0, _TASTE)) for name, w in WEIGHTS.items()}
        total = sum(raw.values())
        people.append(
            Labeler(
                f"labeler-{i + 1:02d}",
                judge,
                {name: w / total for name, w in raw.items()},
                rng.uniform(*_NOISE),
                rng.gauss(_LENGTH, _LENGTH / 2),
                seed,
            )
        )
    return people
