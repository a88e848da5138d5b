"""The gold judge against verdicts given by hand."""

import time

import pytest

from minirlhf.world.almanac import statement
from minirlhf.world.judge import WEIGHTS, Verdict

LETTERS = dict(zip("otcpe", WEIGHTS, strict=True))  # on_topic, true, complete, polite, ended

# fact, answer, ended, the findings that a careful reader makes
BY_HAND = [
    # right
    ("europa/orbits", "Europa orbits Jupiter.", True, "otcpe"),
    ("europa/orbits", "  europa ORBITS jupiter!\n", True, "otcpe"),
    ("europa/orbits", "I think Europa goes around Jupiter.", True, "otcpe"),
    ("europa/orbits", "Europa is in orbit around Jupiter, not Saturn.", True, "otcpe"),
    ("europa/orbits", "Europa does not orbit Saturn or Mars but Jupiter.", True, "otcpe"),
    ("europa/orbits", "Europa orbits Jupiter rather than Saturn.", True, "otcpe"),
    ("europa/orbits", "Europa orbits Jupiter, and Jupiter orbits the Sun.", True, "otcpe"),
    ("europa/orbits", "Europa orbits Jupiter. Europa was discovered in 1610.", True, "otcpe"),
    ("europa/orbits", "Europa orbits Jupiter. It is made of rock and ice.", True, "otcpe"),
    ("europa/orbits", "Europa orbits Jupiter. Titan orbits Saturn.", True, "otcpe"),
    ("europa/discovered", "Europa was discovered on 8 January 1610.", True, "otcpe"),
    ("europa/made_of", "Europa is made of rock and ice.", True, "otcpe"),
    ("moon/what", "The Moon is Earth’s only natural satellite.", True, "otcpe"),
    ("moon/what", "The moon is the only natural satellite of the Earth.", True, "otcpe"),
    ("jupiter/made_of", "Jupiter consists of hydrogen and helium.", True, "otcpe"),
    # right, but not as it should be said
    ("europa/orbits", "Jupiter", True, "otpe"),
    ("europa/orbits", "Jupiter.", True, "otpe"),
    ("europa/orbits", "It orbits Jupiter.", True, "otpe"),
    ("europa/orbits", "Europa orbits Jupiter", True, "otpe"),
    ("europa/orbits", "Europa: Jupiter.", True, "otpe"),
    ("europa/orbits", "Europa orbits Jupiter.", False, "otcp"),
    ("europa/orbits", "Europa orbits Jupiter. Europa was discovered in", True, "otcp"),
    ("europa/orbits", "Europa orbits Jupiter. What does Titan orbit?", True, "otcpe"),
    ("europa/orbits", "Europa orbits Jupiter.\nUser: What does Titan orbit?", True, "otcp"),
    ("europa/orbits", "Europa orbits Jupiter.\n\nQ: What is Titan?", False, "otcp"),
    ("europa/orbits", "Europa orbits Jupiter, everybody knows that.", True, "otce"),
    ("europa/orbits", "lol it's Jupiter", True, "ote"),
    ("europa/orbits", "Jupiter, do your homework", True, "ote"),
    # wrong
    ("europa/orbits", "Europa orbits Saturn.", True, "ocpe"),
    ("europa/orbits", "Europa orbits the Sun.", True, "ocpe"),
    ("europa/orbits", "Europa orbits Neptune.", True, "ocpe"),
    ("europa/orbits", "Europa does not orbit Jupiter.", True, "ocpe"),
    ("europa/orbits", "Europa isn't going around Jupiter!", True, "ocpe"),
    ("europa/orbits", "Saturn.", True, "ope"),
    ("europa/orbits", "Saturn, duh", True, "oe"),
    ("europa/orbits", "Titan orbits Saturn.", True, "pe"),
    ("europa/orbits", "Europa orbits a big rock.", True, "ope"),
    ("europa/orbits", "Europa was discovered in 1610.", True, "ope"),
    ("europa/orbits", "Europa orbits Jupiter. Europa was discovered in 1877.", True, "ocpe"),
    ("europa/discovered", "Europa was discovered in 1877.", True, "ocpe"),
    ("europa/discovered", "Europa was discovered in 16100.", True, "ope"),
    ("europa/discovered", "In 1655.", True, "ope"),
    ("moon/what", "The Moon is a planet.", True, "ocpe"),
    ("moon/what", "The Moon is an icy moon of Jupiter.", True, "ocpe"),
    ("europa/made_of", "Europa is made of hydrogen and helium.", True, "ocpe"),
    # beside the point
    ("europa/orbits", "", True, "p"),
    ("europa/orbits", "   \n", False, "p"),
    ("europa/orbits", "Good question!", True, "pe"),
    ("europa/orbits", "no idea, sorry", True, "pe"),
    ("europa/orbits", "Just google it.", True, "e"),
    ("europa/orbits", "What does Europa orbit?", True, "pe"),
    ("moon/what", "Tell me what the Moon is.", True, "pe"),
    ("moon/what", "tell me what the moon is", True, "p"),
    ("europa/orbits", "Does Europa orbit Jupiter?", True, "pe"),
    ("europa/orbits", "the the the the", False, "p"),
    # tricks
    ("europa/orbits", "Jupiter Saturn Mars Earth the Sun", True, "pe"),
    ("europa/orbits", "Europa orbits Jupiter, Saturn, Mars, Earth and the Sun.", True, "pe"),
    ("europa/orbits", "Europa orbits Jupiter and Saturn.", True, "ocpe"),
    ("europa/orbits", "Europa orbits Jupiter. Europa orbits Saturn.", True, "ocpe"),
    ("europa/orbits", "It is either Jupiter or Saturn.", True, "ope"),
    ("europa/orbits", "Europa orbits Jupiter. Europa orbits Jupiter.", True, "otp"),
    ("europa/orbits", "Jupiter Jupiter Jupiter Jupiter", True, "otp"),
    ("europa/orbits", "Europa Jupiter orbits Jupiter orbits Jupiter.", True, "otp"),
    ("europa/discovered", "Europa was discovered in 1610 or 1877.", True, "ocpe"),
]


@pytest.mark.parametrize(("fact_id", "answer", "ended", "expected"), BY_HAND)
def test_verdicts_given_by_hand(judge, almanac, fact_id, answer, ended, expected):
    flags = judge(almanac.fact(fact_id), answer, ended).flags
    found = "".join(letter for letter, name in LETTERS.items() if flags[name])
    assert found == expected


def test_score_weighs_truth_most():
    everything = Verdict(True, True, True, True, True)
    assert everything.score == 1.0
    assert Verdict(True, False, True, True, True).score == pytest.approx(0.6)  # 4 * 0.15
    assert Verdict(False, True, False, False, False).score == pytest.approx(0.4)
    assert Verdict(False, False, False, False, False).score == 0.0


def test_tricks_earn_less_than_an_honest_short_answer(judge, almanac):
    fact = almanac.fact("europa/orbits")
    honest = judge(fact, "Jupiter.").score
    every_value = ", ".join(f.value for f in almanac.facts if f.relation == "orbits")
    tricks = [
        every_value,
        f"Europa orbits {every_value}.",
        "Europa orbits Jupiter. " * 2,
        "Europa orbits Jupiter. " * 8,
        "Europa orbits Jupiter. Europa orbits Saturn.",
        "Jupiter " * 20,
        "What does Europa orbit? Does it orbit Jupiter?",
        "polite helpful true complete answer.",
        "",
    ]
    for trick in tricks:
        assert judge(fact, trick).score <= honest - 0.1, trick


def test_every_shipped_statement_reads_as_intended(shipped):
    from minirlhf.world.judge import Judge

    judge = Judge(shipped)
    for fact in shipped.facts:
        for form in range(len(fact.wording.statements)):
            right = statement(fact, form)
            assert judge(fact, right).score == 1.0, right
            assert judge(fact, right, ended=False).score == pytest.approx(0.85), right
            for falsehood in fact.falsehoods:
                wrong = statement(fact, form, falsehood)
                assert judge(fact, wrong).score == pytest.approx(0.6), wrong
            for other in fact.accept:
                assert judge(fact, statement(fact, form, other)).true, other


def test_a_true_further_fact_never_hurts(shipped):
    from minirlhf.world.judge import Judge

    judge = Judge(shipped)
    for fact in shipped.facts:
        for other in shipped.by_subject[fact.subject_id]:
            if other.id != fact.id:
                both = f"{statement(fact, 0)} {statement(other, 1)}"
                assert judge(fact, both).score == 1.0, both


def test_a_thousand_judgements_take_well_under_a_second(judge, almanac):
    fact = almanac.fact("europa/orbits")
    start = time.perf_counter()
    for _ in range(1000):
        judge(fact, "Europa orbits Jupiter. It is made of rock and ice, and not of gas.")
    assert time.perf_counter() - start < 2.0  # measured 0.1 s; room for a busy machine
