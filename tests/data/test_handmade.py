"""The hand-made data: whole, without overlap, and free of the easy ways to guess a rank."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from statistics import correlation, mean

import pytest

from minirlhf.engine.records import Demonstration, Prompt, Ranking, read_records

FOLDER = Path(__file__).parents[2] / "data" / "handmade"
# Ouyang et al. 2022, Table 1
USE_CASES = {
    *("generation", "open QA", "brainstorming", "chat", "rewrite"),
    *("summarization", "classification", "other", "closed QA", "extract"),
}


@pytest.fixture(scope="module")
def files():
    return {
        "demonstrations": read_records(FOLDER / "demonstrations.jsonl", Demonstration),
        "comparisons": read_records(FOLDER / "comparisons.jsonl", Ranking),
        "prompts": read_records(FOLDER / "prompts.jsonl", Prompt),
    }


@pytest.fixture(scope="module")
def rankings(files):
    return files["comparisons"]


def words(text: str) -> int:
    return len(text.split())


def bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_enough_of_each(files):
    assert len(files["demonstrations"]) >= 44
    assert len(files["comparisons"]) >= 44
    assert len(files["prompts"]) == 60


def test_ids_are_unique(files):
    ids = [record.id for records in files.values() for record in records]
    assert all(ids) and len(set(ids)) == len(ids)


def test_no_prompt_is_shared(files):
    seen = Counter(bare(record.prompt) for records in files.values() for record in records)
    assert [prompt for prompt, times in seen.items() if times > 1] == []
    assert not any("what is the moon" in prompt for prompt in seen), "kept for testing"


def test_every_use_case_at_least_twice_in_every_file(files):
    for name, records in files.items():
        shares = Counter(record.use_case for record in records)
        assert set(shares) == USE_CASES, name
        assert min(shares.values()) >= 2, name


def test_data_card_has_the_right_numbers(files):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name, records in files.items():
        assert re.search(rf"`{name}\.jsonl` \| `\w+` \| {len(records)} \|", card), name
    for use_case in USE_CASES:
        counts = []
        for records in files.values():
            count = sum(record.use_case == use_case for record in records)
            counts.append(f"{count} ({100 * count / len(records):.0f} %)")
        assert re.search(
            rf"^\| {use_case} \| [\d.]+ % \| " + re.escape(" | ".join(counts)) + r" \|$", card, re.M
        ), f"{use_case}: {counts}"
    rankings = files["comparisons"]
    tied = sum(len(set(r.ranks)) < 4 for r in rankings)
    pairs = sum(a != b for r in rankings for a, b in combinations(r.ranks, 2))
    assert f"{tied} of the {len(rankings)} rankings hold a tie, which leaves {pairs} pairs" in card


def test_four_different_answers_with_dense_ranks_and_a_reason(rankings):
    for ranking in rankings:
        assert len({bare(answer) for answer in ranking.responses}) == 4, ranking.id
        assert set(ranking.ranks) == set(range(1, max(ranking.ranks) + 1)), ranking.id
        assert ranking.reason and "\n" not in ranking.reason, ranking.id
        assert ranking.labeler == "authors", ranking.id


def test_texts_are_short_and_clean(files):
    for record in files["demonstrations"]:
        assert words(record.response) <= 70, record.id
    for record in files["comparisons"]:
        assert max(map(words, record.responses)) <= 70, record.id
    for records in files.values():
        for record in records:
            answers = getattr(record, "responses", [getattr(record, "response", "")])
            for text in [record.prompt, *answers]:
                assert text == text.strip() and "  " not in text, record.id
                assert all(n.startswith("555-01") for n in re.findall(r"\d{3}-\d{4}", text))
                assert all(m == "@example.org" for m in re.findall(r"@[\w.]+\w", text))


def test_ties_of_every_kind(rankings):
    shapes = Counter(tuple(sorted(ranking.ranks)) for ranking in rankings)
    assert set(shapes) == {(1, 2, 3, 4), (1, 1, 2, 3), (1, 2, 2, 3), (1, 2, 3, 3)}
    assert min(shapes.values()) >= 4


def test_length_does_not_tell_the_rank(rankings):
    lengths, ranks, longer, shorter = [], [], 0, 0
    for ranking in rankings:
        counts = [words(answer) for answer in ranking.responses]
        lengths += [count - mean(counts) for count in counts]
        ranks += [rank - mean(ranking.ranks) for rank in ranking.ranks]
        for i, j in combinations(range(4), 2):
            sign = (counts[i] - counts[j]) * (ranking.ranks[j] - ranking.ranks[i])
            longer, shorter = longer + (sign > 0), shorter + (sign < 0)
    assert abs(correlation(lengths, ranks)) < 0.1
    assert 0.4 < longer / (longer + shorter) < 0.6
    of_rank = {rank: [] for rank in (1, 2, 3, 4)}
    for ranking in rankings:
        for answer, rank in zip(ranking.responses, ranking.ranks, strict=True):
            of_rank[rank].append(words(answer))
    by_rank = [mean(counts) for counts in of_rank.values()]
    assert max(by_rank) - min(by_rank) < 6, by_rank  # a bend would hide from the correlation


def test_position_does_not_tell_the_rank(rankings):
    means = [mean(ranking.ranks[position] for ranking in rankings) for position in range(4)]
    assert max(means) - min(means) < 0.1
    best = Counter(ranking.ranks.index(1) for ranking in rankings)
    assert min(best[position] for position in range(4)) >= 5


def test_limits_in_the_prompt_are_kept_by_the_best_and_by_the_demonstrations(files):
    limits = {"ten": 10, "fifteen": 15, "15": 15, "30": 30, "twelve": 12}
    checked = 0
    for record in [*files["demonstrations"], *files["comparisons"]]:
        found = re.search(r"at most (\w+) words", record.prompt)
        if not found:
            continue
        best = (
            [record.response]
            if isinstance(record, Demonstration)
            else [a for a, k in zip(record.responses, record.ranks, strict=True) if k == 1]
        )
        assert all(words(answer) <= limits[found[1]] for answer in best), record.id
        checked += 1
    assert checked >= 4
