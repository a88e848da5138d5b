"""Agreement: numbers by hand, a slow loop, a published example and a library."""

import math
from itertools import combinations

import krippendorff
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minirlhf.course.ranking_widget import RankingWidget, rank
from minirlhf.engine.records import DataError, Ranking
from minirlhf.labeling.agreement import (
    TIES,
    agreement_with,
    agreement_with_others,
    flag_alphas,
    krippendorff_alpha,
    pairwise_agreement,
    ranks_of,
    rating_alpha,
)
from minirlhf.labeling.forms import FLAGS, Form

# Three people on A, B, C: ann A > B > C, bob A > B = C, eve B > A > C.
#         A:B  A:C  B:C
#   ann    +    +    +
#   bob    +    +    0
#   eve    -    +    +
#   ann-bob: agree, agree, (tie); ann-eve: differ, agree, agree; bob-eve: differ, agree, (tie)
BY_HAND = {
    "p": {
        "ann": {"A": 1, "B": 2, "C": 3},
        "bob": {"A": 1, "B": 2, "C": 2},
        "eve": {"A": 2, "B": 1, "C": 3},
    }
}
# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: twelve units, four
# observers, None = missing. Printed there: nominal .743; section D: ordinal .815.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def units_of(rows):
    return [[value for value in column if value is not None] for column in zip(*rows, strict=True)]


def slow_agreement(ranks, ties):
    """Every two labelers, every two responses, one at a time."""
    agreed = asked = 0
    for by_labeler in ranks.values():
        for one, two in combinations(by_labeler.values(), 2):
            for a, b in combinations(sorted(one.keys() & two.keys()), 2):
                first, second = np.sign(one[a] - one[b]), np.sign(two[a] - two[b])
                if ties == "dropped":
                    if first and second:
                        asked += 1
                        agreed += first == second
                    continue
                asked += 1
                if ties == "half":
                    agreed += 1 - abs(first - second) / 2
                else:
                    agreed += first == second
    return (agreed / asked if asked else math.nan), asked


a_rank = st.integers(1, 4)
a_prompt = st.dictionaries(
    st.sampled_from(["ann", "bob", "eve", "kim"]),
    st.dictionaries(st.sampled_from("ABCDE"), a_rank, min_size=1),
    min_size=1,
)
some_ranks = st.dictionaries(st.sampled_from(["p", "q", "r"]), a_prompt, min_size=1)
some_rows = st.integers(2, 6).flatmap(
    lambda width: st.lists(
        st.lists(st.one_of(st.none(), st.integers(1, 7)), min_size=width, max_size=width),
        min_size=2,
        max_size=5,
    )
)


def test_pairs_by_hand():
    # dropped: ann-bob 2 of 2, ann-eve 2 of 3, bob-eve 1 of 2
    found = pairwise_agreement(BY_HAND)
    assert (found.share, found.pairs) == (pytest.approx(5 / 7), 7)
    # half: 2.5 of 3, 2 of 3, 1.5 of 3; category: 2, 2 and 1 of 3
    assert pairwise_agreement(BY_HAND, "half").share == pytest.approx(6 / 9)
    assert pairwise_agreement(BY_HAND, "category").share == pytest.approx(5 / 9)


def test_each_labeler_against_the_others_by_hand():
    found = agreement_with_others(BY_HAND)
    assert {name: (a.share, a.pairs) for name, a in found.items()} == {
        "ann": (pytest.approx(4 / 5), 5),
        "bob": (pytest.approx(3 / 4), 4),
        "eve": (pytest.approx(3 / 5), 5),
    }


def test_each_labeler_against_a_key_by_hand():
    key = {"p": {"A": 1, "B": 1, "C": 2}, "not ranked by anybody": {"A": 1, "B": 2}}
    # A:B is a tie in the key; A:C and B:C are + and +; bob ties B and C.
    found = agreement_with(BY_HAND, key)
    assert {name: (a.share, a.pairs) for name, a in found.items()} == {
        "ann": (1.0, 2),
        "bob": (1.0, 1),
        "eve": (1.0, 2),
    }
    half = agreement_with(BY_HAND, key, "half")
    # + against the key's tie is a half: 2.5, 0.5 + 1 + 0.5 and 2.5 of 3
    assert [a.share for a in half.values()] == pytest.approx([2.5 / 3, 2 / 3, 2.5 / 3])
    assert agreement_with(BY_HAND, {})["ann"].pairs == 0


def test_two_who_tie_everything_have_nothing_to_agree_on():
    tied = {"p": {"ann": {"A": 1, "B": 1}, "bob": {"A": 1, "B": 1}}}
    assert pairwise_agreement(tied).pairs == 0
    assert math.isnan(pairwise_agreement(tied).share)
    assert pairwise_agreement(tied, "half").share == 1.0
    assert pairwise_agreement(tied, "category").share == 1.0


def test_nobody_agrees_with_themselves():
    alone = {"p": {"ann": {"A": 1, "B": 2}}}
    assert pairwise_agreement(alone).pairs == 0
    assert agreement_with_others(alone) == {}


@settings(max_examples=60, deadline=None)
@given(some_ranks, st.sampled_from(TIES))
def test_pairs_against_a_slow_loop(ranks, ties):
    share, asked = slow_agreement(ranks, ties)
    found = pairwise_agreement(ranks, ties, resamples=20)
    assert found.pairs == asked
    assert found.share == pytest.approx(share, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(some_ranks, st.sampled_from(TIES), st.randoms(use_true_random=False))
def test_pairs_know_no_order_and_no_names(ranks, ties, rng):
    def shuffled(mapping):
        return dict(rng.sample(list(mapping.items()), len(mapping)))

    names = dict(zip(["ann", "bob", "eve", "kim"], ["kim", "eve", "ann", "bob"], strict=True))
    moved = {
        prompt: shuffled({names[name]: shuffled(mine) for name, mine in by_labeler.items()})
        for prompt, by_labeler in shuffled(ranks).items()
    }
    found, again = (pairwise_agreement(r, ties, resamples=0) for r in (ranks, moved))
    assert found.pairs == again.pairs
    assert found.share == pytest.approx(again.share, nan_ok=True)
    # Symmetric: seen from each labeler, every two of them were counted twice.
    each = agreement_with_others(ranks, ties)
    assert sum(a.pairs for a in each.values()) == 2 * found.pairs


def test_the_interval_is_of_prompts():
    # 50 prompts on which two agree, 50 on which they do not: standard error 5 %, so 40 to 60 %.
    yes = {"ann": {"A": 1, "B": 2}, "bob": {"A": 1, "B": 2}}
    no = {"ann": {"A": 1, "B": 2}, "bob": {"A": 2, "B": 1}}
    ranks = {i: yes if i % 2 else no for i in range(100)}
    found = pairwise_agreement(ranks, resamples=2_000)
    assert found.share == 0.5
    assert found.low == pytest.approx(0.402, abs=0.02)
    assert found.high == pytest.approx(0.598, abs=0.02)
    assert found == pairwise_agreement(ranks, resamples=2_000)
    # Twenty responses to one prompt are one prompt: no interval can come of it.
    many = {"p": {name: dict(zip("ABCDEFGH", range(8), strict=True)) for name in ("ann", "bob")}}
    found = pairwise_agreement(many)
    assert (found.low, found.share, found.high, found.pairs) == (1.0, 1.0, 1.0, 28)


def test_other_words_for_ties_are_refused():
    with pytest.raises(ValueError, match="dropped, half, category, there is no 'split'"):
        pairwise_agreement(BY_HAND, "split")


def test_alpha_of_the_published_example():
    assert krippendorff_alpha(units_of(PUBLISHED), "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units_of(PUBLISHED), "ordinal") == pytest.approx(0.815, abs=5e-4)
    # Section A of the same paper: two observers, ten units, binary, printed as .095
    binary = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    assert krippendorff_alpha(units_of(binary), "nominal") == pytest.approx(0.095, abs=5e-4)


def test_alpha_by_hand():
    # (1,1), (2,2), (3,3,4): o11 = o22 = 2, o33 = 1, o34 = o43 = 1; n = 2, 2, 2, 1, together 7.
    # nominal: 1 - 6 * 2 / (49 - 4 - 4 - 4 - 1) = 1 - 12 / 36
    units = [(1, 1), (2, 2), (3, 3, 4)]
    assert krippendorff_alpha(units, "nominal") == pytest.approx(2 / 3)
    # ordinal distances: 12: 2, 13: 1 + 2 + 1 = 4, 14: 1 + 2 + 2 + .5 = 5.5, 23: 2, 24: 3.5,
    # 34: 1.5, squared. Observed 2 * 2.25; expected 2 * (4*4 + 4*16 + 2*30.25 + 4*4 + 2*12.25
    # + 2*2.25) = 2 * 185.5
    assert krippendorff_alpha(units, "ordinal") == pytest.approx(1 - 6 * 2.25 / 185.5)


def test_alpha_ignores_what_one_labeler_alone_judged():
    units = units_of(PUBLISHED)
    more = [*units, [1], [7], []]
    for level in ("nominal", "ordinal"):
        assert krippendorff_alpha(more, level) == krippendorff_alpha(units, level)


def test_alpha_without_variation_is_undefined():
    assert math.isnan(krippendorff_alpha([(1, 1), (1, 1, 1)], "nominal"))
    assert math.isnan(krippendorff_alpha([(1,), (2,)], "ordinal"))
    with pytest.raises(ValueError, match="nominal or ordinal, not 'interval'"):
        krippendorff_alpha([(1, 2)], "interval")


@settings(max_examples=80, deadline=None)
@given(some_rows, st.sampled_from(["nominal", "ordinal"]))
def test_alpha_against_the_library(rows, level):
    ours = krippendorff_alpha(units_of(rows), level)
    paired = {value for unit in units_of(rows) if len(unit) > 1 for value in unit}
    assume(len(paired) > 1)
    data = np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=float)
    theirs = krippendorff.alpha(reliability_data=data, level_of_measurement=level)
    assert ours == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(some_rows, st.sampled_from(["nominal", "ordinal"]), st.randoms(use_true_random=False))
def test_alpha_knows_no_order(rows, level, rng):
    units = units_of(rows)
    moved = [rng.sample(unit, len(unit)) for unit in rng.sample(units, len(units))]
    assert krippendorff_alpha(units, level) == pytest.approx(
        krippendorff_alpha(moved, level), nan_ok=True
    )


@given(st.lists(st.integers(1, 7), min_size=2), st.integers(2, 5))
def test_alpha_of_perfect_agreement_is_one(values, labelers):
    assume(len(set(values)) > 1)
    units = [[value] * labelers for value in values]
    assert krippendorff_alpha(units, "nominal") == 1.0
    assert krippendorff_alpha(units, "ordinal") == 1.0


def test_alpha_of_forms():
    names = ("ann", "bob", "eve", "kim")
    forms = [
        Form(f"prompt {i % 5}", f"response {i}", name, value, ("hallucination",) * (value > 2))
        for name, row in zip(names, PUBLISHED, strict=True)
        for i, value in enumerate(row)
        if value is not None
    ]
    assert rating_alpha(forms) == pytest.approx(0.815, abs=5e-4)
    flags = flag_alphas(forms)
    assert list(flags) == list(FLAGS)
    ticked = [[value and int(value > 2) for value in row] for row in PUBLISHED]
    data = np.array([[np.nan if v is None else v for v in row] for row in ticked], dtype=float)
    theirs = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
    assert flags["hallucination"] == pytest.approx(theirs)
    assert all(math.isnan(flags[flag]) for flag in FLAGS if flag != "hallucination")
    # A text that stands twice under a prompt is no second opinion of the same labeler.
    again = Form("prompt 0", "response 0", "ann", 7, ("hallucination",))
    assert rating_alpha([*forms, again]) == rating_alpha(forms)


def test_people_and_simulated_labelers_enter_alike():
    prompt, texts = "What is the moon?", ["a rock", "a star", "a satellite"]
    widget = RankingWidget(prompt, texts)
    widget.ranks = rank("C > A = B", n=3)
    moved = RankingWidget(prompt, texts[::-1])  # the same cards, dealt in another order
    moved.ranks = rank("A > C > B", n=3)  # satellite, rock, star
    forms = [
        Form(prompt, text, "labeler-01", overall, (), place)
        for text, overall, place in zip(texts, (3, 2, 6), (2, 3, 1), strict=True)
    ]
    ranks = ranks_of([widget.to_ranking("ann"), moved.to_ranking("bob"), *forms])
    assert ranks == {
        prompt: {
            "ann": {"a rock": 2, "a star": 2, "a satellite": 1},
            "bob": {"a rock": 2, "a star": 3, "a satellite": 1},
            "labeler-01": {"a rock": 2, "a star": 3, "a satellite": 1},
        }
    }
    # ann-bob and ann-labeler: 2 of 2, her tie dropped; bob-labeler: 3 of 3
    assert pairwise_agreement(ranks).pairs == 7
    assert pairwise_agreement(ranks).share == 1.0
    # An id names the prompt where there is one, as it does in forms.
    history = ("Hello.", "Hi.")
    told = Ranking(prompt, texts, (1, 2, 3), "eve", history=history)
    assert list(ranks_of([told])) == ["Hello.\nHi.\nWhat is the moon?"]
    by_id = Ranking(prompt, texts, (1, 2, 3), "eve", id="moon/what/0")
    assert list(ranks_of([by_id, Form("moon/what/0", "a rock", "ann", 4)])) == ["moon/what/0"]


def test_a_text_that_stands_twice_counts_once():
    twice = Ranking("p", ("same", "same", "other"), (1, 3, 2), "ann")
    assert ranks_of([twice]) == {"p": {"ann": {"same": 1, "other": 2}}}


def test_rankings_that_do_not_compare_are_refused():
    one = Ranking("p", ("a", "b"), (1, 2), "ann", where="r.jsonl:1")
    two = Ranking("p", ("c", "d"), (1, 2), "ann", where="r.jsonl:2")
    with pytest.raises(
        DataError, match=r"^r.jsonl:2: field 'labeler': 'ann' has ranked the prompt 'p' before$"
    ):
        ranks_of([one, two])
    nobody = Ranking("p", ("a", "b"), (1, 2), where="r.jsonl:3")
    with pytest.raises(DataError, match=r"^r.jsonl:3: field 'labeler': is empty; "):
        ranks_of([nobody])
