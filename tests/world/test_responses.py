"""Responses: good ones are good in the grader's eyes, bad ones offend where they should."""

import random
from collections import defaultdict

import pytest

from minirlhf.world.grader import Grader
from minirlhf.world.requests import KINDS, USE_CASES, Request
from minirlhf.world.responses import MANNERS, best_response, manners_for, respond
from minirlhf.world.use_cases import reading
from minirlhf.world.use_cases.source import Source, Unfit

BUILDERS = [(use_case, builder) for use_case, kinds in KINDS.items() for builder in kinds]


@pytest.fixture(scope="module")
def grader(shipped):
    return Grader(shipped)


def requests_of(almanac, builder, n, seed=0) -> list[Request]:
    rng, made = random.Random(f"{builder.__qualname__}/{seed}"), []
    while len(made) < n:
        try:
            made.append(builder(Source(almanac, almanac.facts, rng)))
        except Unfit:
            continue
    return made


@pytest.mark.parametrize(
    ("use_case", "builder"), BUILDERS, ids=[f"{u}/{b.__name__}" for u, b in BUILDERS]
)
def test_best_responses_are_flawless(shipped, grader, use_case, builder):
    rng, answers = random.Random("best"), []
    for request in requests_of(shipped, builder, 50):
        assert request.use_case == use_case
        answer = best_response(request, rng)
        found = grader(request, answer)
        where = f"{request.prompt!r} -> {answer!r}: {found}"
        assert min(found.helpful, found.truthful, found.harmless) >= 0.95, where
        assert "hallucination" not in found.flags, where
        assert "fails_instruction" not in found.flags, where
        assert ("satisfies_constraint" in found.flags) == (request.constraint is not None), where
        assert len(answer.split()) <= 60
        answers.append(answer)
    assert len(set(answers)) > 2


@pytest.fixture(scope="module")
def means(shipped, grader):
    """Mean counts by manner over all kinds, and those of the best answers to the same requests."""
    rng, sums = random.Random("manners"), defaultdict(list)
    for _, builder in BUILDERS:
        for request in requests_of(shipped, builder, 8, seed=1):
            for manner in manners_for(request):
                answer = respond(request, manner, rng)
                ended = manner != "unfinished"
                found = grader(request, answer, ended)
                sums[manner].append((found.helpful, found.truthful, found.harmless))
    return {m: [sum(c) / len(v) for c in zip(*v, strict=True)] for m, v in sums.items()}


# manner, which count it offends (0 helpful, 1 truthful, 2 harmless), the most that it may keep
OFFENCES = [
    ("terse", 0, 0.75),
    ("hedging", 0, 0.85),
    ("sloppy", 0, 0.8),
    ("wrong", 0, 0.2),
    ("wrong", 1, 0.15),
    ("rude", 2, 0.0),
    ("off topic", 0, 0.1),
    ("off topic", 1, 0.6),
    ("ignores the constraint", 0, 0.6),
    ("rambling", 0, 0.5),
    ("unfinished", 0, 0.4),
    ("echo", 0, 0.15),
    ("complies", 0, 0.2),
    ("complies", 1, 0.6),
    ("complies", 2, 0.8),
]


def test_every_manner_offends_where_it_should(means):
    assert min(means["exemplary"]) > 0.97
    for manner, count, most in OFFENCES:
        assert means[manner][count] <= most, (manner, means[manner])


def test_a_manner_spoils_no_more_than_it_should(means):
    for manner in ("terse", "hedging", "sloppy", "rambling", "ignores the constraint"):
        assert means[manner][1] > 0.85, (manner, means[manner])
        assert means[manner][2] > 0.95, (manner, means[manner])
    assert means["wrong"][2] > 0.95


def test_helping_to_do_harm_is_never_harmless(shipped, grader):
    rng = random.Random("harm")
    for _, builder in BUILDERS:
        if builder.__module__.endswith(".harm"):
            for request in requests_of(shipped, builder, 10):
                answer = respond(request, "complies", rng)
                found = grader(request, answer)
                assert found.harmless == 0.0, (request.prompt, answer)
                assert "encourages_harm" in found.flags
                assert "inappropriate_for_assistant" in found.flags
                assert ("harmful_advice" in found.flags) == (request.harm == "sun")


def test_shares_and_fitting_manners(shipped):
    assert sum(MANNERS.values()) == pytest.approx(1.0)
    assert MANNERS["exemplary"] == 0.40
    for _, builder in BUILDERS:
        for request in requests_of(shipped, builder, 5):
            fit = manners_for(request)
            assert fit.items() <= MANNERS.items()
            assert ("complies" in fit) == bool(request.harm or request.claim)
            assert ("ignores the constraint" in fit) == (request.constraint is not None)
            for manner in fit:
                assert respond(request, manner, random.Random(0)).strip()


def test_the_same_seed_answers_the_same(shipped):
    for use_case in USE_CASES:
        builder = next(iter(KINDS[use_case]))
        request = requests_of(shipped, builder, 1)[0]
        for manner in manners_for(request):
            one, two = (respond(request, manner, random.Random("same")) for _ in range(2))
            assert one == two
    with pytest.raises(KeyError, match="cheerful"):
        respond(request, "cheerful", random.Random(0))


def test_a_topic_is_asked_for_only_where_another_could_be_named(shipped):
    """Of one subject alone there would be no wrong answer to give."""
    europa = [fact for fact in shipped.facts if fact.subject_id == "europa"]
    with pytest.raises(Unfit):
        reading.about(Source(shipped, europa, random.Random(0)))
    two = [fact for fact in shipped.facts if fact.subject_id in ("europa", "titan")]
    for seed in range(20):
        request = reading.about(Source(shipped, two, random.Random(seed)))
        assert request.expected[0] not in respond(request, "wrong", random.Random(seed))
