"""The words of a report follow from the numbers, also where nothing is clear."""

import pytest

from minirlhf.evaluation.findings import (
    compare,
    headline,
    held_out,
    progress,
    summary,
    worse_than_sft,
)


def answers(field="gold", **systems):
    """One row per system and prompt; systems: name -> values, prompt by prompt."""
    return [
        {"prompt": f"q{i}", "system": name, "answer": "a", field: value}
        for name, values in systems.items()
        for i, value in enumerate(values)
    ]


BETTER = answers(SFT=[0.2, 0.4, 0.6, 0.4], PPO=[0.6, 0.8, 0.8, 1.0])
UNCLEAR = answers(SFT=[0.2, 0.8, 0.4, 0.6], PPO=[0.8, 0.2, 0.6, 0.5])


def results_of(rows):
    systems = {row["system"]: {} for row in rows}
    for name, row in systems.items():
        gold = [r["gold"] for r in rows if r["system"] == name]
        row["gold"] = sum(gold) / len(gold)
    return {"prompts": 4, "systems": systems}


def test_headline_says_better_worse_or_unclear():
    worse = answers(PPO=[0.2, 0.4, 0.6, 0.4], SFT=[0.6, 0.8, 0.8, 1.0])
    assert headline(BETTER, "x") == "PPO answers better than SFT"
    assert headline(worse, "x") == "PPO answers worse than SFT"
    assert headline(UNCLEAR, "x") == "PPO and SFT: no clear difference"
    assert headline([], "first") == "The run first"
    scores = answers("score", SFT=[0, 0.1, 0], PPO=[1, 2, 1.5])
    assert headline(scores, "x") == "The reward model prefers PPO to SFT"


def test_summary_gives_the_difference_by_hand():
    text = " ".join(summary(results_of(BETTER), BETTER, []))
    # Differences 0.4, 0.4, 0.2, 0.6 have the mean 0.4; the means are 0.4 and 0.8.
    assert "On 4 held-out prompts" in text and "SFT 0.40 and PPO 0.80" in text
    assert "PPO is clearly above SFT: +0.40 (+0.25 to +0.55)" in text
    assert "paired over 4 prompts" in text


def test_summary_is_honest_where_nothing_is_clear():
    text = " ".join(summary(results_of(UNCLEAR), UNCLEAR, []))
    assert "Between PPO and SFT there is no clear difference" in text
    assert "clearly" not in text


def test_one_prompt_makes_no_claim():
    rows = answers(SFT=[0.0], PPO=[1.0])
    assert "clear" not in " ".join(summary(results_of(rows), rows, []))
    assert headline(rows, "x") == "PPO and SFT: no clear difference"


def test_summary_names_over_optimisation():
    rows = [
        row | {"score": 2.0 * (row["system"] == "PPO") + i / 100} for i, row in enumerate(UNCLEAR)
    ]
    assert "the mark of over-optimisation" in " ".join(summary(results_of(rows), rows, []))
    rows = [row | {"score": row["gold"]} for row in BETTER]
    assert "over-optimisation" not in " ".join(summary(results_of(rows), rows, []))


def test_summary_without_gold_says_who_judges():
    rows = answers("score", SFT=[0, 0.1, 0], PPO=[1, 2, 1.5])
    text = " ".join(summary({"systems": {"PPO": {"gold": None, "score": 1.5}}}, rows, []))
    assert "No gold judge" in text and "+1.47 RM units" in text


def test_summary_before_the_evaluation_tells_the_progress():
    metrics = [{"stage": "ppo", "step": i, "scores": v} for i, v in enumerate([-1.0, 0.0, 0.5])]
    text = " ".join(summary(None, [], metrics))
    assert text == (
        "This run has not been evaluated yet. PPO: score from −1.00 to 0.50 in 3 updates."
    )
    metrics = [{"stage": "sft", "step": i, "train_loss": 20.0 - i} for i in range(20)]
    assert progress(metrics, "sft") == "SFT: loss from 19.50 to 1.50 (means of 2) in 20 updates."
    assert progress(metrics, "ppo") == ""


def test_compare_pairs_by_prompt_and_counts_a_repeated_prompt_once():
    rows = answers(SFT=[0.0, 1.0], PPO=[1.0, 1.0, 0.5])
    rows += [{"prompt": "q0", "system": "PPO", "answer": "b", "gold": 0.0}]
    # q0: mean(1, 0) - 0 = 0.5; q1: 0; q2 has no SFT answer.
    interval, prompts = compare(rows, "gold", "PPO", "SFT")
    assert prompts == 2 and interval.estimate == pytest.approx(0.25)
    assert compare(rows, "score", "PPO", "SFT") is None


def test_questions_for_show_are_not_counted():
    rows = answers(SFT=[0.9, 0.1, 0.2, 0.3], PPO=[0.0, 0.4, 0.5, 0.6])
    assert {row["prompt"] for row in held_out(rows, 3)} == {"q1", "q2", "q3"}
    assert held_out(rows, 4) == rows and held_out(rows, None) == rows
    # A shown question that is also a test question is left out of the table altogether.
    again = [row for row in rows if row["prompt"] == "q0"]
    assert {row["prompt"] for row in held_out([*rows, *again], 3)} == {"q1", "q2", "q3"}


def test_worse_prompts_come_largest_drop_first():
    rows = answers(SFT=[0.2, 0.8, 0.9, 0.5], PPO=[0.8, 0.7, 0.1, 0.5])
    scores = {("q2", "PPO"): 3.0, ("q2", "SFT"): 1.0, ("q1", "PPO"): 0.0, ("q1", "SFT"): 1.0}
    rows = [row | {"score": scores.get((row["prompt"], row["system"]))} for row in rows]
    found = worse_than_sft(rows)
    assert found.prompts == ["q2", "q1"] and (found.wins, found.ties, found.fooled) == (1, 1, 1)
    assert found.rate.estimate == pytest.approx(1.5 / 4)
    assert worse_than_sft(answers(SFT=[0.1])) is None
