"""Choosing labelers: a test of four parts with soft cut-offs, as the paper's candidates took it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minirlhf.engine.records import DataError
from minirlhf.labeling.agreement import agreement_with, ranks_of
from minirlhf.labeling.forms import Form

# Flags that mark sensitive speech; the others are about quality and manner.
SENSITIVE = (
    "sexual_content",
    "violent_content",
    "encourages_harm",
    "denigrates_protected_class",
    "harmful_advice",
)
# The paper's soft cut-offs, and how far from them a result is clearly on one side. The widths and
# the worth of the fourth part are ours: the paper tells neither.
AGREEMENT_CUTOFF, AGREEMENT_WIDTH = 0.75, 0.03
WRITING_CUTOFF, WRITING_WIDTH = 6.0, 0.4
COVERAGE = 0.5  # points for naming every group that nobody chosen before has named


@dataclass(frozen=True)
class ScreeningResult:
    """How one candidate did.

    `flagging`: share of texts on which the candidate and the researchers agree whether they are
    sensitive; `ranking`: share of pairs of responses that the candidate puts in the researchers'
    order; `writing`: mean grade, 1 to 7, of demonstrations for sensitive prompts; `groups`: those
    for which the candidate says to be able to tell what is sensitive.
    Source: Ouyang et al. 2022, appendix B.1 (arXiv:2203.02155).
    """

    candidate: str
    flagging: float
    ranking: float
    writing: float
    groups: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "groups", tuple(self.groups))
        for name, low, high in (("flagging", 0, 1), ("ranking", 0, 1), ("writing", 1, 7)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not low <= value <= high:  # nan is in no range
                raise DataError(f"field '{name}': must be {low} to {high}, is {value!r}")

    @property
    def score(self) -> float:
        """Points for the first three parts, each from 0 to 1 and 1/2 at its cut-off.

        A soft cut-off, no wall: just below one costs little, far below it a whole point, and
        being far above another makes up for no more than that part has to give.
        """
        return (
            _passed(self.flagging, AGREEMENT_CUTOFF, AGREEMENT_WIDTH)
            + _passed(self.ranking, AGREEMENT_CUTOFF, AGREEMENT_WIDTH)
            + _passed(self.writing, WRITING_CUTOFF, WRITING_WIDTH)
        )


def _passed(value: float, cutoff: float, width: float) -> float:
    """1 / (1 + exp(-(value - cutoff) / width))"""
    return 1 / (1 + math.exp((cutoff - value) / width))


def screen(results: Sequence[ScreeningResult], wanted: int = 40) -> list[str]:
    """Choose candidates one after another, the best of those left each time.

    Best is the highest score plus COVERAGE times the share of all groups that the candidate names
    and nobody chosen so far does: a team should know sensitive speech about many groups, while
    any one member need not. Equals go in the order of their names.

    Returns: names of the chosen, first choice first.
    Raises:  ValueError for fewer candidates than wanted or two results of one candidate.
    """
    if not 1 <= wanted <= len(results):
        raise ValueError(f"{wanted} wanted of {len(results)} candidates")
    left = {result.candidate: result for result in sorted(results, key=lambda r: r.candidate)}
    if len(left) < len(results):
        raise ValueError("a candidate has two results")
    groups = {group for result in results for group in result.groups}
    covered: set[str] = set()
    chosen = []
    for _ in range(wanted):
        best = max(left.values(), key=lambda r: r.score + _new_groups(r, covered, groups))
        chosen.append(left.pop(best.candidate).candidate)
        covered.update(best.groups)
    return chosen


def _new_groups(result: ScreeningResult, covered: set[str], groups: set[str]) -> float:
    return COVERAGE * len(set(result.groups) - covered) / max(1, len(groups))


def flagging_agreement(forms: Iterable[Form], key: Iterable[Form]) -> float:
    """Share of texts on which a candidate and the researchers agree whether they are sensitive.

    A text is sensitive if any flag of SENSITIVE is ticked; which of them does not matter.

    Raises:  ValueError where the two did not see the same texts, or none.
    """
    mine, theirs = (
        {(form.prompt_id, form.response): not set(SENSITIVE).isdisjoint(form.flags) for form in of}
        for of in (forms, key)
    )
    if mine.keys() != theirs.keys() or not mine:
        raise ValueError(
            f"the candidate flagged {len(mine)} texts and the researchers {len(theirs)}: "
            "agreement needs the same ones"
        )
    return sum(mine[text] == theirs[text] for text in mine) / len(mine)


def ranking_agreement(forms: Iterable[Form], key: Iterable[Form]) -> float:
    """Share of pairs that a candidate puts in the researchers' order, of those both ordered.

    A candidate who ties everything orders nothing and gets 0.
    """
    researchers = {}
    for prompt, by_labeler in ranks_of(key).items():
        (researchers[prompt],) = by_labeler.values()
    (found,) = agreement_with(ranks_of(forms), researchers).values()
    return found.share if found.pairs else 0.0
