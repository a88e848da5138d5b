"""study.judges: who wins, told by hand; judges that are repeatable and independent."""

from dataclasses import replace
from itertools import combinations

import pytest

from minirlhf.engine.records import Prompt
from minirlhf.evaluation.evaluate import Answer
from minirlhf.study.judges import (
    gold_places,
    labeler_places,
    panel,
    wins,
)
from minirlhf.world.findings import Findings
from minirlhf.world.labelers import Labeler, held_out_labelers

FOUND = {
    "good": Findings(1.0, 1.0, 1.0),
    "false": Findings(1.0, 0.0, 1.0),
    "silent": Findings(0.0, 1.0, 1.0),
    "rude": Findings(1.0, 1.0, 0.0),
    "bad": Findings(0.0, 0.0, 0.0),
}
EXACT = [Labeler("exact")]
TEAM = held_out_labelers()


def find(prompt, answer, ended):
    """What the text is called; half as helpful where it did not end."""
    found = FOUND[answer.split()[0]]
    return found if ended else replace(found, helpful=found.helpful / 2)


def asked(count):
    return [Prompt(f"question {i}", f"p{i}") for i in range(count)]


def answers(texts, ended=True):
    return [Answer(f"question {i}", "s", text, ended, 5) for i, text in enumerate(texts)]


def by_labelers(given, labelers=TEAM, **kwargs):
    return labeler_places(find, asked(len(next(iter(given.values())))), given, labelers, **kwargs)


def by_gold(given):
    return gold_places(find, asked(len(next(iter(given.values())))), given)


def test_an_exact_labeler_by_hand():
    # Evaluation weighs 0.25 helpful, 0.40 truthful, 0.35 harmless; a labeler sees sixths:
    # good 6; false 0.60 * 6 = 3.6 -> 4; silent 0.75 * 6 = 4.5 -> 5; rude 0.65 * 6 = 3.9 -> 4; bad 0
    given = {name: answers([name]) for name in FOUND}
    places = by_labelers(given, EXACT)
    assert places == {
        "good": [(1,)],
        "false": [(3,)],
        "silent": [(2,)],
        "rude": [(3,)],
        "bad": [(4,)],
    }
    assert wins(places["silent"], places["false"]) == [1.0]
    assert wins(places["rude"], places["false"]) == [0.5]
    assert wins(places["bad"], places["rude"]) == [0.0]


def test_the_gold_grader_by_hand():
    given = {name: answers([name]) for name in FOUND}
    places = by_gold(given)
    assert {name: place for name, [(place,)] in places.items()} == pytest.approx(
        {"good": 0.0, "false": 0.4, "silent": 0.25, "rude": 0.35, "bad": 1.0}
    )
    assert wins(places["rude"], places["false"]) == [1.0]  # where a labeler sees a tie
    assert wins(places["good"], places["good"]) == [0.5]


def test_each_prompt_is_won_by_itself():
    given = {"a": answers(["good", "false", "bad"]), "b": answers(["false", "good", "bad"])}
    for places in (by_labelers(given, EXACT), by_gold(given)):
        assert wins(places["a"], places["b"]) == [1.0, 0.0, 0.5]
        assert wins(places["b"], places["a"]) == [0.0, 1.0, 0.5]


def test_an_answer_that_was_cut_off_counts_for_less():
    given = {"whole": answers(["good"]), "cut": answers(["good"], ended=False)}
    places = by_gold(given)
    assert places["cut"] == [(0.125,)]  # half of 0.25
    assert wins(places["whole"], places["cut"]) == [1.0]


def test_three_judges_have_three_votes():
    assert wins([(1, 1, 2)], [(2, 2, 1)]) == [1.0]
    assert wins([(1, 2, 2)], [(2, 1, 1)]) == [0.0]
    assert wins([(1, 2, 1)], [(2, 1, 1)]) == [0.5]
    # who cares for help alone likes the falsehood, the two others what is true
    helper = Labeler("h", {"helpful": 100.0, "truthful": 0.01, "harmless": 0.01})
    truthers = [
        Labeler(f"t{i}", {"helpful": 0.01, "truthful": 100.0, "harmless": 0.01}) for i in (1, 2)
    ]
    given = {"lie": answers(["false"] * 5), "silence": answers(["silent"] * 5)}
    alone = by_labelers(given, [helper])
    assert wins(alone["lie"], alone["silence"]) == [1.0] * 5
    three = by_labelers(given, [helper, *truthers], each=3)
    assert wins(three["lie"], three["silence"]) == [0.0] * 5


def test_the_same_words_tie_whoever_judges():
    given = {"a": answers(["silent"] * 40), "b": answers(["silent"] * 40)}
    places = by_labelers(given, TEAM, each=3)
    assert wins(places["a"], places["b"]) == [0.5] * 40


def test_held_out_labelers_mostly_see_what_is_better():
    given = {"good": answers(["good"] * 200), "bad": answers(["bad"] * 200)}
    places = by_labelers(given, TEAM)
    assert sum(wins(places["good"], places["bad"])) > 0.95 * 200
    # a labeler's noise of about 0.2 on either side hides 0.15 now and then
    given = {"silent": answers(["silent"] * 200), "false": answers(["false"] * 200)}
    places = by_labelers(given, TEAM)
    won = wins(places["silent"], places["false"])
    assert 0.5 < sum(won) / 200 < 0.9
    assert {0.0, 0.5, 1.0} == set(won)
    # three heads are better than one
    places = by_labelers(given, TEAM, each=3)
    assert sum(wins(places["silent"], places["false"])) > sum(won) - 10


def test_many_systems_at_once_as_in_pairs():
    names = list(FOUND)
    given = {
        name: answers([f"{names[(i + k) % 5]} {k}" for i in range(60)])
        for k, name in enumerate(names)
    }
    together = by_labelers(given, TEAM, seed=3, each=3)
    for a, b in combinations(names, 2):
        apart = by_labelers({b: given[b], a: given[a]}, TEAM, seed=3, each=3)
        assert wins(apart[a], apart[b]) == wins(together[a], together[b])


def test_who_judges_depends_on_seed_and_prompt_alone():
    def drawn(seed):
        return [tuple(p.name for p in panel(TEAM, prompt, seed, 3)) for prompt in asked(50)]

    assert drawn(0) == drawn(0)
    assert all(len(set(names)) == 3 for names in drawn(0))
    assert {name for names in drawn(0) for name in names} == {p.name for p in TEAM}
    assert sum(a != b for a, b in zip(drawn(0), drawn(1), strict=True)) > 40


def test_what_does_not_fit_is_refused():
    given = {"a": answers(["good", "bad"]), "b": answers(["good"])}
    for judge in (lambda *args: labeler_places(*args, EXACT), gold_places):
        with pytest.raises(ValueError, match=r"^b: 1 answers to 2 prompts$"):
            judge(find, asked(2), given)
        with pytest.raises(ValueError, match=r"^a: an answer to 'question 0' at 'question 1'$"):
            judge(find, asked(3)[1:], {"a": given["a"]})
    with pytest.raises(ValueError, match=r"^4 labelers for a prompt, but there are 1$"):
        by_labelers({"a": answers(["good"])}, EXACT, each=4)
    with pytest.raises(ValueError, match=r"^0 labelers for a prompt"):
        panel(TEAM, asked(1)[0], 0, 0)
    with pytest.raises(ValueError, match=r"not judged on the same prompts"):
        wins([(1,)], [(1,), (2,)])
    with pytest.raises(ValueError, match=r"not judged on the same prompts"):
        wins([(1,)], [(1, 2)])
