"""An answer, read once, and what a check makes of it."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from minirlhf.world.judge import Judge
from minirlhf.world.lore import Claim, Words


@dataclass(frozen=True)
class Outcome:
    """`helpful` before form is weighed; `truthful` None: as the claims of the answer have it."""

    helpful: float
    truthful: float | None = None
    harmless: float = 1.0


@dataclass(frozen=True)
class Reading:
    """An answer, read once."""

    said: str
    words: Words
    parts: tuple[str, ...]  # its sentences
    claims: tuple[Claim, ...]
    per_sentence: tuple[tuple[Claim, ...], ...]  # the claims of each sentence
    current: str  # id of the subject that the request is about
    judge: Judge
    questions: Collection[Words]  # every question of the almanac

    @cached_property
    def lower(self) -> str:
        """The answer in lower case, with plain apostrophes."""
        return self.said.lower().replace("’", "'")

    def true_about(self, subject_id: str, but: Collection[str] = ()) -> set[str]:
        """Relations in which the answer tells the truth about the subject."""
        return {
            claim.relation
            for claim in self.claims
            if claim.status == "true"
            and claim.subject_id == subject_id
            and f"{subject_id}/{claim.relation}" not in but
        }

    @property
    def false(self) -> int:
        """How many different false claims it makes."""
        return len({claim for claim in self.claims if claim.status == "false"})
