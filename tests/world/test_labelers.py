"""Labelers: repeatable, tied where equal, and agreeing about as much as the paper's."""

import random
from itertools import combinations

import pytest

from minirlhf.world.almanac import split_facts
from minirlhf.world.demonstrations import MANNERS, respond
from minirlhf.world.desk import Desk
from minirlhf.world.judge import WEIGHTS, Judge
from minirlhf.world.labelers import Labeler, default_labelers
from minirlhf.world.manners import EVASIVE_REPLIES, RUDE_REPLIES


@pytest.fixture(scope="module")
def labelers(shipped):
    return default_labelers(Judge(shipped))


@pytest.fixture(scope="module")
def answers(shipped):
    """For 100 facts 4 to 9 answers such as a half-trained model gives."""
    rng, desk = random.Random(1), Desk(shipped, 5)
    manners, shares = list(MANNERS), list(MANNERS.values())

    def answer(fact):
        kind = rng.random()
        if kind < 0.7:
            manner = rng.choices(manners, shares)[0]
            return respond(fact, manner, shipped.by_subject[fact.subject_id], rng), True
        if kind < 0.85:
            return desk.state(fact, 0.4), rng.random() < 0.9
        if kind < 0.92:
            return desk.answer(fact, 0.6, 0.6, 0.8), rng.random() < 0.8
        if kind < 0.96:
            return rng.choice(RUDE_REPLIES + EVASIVE_REPLIES), True
        return f"{desk.state(fact, 0.5)} {desk.ask(fact, 0.5)}", False

    facts = rng.sample(split_facts(shipped)[0], 100)
    return [(fact, [answer(fact) for _ in range(rng.randint(4, 9))]) for fact in facts]


def orders(labeler, fact, given):
    """+1, 0, -1 for each pair of different answers: first better, tie, second better."""
    ranks = labeler.rank(fact, [text for text, _ in given], [ended for _, ended in given])
    return [
        (ranks[i] < ranks[j]) - (ranks[i] > ranks[j])
        for i, j in combinations(range(len(given)), 2)
        if given[i] != given[j]
    ]


def test_noiseless_ratings_follow_the_judge(judge, almanac):
    fact = almanac.fact("europa/orbits")
    labeler = Labeler("exact", judge, dict(WEIGHTS))
    # 1 + 6 * score, rounded: scores 1, .85, .70, .60, .15 by hand.
    assert labeler.rate(fact, "Europa orbits Jupiter.") == 7
    assert labeler.rate(fact, "Jupiter.") == 6
    assert labeler.rate(fact, "lol it's Jupiter") == 5
    assert labeler.rate(fact, "Europa orbits Saturn.") == 5
    assert labeler.rate(fact, "") == 2
    responses = ["Jupiter.", "Europa orbits Jupiter.", "", "Jupiter", "Europa orbits Saturn."]
    assert labeler.rank(fact, responses) == [2, 1, 4, 2, 3]
    assert labeler.rank(fact, ["Jupiter.", "Europa orbits Jupiter."], [True, False]) == [1, 1]
    with pytest.raises(ValueError, match="2 responses but 1"):
        labeler.rank(fact, ["a", "b"], [True])


def test_length_preference_moves_equal_answers(judge, almanac):
    fact = almanac.fact("europa/orbits")
    short, long = (
        "Europa orbits Jupiter.",
        "In short, it seems to me that Europa goes around Jupiter.",
    )
    wordy = Labeler("wordy", judge, {name: w * 0.8 for name, w in WEIGHTS.items()}, 0.0, 0.1)
    brief = Labeler("brief", judge, {name: w * 0.8 for name, w in WEIGHTS.items()}, 0.0, -0.1)
    assert wordy.rank(fact, [short, long]) == [2, 1]
    assert brief.rank(fact, [short, long]) == [1, 2]


def test_a_labeler_repeats_herself_in_any_order(labelers, answers):
    again = default_labelers(labelers[0].judge)
    assert [labeler.weights for labeler in again] == [labeler.weights for labeler in labelers]
    fact, given = answers[0]
    texts = [text for text, _ in given]
    ratings = [again[2].rate(fact, text) for text in reversed(texts)][::-1]
    assert ratings == [labelers[2].rate(fact, text) for text in texts]
    ranks = labelers[2].rank(fact, texts)
    assert labelers[2].rank(fact, texts[::-1]) == ranks[::-1]


def test_ratings_and_ranks_have_their_form(labelers, answers):
    for fact, given in answers:
        for labeler in labelers:
            texts = [text for text, _ in given]
            ratings = [labeler.rate(fact, text) for text in texts]
            assert set(ratings) <= set(range(1, 8))
            ranks = labeler.rank(fact, texts)
            assert sorted(set(ranks)) == list(range(1, max(ranks) + 1))
            for i, j in combinations(range(len(texts)), 2):
                assert (ratings[i] > ratings[j]) == (ranks[i] < ranks[j])


def test_labelers_agree_about_as_much_as_the_paper_says(labelers, answers):
    given = [[orders(labeler, *item) for item in answers] for labeler in labelers]
    flat = [[order for item in one for order in item] for one in given]
    both = [
        (a, b)
        for one, two in combinations(flat, 2)
        for a, b in zip(one, two, strict=True)
        if a and b
    ]
    agreement = sum(a == b for a, b in both) / len(both)
    ties = sum(order == 0 for one in flat for order in one) / sum(map(len, flat))
    # The paper: 72.6 +- 1.5 % between training labelers, ties encouraged.
    assert agreement == pytest.approx(0.73, abs=0.03)
    assert 0.15 <= ties <= 0.4


def test_labelers_are_noisy_but_right_on_average(labelers, answers):
    agreed = []
    for fact, given in answers:
        scores = [labelers[0].judge(fact, *answer).score for answer in given]
        pairs = [
            (scores[i] > scores[j]) - (scores[i] < scores[j])
            for i, j in combinations(range(len(given)), 2)
            if given[i] != given[j]
        ]
        for labeler in labelers:
            found = zip(orders(labeler, fact, given), pairs, strict=True)
            agreed += [a == b for a, b in found if a and b]
    assert 0.78 <= sum(agreed) / len(agreed) <= 0.93


def test_labelers_differ(labelers):
    assert len({labeler.name for labeler in labelers}) == 8
    assert len({round(labeler.noise, 6) for labeler in labelers}) == 8
    for labeler in labelers:
        assert sum(labeler.weights.values()) == pytest.approx(1.0)
        assert max(labeler.weights, key=labeler.weights.get) == "true"
