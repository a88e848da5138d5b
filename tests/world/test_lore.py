"""What sentences claim, against claims read by hand."""

from dataclasses import replace

import pytest

from minirlhf.world.almanac import statement
from minirlhf.world.lore import Lore

# sentence, what a careful reader takes from it; "it" is Europa
BY_HAND = [
    ("Europa orbits Jupiter.", "europa/orbits true"),
    ("Europa goes around Saturn", "europa/orbits false"),
    ("Europa orbits a big rock.", "europa/orbits unknown"),
    ("It was discovered in 1610.", "europa/discovered true"),
    ("It is made of rock and ice.", "europa/made_of true"),
    ("Ben said that Titan orbits Saturn.", "titan/orbits true"),
    ("Europa orbits Jupiter and is made of iron.", "europa/orbits true, europa/made_of false"),
    ("Europa orbits Jupiter, and it is made of ice.", "europa/orbits true"),
    ("Europa orbits Jupiter and Saturn.", "europa/orbits false"),
    ("Europa orbits Jupiter but not Saturn.", "europa/orbits true"),
    ("It is not true that Europa orbits Saturn.", ""),
    ("It is not true that Europa orbits Jupiter.", "europa/orbits false"),
    ("Europa does not orbit Saturn.", ""),
    ("No, Europa orbits Jupiter.", "europa/orbits true"),
    ("Titan orbits Saturn and Phobos orbits Mars.", "titan/orbits true, phobos/orbits true"),
    ("Titan orbits Saturn and Phobos orbits Venus.", "titan/orbits true, phobos/orbits false"),
    ("Phobos is made of cheese.", "phobos/made_of false"),
    ("In 1655, Titan was discovered.", "titan/discovered true"),
    ("Most of Jupiter is lava.", "jupiter/made_of false"),
    ("The Moon is a moon.", "moon/what true"),
    ("The Moon is a ball of cheese.", "moon/what false"),
    ("It is Europa.", ""),
    ("It is beautiful.", ""),
    ("I like Europa.", ""),
    ("Soup is warm.", ""),
]


@pytest.mark.parametrize(("sentence", "expected"), BY_HAND)
def test_claims_read_by_hand(almanac, sentence, expected):
    found = Lore(almanac).claims(sentence, "europa")
    assert ", ".join(f"{c.subject_id}/{c.relation} {c.status}" for c in found) == expected


def test_every_shipped_statement_is_read_right_inside_another_sentence(shipped):
    lore, right, false, n = Lore(shipped), 0, 0, 0
    for fact in shipped.facts[::3]:
        for form in range(len(fact.wording.statements)):
            n += 1
            said = statement(fact, form)
            found = lore.claims(f"Ada told us today that {said[0].lower()}{said[1:]}")
            right += any(f"{c.subject_id}/{c.relation}" == fact.id for c in found)
            false += any(c.status == "false" for c in found)
    assert right / n > 0.97
    assert false / n < 0.01


def test_a_passage_has_a_truth_of_its_own(almanac):
    lore = Lore(almanac)
    told = replace(almanac.fact("europa/orbits"), value="Saturn")
    zoru = replace(told, subject_id="x", subject="Zoru")
    passage = lore.telling([told, zoru])
    assert [c.status for c in passage.claims("Europa orbits Saturn.")] == ["true"]
    assert [c.status for c in passage.claims("Europa orbits Jupiter.")] == ["false"]
    assert [c.status for c in passage.claims("Europa was discovered in 1610.")] == ["false"]
    assert [c.status for c in passage.claims("Zoru goes around Saturn.")] == ["true"]
    assert [c.status for c in lore.claims("Europa orbits Saturn.")] == ["false"]
    assert lore.claims("Zoru goes around Saturn.") == []


def test_what_a_passage_says_word_for_word_is_true_there(shipped):
    lore = Lore(shipped)
    # "no" is part of the value here, and denies nothing
    none = [fact for fact in shipped.facts if fact.value.split()[0] in ("no", "almost")]
    assert len(none) > 5
    for fact in [*none, *shipped.facts[::40]]:
        passage = lore.telling([fact])
        for form in range(len(fact.wording.statements)):
            found = passage.claims(statement(fact, form))
            assert [claim.status for claim in found] == ["true"], statement(fact, form)
