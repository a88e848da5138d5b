"""The rubric ticks what stands there, whoever wrote it."""

import pytest

from minirlhf.study.rubric import content, rubric, share

POEM = "Write a two-line poem about a river."


@pytest.mark.parametrize(
    ("prompt", "answer", "ended", "missing"),
    [
        (POEM, "The river runs,\nthe river sleeps.", True, set()),
        (POEM, "The river runs,\nthe river sleeps.", False, {"ended"}),
        (POEM, "The river runs and the river sleeps.", True, {"asked_length"}),
        (POEM, "The river runs,\nthe rivers sleep and", True, {"whole"}),
        (POEM, "A song of bread,\na song of salt.", True, {"on_topic"}),
        (POEM, "The river runs.\nThe river runs.", True, {"no_repeats"}),
        (POEM, "the river runs\nthe river runs", True, {"no_repeats"}),
        (POEM, "The river runs.\nUser: thanks", True, {"own_turn"}),
        (POEM, "", True, {"whole", "on_topic", "asked_length"}),
        ("Say it in 3 words: the sea is salty", "Seas stay salty.", True, set()),
        ("Say it in 3 words: the sea is salty", "The sea is very salty.", True, {"asked_length"}),
        ("Hi!", "Hello!", True, set()),
        ("One sentence on batteries.", "Batteries hold charge. They run flat.", True,
         {"asked_length"}),
    ],
)  # fmt: skip
def test_what_is_not_ticked(prompt, answer, ended, missing):
    ticked = rubric(prompt, answer, ended)
    assert {name for name, well in ticked.items() if not well} == missing
    assert share(ticked) == pytest.approx(1 - len(missing) / len(ticked))


def test_length_is_looked_at_only_where_it_is_asked_for():
    assert "asked_length" not in rubric("Why is the sea salty?", "Rivers bring salt.", True)


def test_words_of_a_topic_are_told_by_their_beginning():
    assert content("Riverbanks and RIVERS, please!") == {"river"}
