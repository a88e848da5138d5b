"""Simulated customers: shares, tails, splits and planted data, measured on all of them."""

from collections import Counter
from statistics import median

import pytest

from minirlhf.engine.records import DataError
from minirlhf.labeling.curation import check_leakage, curate, identify_language, split_of
from minirlhf.labeling.personal import TYPES, find, luhn, score
from minirlhf.world.almanac import load_almanac, split_facts
from minirlhf.world.customers import (
    customers,
    labeler_submissions,
    public_names,
    submissions,
)
from minirlhf.world.personas import luhn_digit
from minirlhf.world.requests import USE_CASES


@pytest.fixture(scope="module")
def almanac():
    return load_almanac()


@pytest.fixture(scope="module")
def world(almanac):
    return submissions(almanac)


@pytest.fixture(scope="module")
def labelers(almanac):
    return labeler_submissions(almanac)


@pytest.fixture(scope="module")
def curated(almanac, world):
    return curate(world[0], public=public_names(almanac))


def fact_ids(requests):
    return lambda submission: [fact.id for fact in requests[submission.id].facts]


class TestRaw:
    def test_size_and_tail(self, world):
        made, requests = world
        sent = sorted(Counter(s.user for s in made).values())
        assert 12_500 < len(made) < 15_500 and set(requests) == {s.id for s in made}
        assert len(sent) == 350 and len({s.organization for s in made}) == 150
        assert 3 <= median(sent) <= 8 and sent[-2] > 1000
        assert sum(amount > 200 for amount in sent) >= 8

    def test_the_prompt_of_the_request_stands_in_it(self, world, labelers):
        for made, requests in (world, labelers):
            assert all(requests[s.id].prompt in s.prompt for s in made)
            assert all(requests[s.id].history == s.history for s in made)

    def test_personal_data(self, world):
        made, _ = world
        share = sum(bool(s.personal) for s in made) / len(made)
        assert 0.03 < share < 0.05
        kinds = Counter(kind for s in made for _, _, kind in s.personal)
        assert set(kinds) == set(TYPES) and min(kinds.values()) > 20

    def test_planted_places_are_exact(self, world):
        texts = {kind: [] for kind in TYPES}
        for s in world[0]:
            for start, end, kind in s.personal:
                texts[kind].append(s.prompt[start:end])
        assert all(
            text.split("@")[1].startswith(("example.", "mail.example.")) for text in texts["EMAIL"]
        )
        assert all(luhn(text.replace(" ", "").replace("-", "")) for text in texts["CARD"])
        assert all(text[0].isupper() and text[-1].isalpha() for text in texts["NAME"])
        assert all(sum(c.isdigit() for c in text) in range(9, 13) for text in texts["PHONE"])
        assert all(any(c.isdigit() for c in text) for text in texts["ADDRESS"])

    def test_languages(self, world):
        made, _ = world
        foreign = [s for s in made if s.language != "en"]
        assert 0.025 < len(foreign) / len(made) < 0.045
        assert len({s.language for s in foreign}) == 8
        assert sum(identify_language(s.prompt) == s.language for s in foreign) > 0.98 * len(foreign)

    def test_same_seed_same_prompts(self, almanac, world):
        assert submissions(almanac, count=30) == submissions(almanac, count=30)
        assert submissions(almanac, 1, count=30)[0] != submissions(almanac, count=30)[0]

    def test_check_digit(self):
        assert luhn_digit("7992739871") == "3"  # the usual textbook number


class TestFacts:
    def test_customers_ask_within_their_split(self, almanac):
        train, test = ({fact.id for fact in part} for part in split_facts(almanac))
        for customer in customers(almanac):
            allowed = test if split_of(customer.id) == "test" else train
            assert {fact.id for fact in customer.pool} <= allowed

    def test_no_fact_of_a_test_question_is_trained_on(self, curated, world):
        splits, _ = curated
        apart = [("train", "test"), ("valid", "test")]
        check_leakage(splits, keys=fact_ids(world[1]), apart=apart)
        moved = {
            **splits,
            "train": [*splits["train"], splits["test"][0]],
            "test": splits["test"][1:],
        }
        with pytest.raises(DataError, match="stands in two splits"):
            check_leakage(moved, keys=fact_ids(world[1]), apart=apart)

    def test_labelers_write_about_training_facts(self, almanac, labelers):
        train = {fact.id for fact in split_facts(almanac)[0]}
        made, requests = labelers
        assert all(set(fact_ids(requests)(s)) <= train for s in made)


class TestCurated:
    def test_every_step_finds_something(self, curated):
        _, reports = curated
        assert all(sum((r.removed | r.changed).values()) > 0 for r in reports)
        assert [r.before for r in reports[1:]] == [r.after for r in reports[:-1]]

    def test_use_cases_as_in_table_1(self, curated):
        kept = [s for part in curated[0].values() for s in part]
        counts = Counter(s.use_case for s in kept)
        for use_case, share in USE_CASES.items():
            assert abs(100 * counts[use_case] / len(kept) - share) < 1.2, use_case

    def test_splits(self, curated):
        splits, _ = curated
        assert all(len(part) > 300 for part in splits.values())
        for part in splits.values():
            assert max(Counter(s.user for s in part).values()) <= 200

    def test_personal_data_is_found(self, almanac, world):
        english = [s for s in world[0] if s.language == "en"]
        made = [s for s in english if s.personal] + [s for s in english if not s.personal][:3000]
        public = public_names(almanac)
        scores = score([find(s.prompt, public) for s in made], [s.personal for s in made])
        assert scores["NAME"].precision > 0.95 and scores["NAME"].recall > 0.65
        for kind in ("EMAIL", "PHONE", "CARD", "ADDRESS"):
            assert scores[kind].precision > 0.95, kind
            assert scores[kind].recall > 0.95, kind


class TestLabelers:
    def test_kinds(self, labelers):
        made, _ = labelers
        kinds = Counter(s.kind for s in made)
        assert set(kinds) == {"plain", "few-shot", "user-based"} and min(kinds.values()) > 300
        assert len({s.user for s in made}) == 40 and {s.source for s in made} == {"labeler"}
        assert all(bool(s.organization) == (s.kind == "user-based") for s in made)

    def test_few_shot_prompts_hold_the_other_pairs(self, labelers):
        made, requests = labelers
        few = [s for s in made if s.kind == "few-shot"]
        first = few[0].prompt
        count = first.count("Q: ")
        group = few[:count]
        queries = {requests[s.id].prompt for s in group}
        assert len(queries) == count in (3, 4)
        for s in group:
            query = requests[s.id].prompt
            assert s.prompt.endswith(f"\nQ: {query}\nA:") and s.prompt.count("\nA: ") == count - 1
            assert all(f"Q: {other}\n" in s.prompt for other in queries)
            assert {fact.id for fact in requests[s.id].facts} == {
                fact.id for fact in requests[group[0].id].facts
            }
