"""Labelers: repeatable, tied where equal, heeding instructions, agreeing as the paper's do."""

import random
from dataclasses import replace
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirlhf.labeling.agreement import agreement_with, pairwise_agreement, ranks_of
from minirlhf.labeling.forms import FLAGS
from minirlhf.world.almanac import split_facts
from minirlhf.world.findings import EVALUATION, TRAINING, Findings
from minirlhf.world.grader import Grader
from minirlhf.world.labelers import Labeler, held_out_labelers, label, training_labelers
from minirlhf.world.requests import USE_CASES, draw
from minirlhf.world.responses import manners_for, respond

EXACT = Labeler("exact")
PERFECT = Findings(1.0, 1.0, 1.0)
# The conflict that the paper's instructions decide one way or the other.
FALSEHOOD, REFUSAL = Findings(1.0, 0.0, 1.0), Findings(0.0, 1.0, 1.0)
TEXTS = ["an answer that is wrong", "I will not answer that"]
SEEDS = (0, 1, 2)


def ratings(labeler, findings, instructions="training"):
    answers = [f"answer {i}" for i in range(len(findings))]
    return [form.overall for form in label(labeler, "p", answers, findings, instructions)]


def ranks(labeler, findings, instructions="training", answers=None):
    answers = answers or [f"answer {i}" for i in range(len(findings))]
    return [form.rank for form in label(labeler, "p", answers, findings, instructions)]


@pytest.fixture(scope="module")
def comparisons(shipped):
    """80 requests of all use cases, each with 4 to 9 answers in all manners."""
    rng, grader, pool = random.Random("comparisons/0"), Grader(shipped), split_facts(shipped)[0]
    made = []
    for i in range(80):
        use_case = rng.choices(list(USE_CASES), list(USE_CASES.values()))[0]
        request = draw(shipped, pool, use_case, rng)
        shares = manners_for(request)
        manners = rng.choices(list(shares), list(shares.values()), k=rng.randint(4, 9))
        answers = [respond(request, manner, rng) for manner in manners]
        findings = [
            grader(request, answer, manner != "unfinished")
            for answer, manner in zip(answers, manners, strict=True)
        ]
        made.append((f"request-{i}", answers, findings))
    return made


def ranked(labelers, comparisons, instructions="training"):
    return ranks_of(
        form
        for labeler in labelers
        for comparison in comparisons
        for form in label(labeler, *comparison, instructions)
    )


def test_exact_ratings_follow_the_weights():
    # 1 + 6 * (0.60 helpful + 0.25 truthful + 0.15 harmless), by hand:
    # 7; 1 + 6 * 0.75 = 5.5 -> 6 (halves up); 1 + 6 * 0.40 = 3.4; 1 + 6 * 0.85 = 6.1; 1
    found = [PERFECT, FALSEHOOD, REFUSAL, Findings(1.0, 1.0, 0.0), Findings(0.0, 0.0, 0.0)]
    assert ratings(EXACT, found) == [7, 6, 3, 6, 1]
    # evaluation: 7; 1 + 6 * 0.60 = 4.6; 1 + 6 * 0.75 = 5.5; 1 + 6 * 0.65 = 4.9; 1
    assert ratings(EXACT, found, "evaluation") == [7, 5, 6, 5, 1]


def test_ranks_tie_where_the_impressions_round_to_one_sixth():
    # sixths of 1, 0.75 = 4.5/6, 0.40 = 2.4/6, 0.85 = 5.1/6: levels 6, 5, 2, 5
    found = [PERFECT, FALSEHOOD, REFUSAL, Findings(1.0, 1.0, 0.0)]
    assert ranks(EXACT, found) == [1, 2, 3, 2]
    # 0.97 of 6 is 5.82 and 0.85 of 6 is 5.1
    assert ranks(EXACT, [Findings(0.95, 1.0, 1.0), PERFECT, Findings(1.0, 1.0, 0.0)]) == [1, 1, 2]


def test_instructions_decide_between_a_helpful_falsehood_and_a_truthful_refusal():
    assert ranks(EXACT, [FALSEHOOD, REFUSAL]) == [1, 2]
    assert ranks(EXACT, [FALSEHOOD, REFUSAL], "evaluation") == [2, 1]
    everybody = training_labelers(0) + held_out_labelers(0)
    prompts = range(30)
    for instructions, best in (("training", 1), ("evaluation", 0)):
        won = lost = 0
        for labeler in everybody:
            for prompt in prompts:
                forms = label(labeler, str(prompt), TEXTS, [FALSEHOOD, REFUSAL], instructions)
                first, second = (form.rank for form in forms)
                won += (first < second) if best else (second < first)
                lost += (first > second) if best else (second > first)
        assert won > 1.5 * lost, instructions


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 3).map(lambda t: Findings(*t)), min_size=2, max_size=9),
    st.floats(-3, 3),
    st.floats(0.5, 1.5),
    st.sampled_from(["training", "evaluation"]),
)
def test_severity_moves_ratings_and_never_ranks(findings, severity, spread, instructions):
    mild = Labeler("one", noise=0.2, length_preference=0.05)
    harsh = replace(mild, severity=severity, spread=spread)
    assert ranks(mild, findings, instructions) == ranks(harsh, findings, instructions)
    given = zip(ranks(harsh, findings), ratings(harsh, findings), strict=True)
    by_rank = [rating for _, rating in sorted(given, key=lambda pair: (pair[0], -pair[1]))]
    best = {}
    for rank, rating in zip(sorted(ranks(harsh, findings)), by_rank, strict=True):
        best.setdefault(rank, []).append(rating)
    # A better rank never has a worse rating.
    for better, worse in zip(sorted(best), sorted(best)[1:], strict=False):
        assert min(best[better]) >= max(best[worse])


def test_severity_takes_points_off():
    found = [PERFECT, FALSEHOOD, REFUSAL]  # 7, 5.5 and 3.4 for somebody who takes off nothing
    assert ratings(Labeler("harsh", severity=2.0), found) == [5, 4, 1]
    assert ratings(Labeler("mild", severity=-1.0), found) == [7, 7, 4]
    # half as many points per point: 4 + 0.5 * (7 - 4) = 5.5 and 4 + 0.5 * (3.4 - 4) = 3.7
    assert ratings(Labeler("careful", spread=0.5), [PERFECT, REFUSAL]) == [6, 4]


def test_love_of_length_moves_equal_answers():
    short, long = "Europa orbits Jupiter.", "In short, it seems that Europa goes around Jupiter."
    found = [Findings(0.5, 0.5, 0.5)] * 2
    wordy, brief = Labeler("w", length_preference=0.15), Labeler("b", length_preference=-0.15)
    assert ranks(wordy, found, answers=[short, long]) == [2, 1]
    assert ranks(brief, found, answers=[short, long]) == [1, 2]
    # flat below three and above forty words
    assert ranks(wordy, found, answers=["no", "a b c"]) == [1, 1]
    assert ranks(wordy, found, answers=["a " * 40, "a " * 90]) == [1, 1]


def test_a_labeler_says_the_same_whenever_asked(comparisons):
    labeler, again = training_labelers(0)[2], training_labelers(0)[2]
    assert labeler == again
    prompt, answers, findings = comparisons[0]
    forms = label(labeler, prompt, answers, findings)
    backwards = label(again, prompt, answers[::-1], findings[::-1])[::-1]
    assert forms == backwards
    alone = [label(again, prompt, [a], [f])[0] for a, f in zip(answers, findings, strict=True)]
    assert [(f.overall, f.flags) for f in alone] == [(f.overall, f.flags) for f in forms]
    # Another prompt, another person, another team: other errors on the same answers.
    many, equal = [f"answer {i}" for i in range(30)], [Findings(0.5, 0.5, 0.5)] * 30
    first = [form.rank for form in label(labeler, "p", many, equal)]
    for other, name in (
        (labeler, "q"),
        (replace(labeler, name="another"), "p"),
        (replace(labeler, seed=1), "p"),
    ):
        assert [form.rank for form in label(other, name, many, equal)] != first


def test_the_form_is_filled_in(comparisons):
    for labeler in training_labelers(1)[:8]:
        for prompt, answers, findings in comparisons:
            forms = label(labeler, prompt, answers, findings)
            assert [form.response for form in forms] == answers
            assert {(form.prompt_id, form.labeler) for form in forms} == {(prompt, labeler.name)}
            assert {form.overall for form in forms} <= set(range(1, 8))
            places = {form.rank for form in forms}
            assert places == set(range(1, max(places) + 1))


def test_flags_are_missed_and_made_up_as_often_as_said():
    labeler = Labeler(
        "half-blind",
        miss={"hallucination": 0.3, "violent_content": 1.0},
        false_alarm={"sexual_content": 0.1},
    )
    fits = Findings(1, 1, 1, ("hallucination", "violent_content", "harmful_advice"))
    answers = [f"answer {i}" for i in range(2_000)]
    forms = label(labeler, "p", answers, [fits] * len(answers))
    share = {flag: mean(flag in form.flags for form in forms) for flag in FLAGS}
    # three standard deviations: 3 * sqrt(.3 * .7 / 2000) = .031, 3 * sqrt(.1 * .9 / 2000) = .020
    assert share.pop("hallucination") == pytest.approx(0.7, abs=0.031)
    assert share.pop("sexual_content") == pytest.approx(0.1, abs=0.020)
    assert share.pop("harmful_advice") == 1.0
    assert set(share.values()) == {0.0}
    # What fits otherwise changes nothing about a flag's luck.
    only = label(labeler, "p", answers, [Findings(0, 0, 0, ("hallucination",))] * len(answers))
    assert ["hallucination" in f.flags for f in only] == ["hallucination" in f.flags for f in forms]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="2 answers but 1 findings"):
        label(EXACT, "p", ["a", "b"], [PERFECT])
    with pytest.raises(ValueError, match="training or evaluation, there are no 'final'"):
        label(EXACT, "p", ["a"], [PERFECT], "final")


def test_the_team_is_as_large_as_said_and_differs():
    team, others = training_labelers(3), held_out_labelers(3)
    assert (len(team), len(others)) == (40, 10)
    assert len({labeler.name for labeler in team + others}) == 50
    for field in ("noise", "severity", "spread", "length_preference"):
        assert len({getattr(labeler, field) for labeler in team}) == 40
    for labeler in team + others:
        assert sum(labeler.weights().values()) == pytest.approx(1.0)
        assert sum(labeler.weights("evaluation").values()) == pytest.approx(1.0)
        assert labeler.weights()["helpful"] > labeler.weights("evaluation")["helpful"]
        assert set(labeler.miss) == set(labeler.false_alarm) == set(FLAGS)
    for name, centre in TRAINING.items():
        assert mean(p.weights()[name] for p in team) == pytest.approx(centre, abs=0.05)
    for name, centre in EVALUATION.items():
        assert mean(p.weights("evaluation")[name] for p in team) == pytest.approx(centre, abs=0.05)
    assert training_labelers(3) != training_labelers(4)


def test_the_verdict_on_a_question_is_worth_its_score(judge, almanac):
    fact = almanac.fact("europa/orbits")
    for answer in (
        "Europa orbits Jupiter.",
        "Jupiter.",
        "lol it's Jupiter",
        "Europa orbits Saturn.",
        "",
    ):
        for ended in (True, False):
            verdict = judge(fact, answer, ended)
            assert verdict.findings.weighted(TRAINING) == pytest.approx(verdict.score)
    assert judge(fact, "lol").findings == Findings(
        0.25, 0.0, 0.0, ("fails_instruction", "inappropriate_for_assistant")
    )


def test_agreement_is_about_the_papers(comparisons):
    for seed in SEEDS:
        training = pairwise_agreement(ranked(training_labelers(seed), comparisons), resamples=1)
        held_out = pairwise_agreement(ranked(held_out_labelers(seed), comparisons), resamples=1)
        # The paper: 72.6 +- 1.5 % and 77.3 +- 1.3 %
        assert training.share == pytest.approx(0.726, abs=0.03)
        assert held_out.share == pytest.approx(0.773, abs=0.03)
        assert held_out.share > training.share


def test_labelers_are_noisy_but_right_on_average(comparisons):
    gold = {
        prompt: {
            answer: -round(6 * found.weighted(TRAINING))
            for answer, found in zip(answers, findings, strict=True)
        }
        for prompt, answers, findings in comparisons
    }
    shares = [
        a.share for a in agreement_with(ranked(training_labelers(0), comparisons), gold).values()
    ]
    assert 0.78 <= mean(shares) <= 0.93
