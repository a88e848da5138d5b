"""The hand-made data: whole, without overlap, and free of the easy ways to guess a rank."""

import operator
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from statistics import correlation, mean

import pytest

from minirlhf.engine.records import Demonstration, Prompt, Ranking, read_records

FOLDER = Path(__file__).parents[2] / "data" / "comparisons"
# Ouyang et al. 2022, Table 1, in its order
USE_CASES = [
    *("generation", "open QA", "brainstorming", "chat", "rewrite"),
    *("summarization", "classification", "other", "closed QA", "extract"),
]
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
NUMBER = {word: i + 1 for i, word in enumerate(NUMBERS)} | {"fifteen": 15}


@pytest.fixture(scope="module")
def files():
    return {
        "demonstrations": read_records(FOLDER / "demonstrations.jsonl", Demonstration),
        "rankings": read_records(FOLDER / "rankings.jsonl", Ranking),
        "prompts": read_records(FOLDER / "prompts.jsonl", Prompt),
    }


@pytest.fixture(scope="module")
def rankings(files):
    return files["rankings"]


@pytest.fixture(scope="module")
def card():
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def words(text: str) -> int:
    return len(text.split())


def sentences(text: str) -> int:
    """Ends of sentences: a stop, then a new beginning or nothing; titles stand without a stop."""
    return len(re.findall(r"""[.!?]['")]*(?=\s+['"(]?[A-Z0-9]|$)""", text))


def lines(text: str) -> int:
    return len(text.splitlines())


def bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def of_size(rankings, size):
    return [ranking for ranking in rankings if len(ranking.ranks) == size]


def length_figures(rankings):
    """Correlation of length and rank, share of pairs won by the longer, mean length by rank."""
    lengths, ranks, longer, shorter, by_rank = [], [], 0, 0, {}
    for ranking in rankings:
        counts = [words(answer) for answer in ranking.responses]
        lengths += [count - mean(counts) for count in counts]
        ranks += [rank - mean(ranking.ranks) for rank in ranking.ranks]
        for i, j in combinations(range(len(counts)), 2):
            sign = (counts[i] - counts[j]) * (ranking.ranks[j] - ranking.ranks[i])
            longer, shorter = longer + (sign > 0), shorter + (sign < 0)
        for rank, count in zip(ranking.ranks, counts, strict=True):
            by_rank.setdefault(rank, []).append(count)
    means = [mean(by_rank[rank]) for rank in sorted(by_rank)]
    return correlation(lengths, ranks), longer / (longer + shorter), means


def mean_ranks(rankings):
    """Mean rank at each position, among rankings of one size."""
    return [mean(ranks) for ranks in zip(*(r.ranks for r in rankings), strict=True)]


def test_enough_of_each(files):
    assert len(files["demonstrations"]) >= 150
    assert len(files["rankings"]) >= 150
    assert len(files["prompts"]) == 60


def test_ids_are_unique(files):
    ids = [record.id for records in files.values() for record in records]
    assert all(ids) and len(set(ids)) == len(ids)


def test_no_prompt_is_shared(files):
    seen = Counter(bare(record.prompt) for records in files.values() for record in records)
    assert [prompt for prompt, times in seen.items() if times > 1] == []
    assert not any("what is the moon" in prompt for prompt in seen), "kept for testing"


def test_every_use_case_in_every_file_and_in_the_order_of_table_1(files):
    least = {"demonstrations": 8, "rankings": 7, "prompts": 2}
    for name, records in files.items():
        shares = Counter(record.use_case for record in records)
        assert list(shares) == USE_CASES, name
        assert min(shares.values()) >= least[name], name
        places = [(USE_CASES.index(record.use_case), record.id) for record in records]
        assert places == sorted(places), name


def test_data_card_counts_records_and_use_cases(files, card):
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


def test_data_card_counts_answers_ties_pairs_and_dialogues(files, rankings, card):
    text = " ".join(card.split())
    sizes = Counter(len(r.ranks) for r in rankings)
    assert f"{sizes[4]} rankings hold four answers, {sizes[5]} five and {sizes[6]} six" in text
    tied = sum(len(set(r.ranks)) < len(r.ranks) for r in rankings)
    pairs = sum(a != b for r in rankings for a, b in combinations(r.ranks, 2))
    assert f"{tied} of the {len(rankings)} rankings hold a tie, which leaves {pairs} pairs" in text
    talks = {name: sum(bool(r.history) for r in records) for name, records in files.items()}
    assert (
        f"{talks['rankings']} rankings and {talks['demonstrations']} demonstrations go on from a "
        "dialogue" in text
    )


def test_data_card_lists_the_prompts_of_a_kind(files, card):
    """Who counts the false premises and harmful requests should find them by id."""
    use_case = {record.id: record.use_case for records in files.values() for record in records}
    rows = re.findall(r"^\| ([a-z ]+) \| (\d+): ([^|]*) \| (\d+): ([^|]*) \|$", card, re.M)
    kinds = [row[0] for row in rows]
    assert kinds == ["false premise", "harmful request", "answer not in the text"]
    for _, *columns in rows:
        for count, ids in (columns[:2], columns[2:]):
            named = ids.split(", ")
            assert len(set(named)) == len(named) == int(count)
            assert all(name in use_case for name in named), named


def test_data_card_has_the_figures_of_length_and_order(rankings, card):
    text = " ".join(card.split())
    correlated, longer, by_rank = length_figures(rankings)
    assert f"relative to the prompt's mean: {correlated:.2f}." in text
    assert f"the longer answer wins {100 * longer:.0f} % of the time" in text
    listed = ", ".join(f"{value:.0f}" for value in by_rank)
    assert f"Mean length of the answers ranked 1, 2, 3, 4, 5: {listed} words." in text
    for size in (4, 5, 6):
        means = ", ".join(f"{value:.2f}" for value in mean_ranks(of_size(rankings, size)))
        assert re.search(
            rf"^\| {size} \| {len(of_size(rankings, size))} \| {means} \|$", card, re.M
        )


def test_four_to_six_different_answers_with_dense_ranks(rankings):
    sizes = Counter(len(ranking.responses) for ranking in rankings)
    assert set(sizes) == {4, 5, 6} and min(sizes.values()) >= 5
    for ranking in rankings:
        assert len({bare(a) for a in ranking.responses}) == len(ranking.responses), ranking.id
        assert set(ranking.ranks) == set(range(1, max(ranking.ranks) + 1)), ranking.id
        assert ranking.labeler == "authors", ranking.id


def test_the_reason_speaks_of_every_rank_once(rankings):
    for ranking in rankings:
        assert "\n" not in ranking.reason, ranking.id
        assert ranking.reason.count(";") + 1 == max(ranking.ranks), ranking.id


def test_dialogues_are_whole_turns_that_lead_to_the_prompt(files):
    talks = [r for records in files.values() for r in records if r.history]
    assert {len(record.history) for record in talks} == {2, 4}
    for record in talks:
        assert record.use_case == "chat", record.id
        assert all(message.strip() for message in record.history), record.id
        assert record.prompt not in record.history, record.id


def test_texts_are_short_and_clean(files):
    for records in files.values():
        for record in records:
            answers = getattr(record, "responses", [getattr(record, "response", "")])
            assert max(map(words, answers)) <= 70, record.id
            assert words(record.prompt) <= 110, record.id
            reason = getattr(record, "reason", "")
            for text in [record.prompt, *record.history, *answers, reason]:
                assert text == text.strip() and not re.search(r"  | \n|\n ", text), record.id
                assert all(n.startswith("555-01") for n in re.findall(r"\d{3}-\d{4}", text))
                assert all(m == "@example.org" for m in re.findall(r"@[\w.]+\w", text))


def test_spelling_is_british(files):
    american = r"\b(colors?|gray|center|favorite|percent|elevator|movies?|apartment|neighbor\w*|"
    american += r"(summar|recogn|organ|real|apolog)iz\w+)\b"
    for records in files.values():
        for record in records:
            answers = getattr(record, "responses", [getattr(record, "response", "")])
            text = " ".join([record.prompt, *record.history, *answers])
            assert not re.search(american, text), record.id


def test_ties_of_every_kind(rankings):
    shapes = Counter(tuple(sorted(ranking.ranks)) for ranking in of_size(rankings, 4))
    assert set(shapes) == {(1, 2, 3, 4), (1, 1, 2, 3), (1, 2, 2, 3), (1, 2, 3, 3)}
    assert min(shapes.values()) >= 12
    for size in (5, 6):
        tied = [len(set(r.ranks)) < size for r in of_size(rankings, size)]
        assert sum(tied) >= 5, size


def test_length_does_not_tell_the_rank(rankings):
    """Bounds are wider where there are fewer rankings: 15 of five answers, 5 of six."""
    groups = [(rankings, 0.08, 0.04, 7), (of_size(rankings, 4), 0.08, 0.04, 5)]
    groups += [(of_size(rankings, 5), 0.12, 0.08, 9), (of_size(rankings, 6), 0.25, 0.08, 9)]
    for group, most, apart, bend in groups:
        correlated, longer, by_rank = length_figures(group)
        assert abs(correlated) < most, len(group)
        assert abs(longer - 0.5) < apart, len(group)
        # a bend would hide from the correlation
        assert max(by_rank) - min(by_rank) < bend, (len(group), by_rank)


def test_the_longest_or_shortest_answer_is_no_safe_bet(rankings):
    hits = Counter()
    for ranking in rankings:
        counts = [words(answer) for answer in ranking.responses]
        for name, extreme in (("longest", max(counts)), ("shortest", min(counts))):
            hits[name] += ranking.ranks[counts.index(extreme)] == 1
    for name in ("longest", "shortest"):
        assert 0.15 < hits[name] / len(rankings) < 0.35, name


def test_position_does_not_tell_the_rank(rankings):
    for size, most in ((4, 0.1), (5, 0.25), (6, 0.5)):
        group = of_size(rankings, size)
        means = mean_ranks(group)
        assert max(means) - min(means) < most, size
        worst = Counter(r.ranks.index(max(r.ranks)) for r in group)
        for places in (Counter(r.ranks.index(1) for r in group), worst):
            counts = [places[position] for position in range(size)]
            assert max(counts) <= 1.5 * len(group) / size + 1, (size, counts)
            assert min(counts) >= 0.5 * len(group) / size - 1, (size, counts)


# What the prompt says in figures -----------------------------------------------------------------

BOUNDS = [
    (r"(?:at most|no more than) (\w+) words", words, operator.le),
    (r"at least (\w+) words", words, operator.ge),
    (r"exactly (\w+) words|(\w+)-word story", words, operator.eq),
    (r"one (word) only", words, operator.eq),
    (r"about (\w+) words", words, lambda count, bound: abs(count - bound) <= bound / 10),
    (r"exactly (\w+) sentences|the first (\w+) sentences", sentences, operator.eq),
    (r"(two) sentences(?: for|, not)|summarise in (two) sentences", sentences, operator.eq),
    (r"\bone(?:-| | full )(sentence)\b", sentences, operator.eq),
    (r"at most (\w+) sentences|(\w+) sentences (?:at most|max)", sentences, operator.le),
    (r"two or (three)[a-z ]* sentences", sentences, operator.le),
    (r"(two|three|four)[- ](?:short )?lines?\b", lines, operator.eq),
    (r"(two|three|four|five)(?: [a-z]+){1,4} as a numbered list", lines, operator.eq),
    (r"no more than (\w+) steps", lines, operator.le),
]


def broken_bounds(prompt, answer):
    """Pairs of (bound, what the answer has) for each limit of the prompt that it breaks."""
    found, broken = 0, []
    instruction = re.sub(r"(?<!\w)'[^']*(?:'\w[^']*)*'", "", prompt)  # not what the passage says
    for pattern, count, holds in BOUNDS:
        for match in re.finditer(pattern, instruction, re.IGNORECASE):
            token = next(group for group in match.groups() if group).lower()
            bound = NUMBER.get(token) or (int(token) if token.isdigit() else 1)
            found += 1
            if not holds(count(answer), bound):
                broken.append((pattern, bound, count(answer)))
    without = re.search(r"without using the letter (\w)|letter (\w) does not occur", prompt)
    if without:
        found += 1
        letter = without[1] or without[2]
        broken += [(letter, 0, answer.count(letter))] if letter in answer.lower() else []
    return found, broken


def test_limits_in_the_prompt_are_kept_by_the_best_and_by_the_demonstrations(files):
    checked = 0
    for record in [*files["demonstrations"], *files["rankings"]]:
        if isinstance(record, Demonstration):
            best = [record.response]
        else:
            best = [a for a, k in zip(record.responses, record.ranks, strict=True) if k == 1]
        for answer in best:
            found, broken = broken_bounds(record.prompt, answer)
            assert not broken, (record.id, broken)
            checked += found
    assert checked >= 55, checked


def test_some_answers_rank_lower_because_they_break_a_limit(rankings):
    """The counter itself is at work: it finds the answers that are too long on purpose."""
    broken = {
        ranking.id
        for ranking in rankings
        for answer in ranking.responses
        if broken_bounds(ranking.prompt, answer)[1]
    }
    assert {"cmp-004", "cmp-039", "cmp-104", "cmp-115", "cmp-117", "cmp-123"} <= broken
