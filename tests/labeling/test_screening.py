"""Screening: scores by hand, soft cut-offs, and teams that cover many groups."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirlhf.engine.records import DataError
from minirlhf.labeling.forms import Form
from minirlhf.labeling.screening import (
    ScreeningResult,
    flagging_agreement,
    ranking_agreement,
    screen,
)


def result(name, flagging=0.9, ranking=0.9, writing=6.5, groups=()):
    return ScreeningResult(name, flagging, ranking, writing, groups)


def flagged(name, *flags):
    """One form per text: the flags of text 0, of text 1, ..."""
    return [Form(f"t{i}", f"text {i}", name, 4, ticked) for i, ticked in enumerate(flags)]


def ranked(name, **ranks):
    return [Form("p", response, name, 4, (), rank) for response, rank in ranks.items()]


def test_the_score_by_hand():
    # 1/2 for each part at its cut-off; e / (1 + e) = .731059 one width above, .268941 below
    assert result("at", 0.75, 0.75, 6.0).score == pytest.approx(1.5)
    assert result("above", 0.78, 0.75, 6.0).score == pytest.approx(1.731059)
    assert result("below", 0.75, 0.72, 6.4).score == pytest.approx(0.5 + 0.268941 + 0.731059)


def test_cut_offs_are_soft_and_not_a_sum():
    nearly = result("nearly", 0.74, 0.95, 6.8)
    mediocre = result("mediocre", 0.76, 0.76, 6.1)
    assert nearly.score > mediocre.score  # no wall at 75 %
    # Far below one cut-off: no brilliance elsewhere makes up for it against solid people.
    brilliant = result("brilliant", 1.0, 1.0, 3.0)
    assert screen([brilliant, result("solid", 0.82, 0.82, 6.4)], 1) == ["solid"]


def test_the_best_are_chosen_whatever_their_order():
    people = [result(f"c{i}", ranking=0.6 + 0.04 * i) for i in range(8)]
    assert screen(people, 3) == ["c7", "c6", "c5"]
    assert screen(people[::-1], 3) == ["c7", "c6", "c5"]
    assert screen([result("b"), result("a")], 1) == ["a"]


def test_a_team_covers_groups():
    one = result("one", groups=("age", "gender"))
    same = result("same", groups=("age", "gender"), ranking=0.92)
    other = result("other", groups=("religion",), ranking=0.85)
    # "same" is the best; then "one" brings no new group and "other" brings one of three
    assert screen([one, same, other], 2) == ["same", "other"]
    # Groups do not bring in who failed a part.
    careless = result("careless", groups=("religion",), ranking=0.4)
    assert screen([one, same, careless], 2) == ["same", "one"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(1, 7)), min_size=1, max_size=12),
    st.data(),
)
def test_without_groups_the_chosen_have_the_highest_scores(values, data):
    people = [result(f"c{i:02d}", *v) for i, v in enumerate(values)]
    wanted = data.draw(st.integers(1, len(people)))
    chosen = screen(people, wanted)
    assert len(set(chosen)) == wanted
    left = [p.score for p in people if p.candidate not in chosen]
    assert min(p.score for p in people if p.candidate in chosen) >= max(left, default=0)


def test_flagging_counts_texts_not_flags():
    key = flagged("us", ("sexual_content",), ("violent_content",), (), ("hallucination",))
    # right: another sensitive flag is as good; wrong: missed; wrong: made up; right: a made-up
    # claim is not sensitive speech, ticked or not
    mine = flagged("ann", ("harmful_advice",), (), ("encourages_harm",), ())
    assert flagging_agreement(mine, key) == 0.5
    assert flagging_agreement(mine[::-1], key) == 0.5
    assert flagging_agreement(key, key) == 1.0
    with pytest.raises(ValueError, match="3 texts and the researchers 4"):
        flagging_agreement(mine[:3], key)
    with pytest.raises(ValueError, match="0 texts"):
        flagging_agreement([], [])


def test_ranking_counts_pairs_that_both_ordered():
    key = ranked("us", a=1, b=2, c=3, d=3)
    # a:b tied by ann; a:c, a:d, b:c right; b:d wrong; c:d tied by the researchers
    assert ranking_agreement(ranked("ann", a=1, b=1, c=2, d=2), key) == 1.0
    assert ranking_agreement(ranked("bob", a=1, b=3, c=4, d=2), key) == 4 / 5
    assert ranking_agreement(ranked("eve", a=3, b=2, c=1, d=1), key) == 0.0
    assert ranking_agreement(ranked("kim", a=1, b=1, c=1, d=1), key) == 0.0


def test_bad_input_is_named():
    for field, value, range_ in (
        ("flagging", 75, "0 to 1"),
        ("ranking", float("nan"), "0 to 1"),
        ("writing", 0.5, "1 to 7"),
        ("writing", "6", "1 to 7"),
    ):
        with pytest.raises(DataError, match=f"field '{field}': must be {range_}, is "):
            result("ann", **{field: value})
    with pytest.raises(ValueError, match="3 wanted of 2 candidates"):
        screen([result("a"), result("b")], 3)
    with pytest.raises(ValueError, match="0 wanted of 1 candidates"):
        screen([result("a")], 0)
    with pytest.raises(ValueError, match="a candidate has two results"):
        screen([result("a"), result("a", 0.8)], 1)
