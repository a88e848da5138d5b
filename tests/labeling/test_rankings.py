"""Rankings made of forms."""

import pytest

from minirlhf.engine.records import DataError, Prompt, Ranking
from minirlhf.labeling.forms import Form
from minirlhf.labeling.rankings import ranking_of

PROMPT = Prompt("And when?", "p", "chat", ("What is the moon?", "A rock."))


def form(response, rank, labeler="ann", prompt="p", where=""):
    return Form(prompt, response, labeler, 4, (), rank, where)


def test_forms_become_one_ranking_with_ties():
    found = ranking_of([form("b", 2), form("a", 1), form("c", 2)], PROMPT)
    history = ("What is the moon?", "A rock.")
    assert found == Ranking(
        "And when?", ("b", "a", "c"), (2, 1, 2), "ann", "", "p", "chat", history
    )


def test_ties_alone_are_no_ranking():
    assert ranking_of([form("a", 1), form("b", 1)], PROMPT) is None
    assert ranking_of([form("a", 1)], PROMPT) is None
    assert ranking_of([], PROMPT) is None


def test_forms_of_others_are_refused():
    with pytest.raises(DataError, match=r"^f:2: field 'labeler': 'bob' among forms of 'ann'$"):
        ranking_of([form("a", 1), form("b", 2, "bob", where="f:2")], PROMPT)
    with pytest.raises(DataError, match=r"^field 'prompt_id': 'q' among forms of 'p'$"):
        ranking_of([form("a", 1), form("b", 2, prompt="q")], PROMPT)
