"""From raw prompts to three datasets, counted and compared with what went in."""

from collections import Counter
from itertools import combinations

import pytest

from minirlhf.engine.records import DataError
from minirlhf.labeling.curation import check_leakage
from minirlhf.world.almanac import load_almanac, normalise, split_facts, statement
from minirlhf.world.datasets import (
    DEMONSTRATION_MANNERS,
    TABLE_6,
    build_datasets,
    compare,
)
from minirlhf.world.grader import Grader
from minirlhf.world.labelers import training_labelers
from minirlhf.world.responses import MANNERS

SHARE = 0.012


@pytest.fixture(scope="module")
def whole():
    return load_almanac()


@pytest.fixture(scope="module")
def datasets(whole):
    return build_datasets(whole, seed=0, share=SHARE)


@pytest.fixture(scope="module")
def grader(whole):
    return Grader(whole)


def test_the_same_seed_deals_the_same(whole, datasets):
    again = build_datasets(whole, seed=0, share=SHARE)
    assert again == datasets
    assert again.demonstrations("train") == datasets.demonstrations("train")
    assert build_datasets(whole, seed=1, share=SHARE).dealt != datasets.dealt


def test_sizes_are_the_papers_as_far_as_there_are_prompts(datasets):
    for name, splits in TABLE_6.items():
        for split, sources in splits.items():
            dealt = Counter(sent.source for sent in datasets.dealt[name][split])
            for source, paper in sources.items():
                there = sum(sent.source == source for sent in datasets.curated[split])
                assert dealt[source] <= round(SHARE * paper)
                assert dealt[source] == round(SHARE * paper) or dealt[source] >= 0.5 * there


def test_sft_shares_no_prompt_with_the_others_and_no_user_crosses_a_split(datasets):
    for split in ("train", "valid"):
        ids = {name: {s.id for s in datasets.dealt[name][split]} for name in TABLE_6}
        assert not ids["sft"] & (ids["rm"] | ids["ppo"])
        assert all(len(ids[n]) == len(datasets.dealt[n][split]) for n in TABLE_6)
    users = {
        split: {s.user for parts in datasets.dealt.values() for s in parts.get(split, [])}
        for split in ("train", "valid", "test")
    }
    assert all(not users[a] & users[b] for a, b in combinations(users, 2))


def test_no_fact_of_a_test_question_is_asked_or_told_in_training(whole, datasets):
    """Read in the texts themselves, not in the lists that the generator keeps."""
    _, held_out = split_facts(whole)
    asked = {f.id for s in datasets.dealt["test"]["test"] for f in datasets.requests[s.id].facts}
    assert asked and asked <= {fact.id for fact in held_out}
    said = [
        f"{d.prompt} {d.response} {' '.join(d.history)}" for d in datasets.demonstrations("train")
    ]
    text = " | ".join(" ".join(normalise(part)) for part in said)
    for fact in held_out:
        for form in range(len(fact.wording.statements)):
            assert " ".join(normalise(statement(fact, form))) not in text, fact.id


def test_a_planted_leak_is_refused(datasets):
    def facts(sent):
        return [fact.id for fact in datasets.requests[sent.id].facts]

    leaking = dict(datasets.curated)
    stray = next(s for s in datasets.curated["test"] if facts(s))
    check_leakage(leaking, keys=facts, apart=[("train", "test")])
    leaking["train"] = [*leaking["train"], stray]
    with pytest.raises(DataError, match=f"stands in two splits.*{stray.id}"):
        check_leakage(leaking, keys=facts, apart=[("train", "test")])


def test_demonstrations_are_better_than_what_is_ranked(datasets, grader):
    assert sum(DEMONSTRATION_MANNERS.values()) == pytest.approx(1)
    assert DEMONSTRATION_MANNERS.keys() <= MANNERS.keys()

    def mean(pairs):
        found = [grader(datasets.requests[id_], text) for id_, text in pairs]
        return sum(f.helpful + f.truthful + f.harmless for f in found) / len(found) / 3

    shown = [(d.id, d.response) for d in datasets.demonstrations("train")]
    ranked = [(p.id, r) for p in datasets.prompts("rm", "train") for r in datasets.responses(p.id)]
    assert mean(ranked) + 0.05 < mean(shown) < 0.99


def test_labelers_rank_four_to_nine_responses_mostly_one_labeler_each(datasets, grader):
    prompts = datasets.prompts("rm", "train")
    rankings, forms = compare(datasets, prompts, grader, training_labelers())
    sizes = Counter(len(r.responses) for r in rankings)
    assert set(sizes) <= set(range(2, 10)) and sizes.total() > 0.9 * len(prompts)
    assert sum(sizes[k] for k in range(4, 10)) > 0.95 * sizes.total()
    assert len({r.labeler for r in rankings}) == min(40, len({r.labeler for r in rankings}))
    assert max(Counter(r.id for r in rankings).values()) == 1
    by_prompt = Counter((f.prompt_id, f.labeler) for f in forms)
    for ranking in rankings:
        assert by_prompt[ranking.id, ranking.labeler] == len(ranking.responses)
    several = compare(datasets, prompts[:3], grader, training_labelers(), each=5)[1]
    assert {len({f.labeler for f in several if f.prompt_id == p.id}) for p in prompts[:3]} == {5}
