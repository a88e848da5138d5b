"""The ranking widget without a browser: the plain-Python way and what it refuses."""

import pytest
import traitlets
from hypothesis import given
from hypothesis import strategies as st

from minirlhf.course.ranking_widget import RankingWidget, order, rank
from minirlhf.engine.records import DataError, Ranking

PROMPT = "What is the moon?"
RESPONSES = ["near", "fifth-largest", "ice", "Earth's satellite"]


@pytest.mark.parametrize(
    ("text", "n", "ranks"),
    [
        ("D > C > A = B", 4, (3, 3, 2, 1)),  # the moon example: D is best, A and B are tied
        (" d>c >A=b ", 4, (3, 3, 2, 1)),
        ("A = B = C", 3, (1, 1, 1)),
        ("B > A", 2, (2, 1)),
        ("I>H>G>F>E>D>C>B>A", 9, (9, 8, 7, 6, 5, 4, 3, 2, 1)),
    ],
)
def test_rank_reads_letters(text, n, ranks):
    assert rank(text, n) == ranks


@pytest.mark.parametrize(
    ("text", "n", "message"),
    [
        ("E > A > B > C > D", 4, "unknown answer 'E'.*A to D"),
        ("AB > C", 3, "unknown answer 'AB'.*> or = between"),
        ("D > C > A", 4, "answer B is missing"),
        ("D > C > A = B > D", 4, "answer D is named twice"),
        ("A = A > B", 2, "answer A is named twice"),
        ("A > > B", 2, "a letter is missing"),
        ("", 2, "a letter is missing"),
        ("A", 1, "2 to 26 responses, got 1"),
        ("A", 27, "2 to 26 responses, got 27"),
    ],
)
def test_rank_says_in_one_line_what_is_wrong(text, n, message):
    with pytest.raises(ValueError, match=message) as caught:
        rank(text, n)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_order_and_rank_are_inverse(ranks):
    read = rank(order(ranks), len(ranks))
    # The same answer to every "is i better than j?", and no gaps between the ranks.
    assert [(a > b) - (a < b) for a in read for b in read] == [
        (a > b) - (a < b) for a in ranks for b in ranks
    ]
    assert set(read) == set(range(1, max(read) + 1))


def test_widget_gives_ranks_pairs_and_a_record():
    widget = RankingWidget(PROMPT, RESPONSES)
    assert widget.ranks == (1, 2, 3, 4)
    widget.ranks = rank("D > C > A = B", n=4)
    assert widget.summary() == "D > C > A = B"
    assert set(widget.pairs()) == {("D", "C"), ("D", "A"), ("D", "B"), ("C", "A"), ("C", "B")}
    assert widget.to_ranking(labeler="me") == Ranking(
        PROMPT, tuple(RESPONSES), (3, 3, 2, 1), labeler="me"
    )


def test_gaps_in_ranks_are_closed():
    assert RankingWidget(PROMPT, RESPONSES, ranks=(7, 7, 2, 9)).ranks == (2, 2, 1, 3)


@pytest.mark.parametrize(
    "sent",
    [[1, 2, 3], [1, 2, 3, 4, 5], [0, 1, 2, 3], [1, 2, 3, "4"], [True, 2, 3, 4], [1.5, 2, 3, 4],
     [[1], 2, 3, 4], "1234", {"0": 1}, None],
)  # fmt: skip
def test_what_the_browser_sends_is_checked(sent):
    widget = RankingWidget(PROMPT, RESPONSES, ranks=(3, 3, 2, 1))
    with pytest.raises(traitlets.TraitError):
        widget.set_state({"ranks": sent})
    assert widget.ranks == (3, 3, 2, 1)


def test_the_browser_can_rank_but_not_change_the_question():
    widget = RankingWidget(PROMPT, RESPONSES)
    widget.set_state({"ranks": [2, 1, 1, 1]})  # JSON has lists only
    assert widget.ranks == (2, 1, 1, 1)
    widget.set_state(
        {"_responses": ["a", "b", "c", "d"], "_prompt": "", "responses": [], "prompt": 1}
    )
    assert (widget.prompt, widget.responses) == (PROMPT, tuple(RESPONSES))


def test_an_all_tie_ranking_holds_no_pair():
    widget = RankingWidget(PROMPT, RESPONSES, ranks=(1, 1, 1, 1))
    assert widget.pairs() == []
    with pytest.raises(DataError, match="tied"):
        widget.to_ranking()


def test_it_reads_as_text_where_no_widget_runs():
    data, _ = RankingWidget(PROMPT, RESPONSES, ranks=(3, 3, 2, 1))._repr_mimebundle_()
    assert data["text/plain"] == (
        "Prompt: What is the moon?\n"
        "1. D: Earth's satellite\n"
        "2. C: ice\n"
        "3. A: near  (tied)\n"
        "3. B: fifth-largest  (tied)\n"
        "D > C > A = B, so D > C, D > A, D > B, C > A, C > B"
    )
