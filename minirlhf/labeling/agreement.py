"""Do labelers agree? Pairs of responses that two of them put in the same order, and alpha."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from minirlhf.engine.records import DataError, Ranking
from minirlhf.labeling.forms import FLAGS, Form

# prompt -> labeler -> response -> rank (1 = best, equal = tied). Who did not rank is not there.
Ranks = dict[str, dict[str, dict[str, int]]]
TIES = ("dropped", "half", "category")


@dataclass(frozen=True)
class Agreement:
    """`share` of the `pairs` in which two labelers agreed; `low` and `high`: 95 % interval.

    `pairs` counts two responses as seen by two labelers once. `share`, `low` and `high` are nan
    where there is no pair.
    """

    share: float
    pairs: int
    low: float = math.nan
    high: float = math.nan


def ranks_of(records: Iterable[Form | Ranking]) -> Ranks:
    """What labelers ranked, from forms, from ranking records, or from both.

    A prompt is known by its id, and in a ranking without one, as the widget makes it, by its
    text with the history before it. A response is known by its text, so labelers may have seen
    them in any order; a text that stands twice under a prompt counts once, with its first rank.

    Raises:  DataError where a ranking does not say whose it is, or where a labeler ranks a prompt
             twice: the ranks of two rankings do not compare.
    """
    ranks: Ranks = {}
    for record in records:
        if isinstance(record, Form):
            mine = ranks.setdefault(record.prompt_id, {}).setdefault(record.labeler, {})
            mine.setdefault(record.response, record.rank)
            continue
        key = record.id or "\n".join((*record.history, record.prompt))
        by_labeler = ranks.setdefault(key, {})
        where = f"{record.where}: " if record.where else ""
        if not record.labeler:
            raise DataError(f"{where}field 'labeler': is empty; agreement needs to know who ranked")
        if record.labeler in by_labeler:
            raise DataError(
                f"{where}field 'labeler': {record.labeler!r} has ranked the prompt {key!r} before"
            )
        mine = by_labeler[record.labeler] = {}
        for response, rank in zip(record.responses, record.ranks, strict=True):
            mine.setdefault(response, rank)
    return ranks


def pairwise_agreement(
    ranks: Ranks, ties: str = "dropped", resamples: int = 1_000, seed: int = 0
) -> Agreement:
    """How often two labelers put two responses to a prompt in the same order.

    Every two labelers are asked about every two responses that both ranked. `ties` says what
    becomes of a tie:
        dropped   the pair counts only where both labelers ordered it (the paper trains on such
                  pairs; how it treated ties in its 72.6 % it does not say)
        half      a tie against an order is half an agreement, a tie against a tie a whole one
        category  a tie is a third answer: it agrees with a tie and with nothing else

    Args:    resamples: bootstrap draws of prompts, all labelers kept, for the interval.
    Raises:  ValueError for another word in `ties`.
    """
    counts = [_agreed(by_labeler, ties) for by_labeler in ranks.values()]
    agreed, asked = map(sum, zip(*counts, strict=True)) if counts else (0.0, 0)
    if not asked:
        return Agreement(math.nan, 0)
    rng = random.Random(f"agreement/{seed}")
    shares = []
    for _ in range(resamples):
        drawn = rng.choices(counts, k=len(counts))
        of = sum(count for _, count in drawn)
        if of:
            shares.append(sum(same for same, _ in drawn) / of)
    shares.sort()
    at = round(0.025 * (len(shares) - 1))
    low, high = (shares[at], shares[-1 - at]) if shares else (math.nan, math.nan)
    return Agreement(agreed / asked, asked, low, high)


def agreement_with(
    ranks: Ranks, key: Mapping[str, Mapping[str, int]], ties: str = "dropped"
) -> dict[str, Agreement]:
    """How often each labeler agrees with one given order: the researchers' own, or the gold one.

    Args:    key: prompt -> response -> rank. Prompts and responses that are not in it are skipped.
    Returns: labeler -> agreement without an interval, in the order of the labelers' names.
    """
    return _totalled(
        (labeler, _agreed({"labeler": mine, "key": key.get(prompt, {})}, ties))
        for prompt, by_labeler in ranks.items()
        for labeler, mine in by_labeler.items()
    )


def agreement_with_others(ranks: Ranks, ties: str = "dropped") -> dict[str, Agreement]:
    """How often each labeler agrees with all others, each of the others counted alike.

    Returns: labeler -> agreement without an interval, in the order of the labelers' names.
    """
    return _totalled(
        (one, _agreed({one: by_labeler[one], other: by_labeler[other]}, ties))
        for by_labeler in ranks.values()
        for one, other in permutations(sorted(by_labeler), 2)
    )


def _totalled(counts: Iterable[tuple[str, tuple[float, int]]]) -> dict[str, Agreement]:
    """Each labeler's agreement from any number of their (agreements, times asked)."""
    totals: dict[str, tuple[float, int]] = {}
    for labeler, (same, of) in counts:
        agreed, asked = totals.get(labeler, (0.0, 0))
        totals[labeler] = agreed + same, asked + of
    return {
        name: Agreement(agreed / asked if asked else math.nan, asked)
        for name, (agreed, asked) in sorted(totals.items())
    }


def _agreed(by_labeler: Mapping[str, Mapping[str, int]], ties: str) -> tuple[float, int]:
    """(agreements, times that two labelers were asked about two responses) for one prompt.

    With `first` labelers who prefer the one response, `second` the other and `tied` neither, two
    labelers who agree are two of the same camp: no need to go through all who could be paired.
    """
    if ties not in TIES:
        raise ValueError(f"ties are {', '.join(TIES)}, there is no {ties!r}")
    responses = sorted({response for mine in by_labeler.values() for response in mine})
    agreed, asked = 0.0, 0
    for a, b in combinations(responses, 2):
        votes = Counter(
            (mine[a] < mine[b]) - (mine[a] > mine[b])
            for mine in by_labeler.values()
            if a in mine and b in mine
        )
        first, second, tied = votes[1], votes[-1], votes[0]
        agreed += math.comb(first, 2) + math.comb(second, 2)
        if ties == "dropped":
            asked += math.comb(first + second, 2)
            continue
        asked += math.comb(first + second + tied, 2)
        agreed += math.comb(tied, 2)
        if ties == "half":
            agreed += tied * (first + second) / 2
    return agreed, asked


def krippendorff_alpha(units: Iterable[Sequence[int]], level: str) -> float:
    """Krippendorff's alpha: 1 - observed disagreement / disagreement expected by chance.

    1 = all agree, 0 = no better than values dealt out at random, below 0 = worse than that.
        o[c,k] = sum over units, over ordered pairs of different values' owners with values
                 (c, k), of 1 / (values of the unit - 1)
        n[c]   = sum over k of o[c,k];  n = sum over c of n[c]
        alpha  = 1 - (n - 1) * sum o[c,k] d(c,k) / sum n[c] n[k] d(c,k)
    d is 1 for different values (nominal), or the square of how many values lie between them, with
    half of those at the ends (ordinal).

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability".
    Args:    units: for each thing that was judged, the values that it got, one from each labeler
             who judged it, in any order. Who did not judge it is left out; a unit with fewer than
             two values says nothing.
             level: "nominal" for flags, "ordinal" for ratings.
    Returns: alpha; nan where fewer than two different values occur, since then nothing could
             have differed.
    Raises:  ValueError for another level.

    >>> round(krippendorff_alpha([(1, 1), (2, 2), (3, 3, 4)], "nominal"), 3)
    0.667
    """
    if level not in ("nominal", "ordinal"):
        raise ValueError(f"level is nominal or ordinal, not {level!r}")
    met: Counter = Counter()
    for values in units:
        if len(values) < 2:
            continue
        count = Counter(values)
        for c in count:
            for k in count:
                pairs = count[c] * (count[k] - (c == k))
                met[c, k] += pairs / (len(values) - 1)
    n: Counter = Counter()
    for (c, _), weight in met.items():
        n[c] += weight
    distance = _distances(n, level)
    expected = sum(n[c] * n[k] * distance[c, k] for c in n for k in n)
    if not expected:
        return math.nan
    observed = sum(weight * distance[pair] for pair, weight in met.items())
    return 1 - (sum(n.values()) - 1) * observed / expected


def _distances(n: Mapping[int, float], level: str) -> dict[tuple[int, int], float]:
    """d(c, k) for every two values; `n`: how often each one occurs."""
    values = sorted(n)
    if level == "nominal":
        return {(c, k): float(c != k) for c in values for k in values}
    distance = {}
    for c in values:
        for k in values:
            low, high = min(c, k), max(c, k)
            between = sum(n[value] for value in values if low <= value <= high)
            distance[c, k] = (between - (n[c] + n[k]) / 2) ** 2
    return distance


def rating_alpha(forms: Iterable[Form]) -> float:
    """Ordinal alpha of the ratings from 1 to 7."""
    return krippendorff_alpha(_units(forms, lambda form: form.overall), "ordinal")


def flag_alphas(forms: Iterable[Form]) -> dict[str, float]:
    """Nominal alpha of each flag; nan for a flag that nobody ticked, or everybody always."""
    forms = list(forms)
    return {
        flag: krippendorff_alpha(_units(forms, lambda form, f=flag: f in form.flags), "nominal")
        for flag in FLAGS
    }


def _units(forms: Iterable[Form], value) -> list[list[int]]:
    """The values of each response, one per labeler: the first where the text stood twice."""
    units: dict[tuple[str, str], dict[str, int]] = {}
    for form in forms:
        unit = units.setdefault((form.prompt_id, form.response), {})
        unit.setdefault(form.labeler, value(form))
    return [list(unit.values()) for unit in units.values()]
