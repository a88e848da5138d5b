"""The study's training jobs: who ranks what, pairs taken apart, what is measured."""

import pytest
import torch

from minirlhf.engine.records import Prompt, Ranking
from minirlhf.evaluation.evaluate import System
from minirlhf.maths.preferences import pair_accuracy
from minirlhf.study import training
from minirlhf.study.training import (
    ask,
    labelled,
    measured,
    pairs_of,
    responses_of,
    world,
)
from minirlhf.world.almanac import load_almanac, statement
from minirlhf.world.labelers import Labeler
from minirlhf.world.prompts import fact_of

RANKING = Ranking("Why?", ("a", "b", "c", "d"), (2, 1, 2, 4), "me", id="why", use_case="chat",
                  history=("Hi!", "Hello!"))  # fmt: skip


def test_taken_apart_every_pair_is_a_ranking_of_its_own():
    apart = pairs_of(RANKING)  # five of six: one is a tie
    assert sorted(pair.responses for pair in apart) == [
        ("a", "d"), ("b", "a"), ("b", "c"), ("b", "d"), ("c", "d")]  # fmt: skip
    for pair in apart:
        assert pair.ranks == (1, 2) and pair.prompt == "Why?" and pair.history == RANKING.history
        assert (pair.labeler, pair.id, pair.use_case) == ("me", "why", "chat")


@pytest.fixture(scope="module")
def rows():
    """Answers to two questions of the almanac, one right and one wrong, in that order."""
    asked = world("almanac").to_rank[:2]
    return [
        {"prompt_id": p.id, "texts": ["Nobody knows, go away."] * 8 + [right_answer(p)],
         "ended": [True] * 9}
        for p in asked
    ]  # fmt: skip


def right_answer(prompt):
    return statement(fact_of(load_almanac(), prompt), 0)


def test_labelers_rank_as_many_as_are_asked_for(rows):
    exact = Labeler("exact")
    for ranking in labelled(rows, "almanac", [exact], seed=0, k=9):
        assert ranking.ranks == (2,) * 8 + (1,) and ranking.labeler == "exact"
    assert labelled(rows, "almanac", [exact], seed=0, k=8) == []  # all tied: no pair
    counts = {responses_of(str(i)) for i in range(200)}
    assert counts == {4, 5, 6, 7, 8, 9}


def test_who_ranks_a_prompt_is_the_seeds_luck(rows):
    people = [Labeler(str(i)) for i in range(40)]
    drawn = [[r.labeler for r in labelled(rows, "almanac", people, s, k=9)] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_accuracy_is_that_of_the_formula(backbone, monkeypatch):
    scores = {"a": 1.0, "b": 1.5, "c": 2.0, "d": 2.0, "x": 0.3, "y": 0.1}
    monkeypatch.setattr(
        training, "score_texts", lambda _, prompts, texts: [scores[t] for t in texts]
    )
    other = Ranking("Who?", ("x", "y"), (1, 2))
    found = measured(backbone, [RANKING, other])
    table = torch.tensor([[1.0, 1.5, 2.0, 2.0], [0.3, 0.1, 0, 0]])
    ranks = torch.tensor([[2, 1, 2, 4], [1, 2, 0, 0]])
    assert found["accuracy"] == pytest.approx(pair_accuracy(table, ranks).item())
    # b over a alone is clear, c and d score the same: 1 + 1/2 of 5; then 1 of 1
    assert found["prompts"] == [[1.5, 5], [1, 1]]
    assert sorted(found["deltas"]) == pytest.approx([-1.0, -0.5, -0.5, 0.0, 0.2, 0.5])


def test_a_base_is_cut_at_its_stop_and_its_examples_where_there_is_no_room(backbone, monkeypatch):
    seen = []

    def answers(backbone, role, encoder, ids, *rest, **options):
        seen.extend(ids)
        return [("Red.\nQ: more", False), ("Blue", False)]

    monkeypatch.setattr(training, "answers", answers)
    system = System("prompted", "base", "Q: ", "\nA:", stop="\n")
    short, long = Prompt("Hi?"), Prompt("what " * 20)
    tokens = backbone.context_length - 10
    assert ask(backbone, system, [short, long], tokens, 0) == [("Red.", True), ("Blue", False)]
    whole = backbone.tokenizer(system.plain(long), add_special_tokens=False)["input_ids"]
    assert len(whole) > 10 and seen[1] == whole[-10:]
