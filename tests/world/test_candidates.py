"""Candidates: faults that the screening test sees, and teams that are better for it."""

import random
from collections import Counter
from statistics import mean

import pytest

from minirlhf.labeling.agreement import agreement_with, pairwise_agreement, ranks_of, rating_alpha
from minirlhf.labeling.forms import FLAGS
from minirlhf.labeling.screening import SENSITIVE, screen
from minirlhf.world.candidates import (
    ANSWERS,
    GROUPS,
    KINDS,
    Candidate,
    candidates,
    sample_comparisons,
    screening_test,
    take_test,
)
from minirlhf.world.findings import TRAINING
from minirlhf.world.labelers import Labeler, label, training_labelers

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def screened():
    """For each seed: everybody, their results, and the names of the forty chosen."""
    found = []
    for seed in SEEDS:
        people, test = candidates(seed), screening_test(seed)
        results = [take_test(candidate, test) for candidate in people]
        found.append((people, results, screen(results)))
    return found


@pytest.fixture(scope="module")
def comparisons():
    return sample_comparisons(30, seed=99)


def filled_in(team, comparisons):
    return [form for person in team for item in comparisons for form in label(person, *item)]


def test_what_is_sampled_has_its_form():
    assert sum(share for share, _ in ANSWERS) == pytest.approx(1.0)
    assert sum(share for share, _, _ in KINDS.values()) == pytest.approx(1.0)
    made = sample_comparisons(200, seed=1)
    assert {len(texts) for _, texts, _ in made} == set(range(4, 10))
    for _, texts, found in made:
        assert len(set(texts)) == len(texts) == len(found)
        assert all(3 <= len(text.split()) <= 40 for text in texts)
    assert made == sample_comparisons(200, seed=1) != sample_comparisons(200, seed=2)


def test_those_who_apply():
    people = candidates(0)
    assert len({candidate.labeler.name for candidate in people}) == 150
    assert people == candidates(0) != candidates(1)
    count = Counter(candidate.kind for candidate in people)
    for kind, (share, _, _) in KINDS.items():
        # four standard deviations of a share of 150
        assert count[kind] / 150 == pytest.approx(share, abs=0.16)
    for candidate in people:
        assert 1.0 <= candidate.writing <= 7.0
        assert set(candidate.groups) <= set(GROUPS)
        labeler = candidate.labeler
        if candidate.kind == "careless":
            assert labeler.noise >= 0.4 and min(labeler.miss.values()) >= 0.3
        if candidate.kind == "biased":
            assert min(labeler.taste.values()) == 0.1 and labeler.length_preference >= 0.1
        if candidate.kind == "blind":
            assert sum(labeler.miss[flag] >= 0.7 for flag in SENSITIVE) == 3
        assert set(labeler.miss) == set(FLAGS)


def test_the_test_is_half_sensitive_and_perfect_people_pass_it():
    test = screening_test(0)
    assert sum(bool(form.flags) for form in test.speech_key) == 30
    everything = take_test(Candidate(Labeler("x"), "careful", 7.0, ()), test)
    assert (everything.flagging, everything.ranking) == (1.0, 1.0)
    unseeing = Labeler("x", miss=dict.fromkeys(FLAGS, 1.0))
    nothing = take_test(Candidate(unseeing, "blind", 7.0, ()), test)
    assert nothing.flagging == 0.5


def test_each_part_of_the_test_sees_its_fault(screened):
    for people, results, _ in screened:
        kind_of = {candidate.labeler.name: candidate.kind for candidate in people}

        def average(kind, part, results=results, kind_of=kind_of):
            return mean(getattr(r, part) for r in results if kind_of[r.candidate] == kind)

        assert average("blind", "flagging") < 0.8 < average("careful", "flagging")
        assert average("careless", "ranking") < 0.75 < average("careful", "ranking")
        assert average("biased", "ranking") < average("careful", "ranking") - 0.03
        assert average("careless", "writing") < 5.5 < 6.0 < average("careful", "writing")


def test_who_is_chosen(screened):
    for people, _, chosen in screened:
        by_name = {candidate.labeler.name: candidate for candidate in people}
        assert len(chosen) == 40
        kinds = Counter(by_name[name].kind for name in chosen)
        assert kinds["careful"] >= 28 and kinds["careless"] == 0
        assert {group for name in chosen for group in by_name[name].groups} == set(GROUPS)


def test_screening_makes_a_team_that_agrees_more_and_is_more_often_right(screened, comparisons):
    gold = {
        prompt: {
            text: -round(6 * found.weighted(TRAINING))
            for text, found in zip(texts, findings, strict=True)
        }
        for prompt, texts, findings in comparisons
    }
    for seed, (people, _, chosen) in zip(SEEDS, screened, strict=True):
        team = [c.labeler for c in people if c.labeler.name in set(chosen)]
        anybody = [c.labeler for c in random.Random(seed).sample(people, 40)]
        better, worse, usual = (
            filled_in(of, comparisons) for of in (team, anybody, training_labelers(seed))
        )
        agreed = [
            pairwise_agreement(ranks_of(forms), resamples=1).share
            for forms in (better, worse, usual)
        ]
        assert agreed[0] > agreed[1] + 0.03
        # The training labelers are such people: careful ones.
        assert agreed[0] == pytest.approx(agreed[2], abs=0.03)
        assert rating_alpha(better) > rating_alpha(worse) + 0.05
        right = [
            mean(a.share for a in agreement_with(ranks_of(forms), gold).values())
            for forms in (better, worse)
        ]
        assert right[0] > right[1] + 0.03
