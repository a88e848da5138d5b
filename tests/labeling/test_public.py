"""minirlhf.labeling.public: each published schema, row by row as written down by hand."""

import copy
import gzip
import json
from pathlib import Path

import pytest

from minirlhf.engine.records import DataError, Ranking
from minirlhf.labeling.public import SCHEMAS, load_public, transcript_turns

FIXTURES = Path(__file__).parent / "fixtures"
FILES = {
    "hh-rlhf": FIXTURES / "hh-rlhf.jsonl",
    "summarize-from-feedback": FIXTURES
    / "summarize-from-feedback.json",  # JSON Lines, as published
    "ultrafeedback": FIXTURES / "ultrafeedback.jsonl",
    "ultrafeedback-binarized": FIXTURES / "ultrafeedback-binarized.jsonl",
}
POST = (
    "SUBREDDIT: r/legaladvice\n\nTITLE: Stolen bicycle\n\nPOST: My bicycle was stolen.\n\n"
    "Human: help\n\nTL;DR:"
)
EXPECTED = {
    "hh-rlhf": [
        Ranking("What is a tide?", ("The sea rising and falling.", "No idea."), (1, 2)),
        Ranking("Name a star.", ("Sirius.", ""), (1, 2), history=("Hi!", "Hello. What can I do?")),
        Ranking("Read this:\n\nHuman: is a marker.", ("I see it.", "Where?"), (1, 2)),
        Ranking("Two?", ("Three.", "Four."), (1, 2), history=("One.", "")),
    ],
    "summarize-from-feedback": [
        Ranking(
            POST,
            ("What to do about a stolen bicycle?", "Bicycle gone."),
            (1, 2),
            "w1",
            "confidence 8",
            "t3_a",
            "summarization",
        ),
        Ranking(POST, ("Bicycle gone.", ""), (1, 2), "w2", "", "t3_a", "summarization"),
        Ranking(
            "Article:\nA storm came ashore on Monday.\n\nTL;DR:",
            ("A storm came.", "Rain?"),
            (1, 2),
            "w1",
            "",
            "c1",
            "summarization",
        ),
    ],
    "ultrafeedback": [
        Ranking("Name a metal.", ("Iron.", "Wood.", "Tin", "Zinc"), (1, 3, 2, 2), "gpt-4"),
        # (4 + 5 + 3) / 3 = 4 without the N/A, 1, and (4 + 4 + 4 + 4) / 4 = 4
        Ranking("What is rain?", ("Rain is water.", "", "Water from clouds."), (1, 2, 1), "gpt-4"),
        # overall scores rate all three, fine-grained ones and ratings only two or none
        Ranking("Say yes.", ("Yes.", "No.", "Maybe."), (1, 3, 2), "gpt-4"),
    ],
    "ultrafeedback-binarized": [
        Ranking("What is iron?", ("A metal.", "A plant."), (1, 2), "gpt-4", id="p8.53.0"),
        Ranking(
            "Why \n\nHuman: is it so?",
            ("Because.", ""),
            (1, 2),
            "gpt-4",
            id="p91.0",
            history=("Hi", "Hello."),
        ),
    ],
}
SKIPPED = {
    "hh-rlhf": {
        "the same response twice": (1, "5"),
        "the dialogues part before the last reply": (2, "6 7"),
        "ends with the human": (1, "8"),
    },
    "summarize-from-feedback": {"the same response twice": (1, "4")},
    "ultrafeedback": {"equal scores": (1, "4"), "fewer than two rated responses": (2, "5 6")},
    "ultrafeedback-binarized": {"equal scores": (1, "3"), "the same response twice": (1, "4")},
}


def rows_of(schema):
    return [json.loads(line) for line in FILES[schema].read_text("utf-8").split("\n") if line]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_published_file_becomes_rankings_and_a_report(schema):
    rankings, report = load_public(FILES[schema], schema)
    assert rankings == EXPECTED[schema]
    numbers = range(1, len(rankings) + 1)
    assert [r.where for r in rankings] == [f"{FILES[schema]}:{n}" for n in numbers]
    counts = {reason: count for reason, (count, _) in SKIPPED[schema].items()}
    assert report.skipped == counts
    assert report.rows == len(rows_of(schema)) == report.kept + sum(counts.values())
    assert report.kept == len(rankings)
    for reason, (_, lines) in SKIPPED[schema].items():
        assert [place.rpartition(":")[2] for place in report.examples[reason]] == lines.split()
        assert f"{counts[reason]} {reason}" in str(report)


def _array(path, rows):
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _gzipped(path, rows):
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


def _parquet(path, rows):
    from datasets import Dataset

    Dataset.from_list(rows).to_parquet(path)


@pytest.mark.parametrize("write", [_array, _gzipped, _parquet])
@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_container_makes_no_difference(tmp_path, schema, write):
    write(tmp_path / "data", rows_of(schema))
    rankings, report = load_public(tmp_path / "data", schema)
    assert rankings == EXPECTED[schema]
    assert report.rows == len(rows_of(schema))


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_dataset_already_loaded(tmp_path, schema):
    import datasets

    loaded = datasets.load_dataset(
        "json", data_files=str(FILES[schema]), cache_dir=str(tmp_path), split="train"
    )
    rankings, _ = load_public(loaded, schema)
    assert rankings == EXPECTED[schema]
    assert rankings[0].where == "row 1"
    with pytest.raises(DataError, match=r"several splits \(train\); choose one"):
        load_public(datasets.DatasetDict(train=loaded), schema)


MISSING = object()
BAD = [
    ("hh-rlhf", "chosen", MISSING, "field 'chosen': is missing"),
    ("hh-rlhf", "rejected", None, "field 'rejected': is null"),
    ("hh-rlhf", "chosen", [1], "field 'chosen': must be text, is list"),
    ("hh-rlhf", "rejected", "Hello", "field 'rejected': does not start with a blank line and"),
    ("summarize-from-feedback", "info", "x", "field 'info': must be an object, is str"),
    ("summarize-from-feedback", "info.title", MISSING, "field 'info.title': is missing"),
    ("summarize-from-feedback", "info.post", 3, "field 'info.post': must be text, is int"),
    ("summarize-from-feedback", "summaries", [], "field 'summaries': has 0; a comparison has 2"),
    (
        "summarize-from-feedback",
        "summaries.1.text",
        MISSING,
        "field 'summaries': number 2: field 'text': is missing",
    ),
    ("summarize-from-feedback", "choice", 2, "field 'choice': must be 0 or 1, is 2"),
    ("summarize-from-feedback", "choice", True, "field 'choice': must be a whole number, is bool"),
    ("summarize-from-feedback", "worker", MISSING, "field 'worker': is missing"),
    (
        "summarize-from-feedback",
        "extra.confidence",
        "high",
        "field 'extra.confidence': must be a whole number, is str",
    ),
    ("ultrafeedback", "instruction", MISSING, "field 'instruction': is missing"),
    ("ultrafeedback", "completions", {}, "field 'completions': must be a list, is dict"),
    (
        "ultrafeedback",
        "completions.2",
        "Tin",
        "field 'completions': number 3: field 'response': stands in no object",
    ),
    (
        "ultrafeedback",
        "completions.0.response",
        MISSING,
        "field 'completions': number 1: field 'response': is missing",
    ),
    (
        "ultrafeedback",
        "completions.3.fine-grained_score",
        "4",
        "field 'completions': number 4: field 'fine-grained_score': must be a number, is str",
    ),
    ("ultrafeedback-binarized", "chosen", "A metal.", "field 'chosen': must be a list, is str"),
    ("ultrafeedback-binarized", "rejected", [], "field 'rejected': holds no message"),
    (
        "ultrafeedback-binarized",
        "rejected.0.content",
        "What is tin?",
        "field 'rejected': answers another dialogue than 'chosen'",
    ),
    (
        "ultrafeedback-binarized",
        "chosen.1.role",
        "system",
        "field 'chosen': message 2 is by 'system', not by 'assistant'",
    ),
    (
        "ultrafeedback-binarized",
        "chosen.1.content",
        None,
        "field 'chosen': message 2 has no text as its 'content'",
    ),
    ("ultrafeedback-binarized", "score_chosen", MISSING, "field 'score_chosen': is missing"),
    (
        "ultrafeedback-binarized",
        "score_rejected",
        9.0,
        "field 'score_rejected': 9.0 is above 'score_chosen', 8.5",
    ),
]


def changed(row, path, value):
    """A copy of the row with another value at a dotted path, or without it."""
    row = copy.deepcopy(row)
    *path, last = path.split(".")
    inner = row
    for name in path:
        inner = inner[int(name) if isinstance(inner, list) else name]
    if value is MISSING:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return row


@pytest.mark.parametrize("schema, path, value, message", BAD)
def test_a_row_of_another_shape_is_named(tmp_path, schema, path, value, message):
    first = rows_of(schema)[0]
    file = tmp_path / "data.jsonl"
    lines = [json.dumps(first), "", json.dumps(changed(first, path, value))]
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_public(file, schema)
    assert str(error.value).startswith(f"{file}:3: {message}")


def test_ratings_are_checked_where_they_are_needed():
    row = rows_of("ultrafeedback")[1]
    bad = changed(row, "completions.1.annotations.honesty.Rating", "6")
    message = r"number 2: field 'annotations.honesty.Rating': must be 1 to 5 or N/A, is '6'"
    with pytest.raises(DataError, match=message):
        load_public([bad], "ultrafeedback")


def test_scales_are_taken_in_order_and_only_as_far_as_needed():
    row = rows_of("ultrafeedback")[0]
    unneeded = changed(row, "completions.1.annotations.honesty.Rating", "6")
    assert load_public([unneeded], "ultrafeedback")[0] == EXPECTED["ultrafeedback"][:1]
    for i in range(4):
        row = changed(row, f"completions.{i}.annotations", None)
    # either scale rates three of the four: the fine-grained one comes first
    row = changed(row, "completions.0.fine-grained_score", None)
    row = changed(row, "completions.1.overall_score", None)
    [ranking] = load_public([row], "ultrafeedback")[0]
    assert (ranking.responses, ranking.ranks) == (("Wood.", "Tin", "Zinc"), (2, 1, 1))


def test_a_report_names_three_examples():
    _, report = load_public(rows_of("ultrafeedback")[3:4] * 5, "ultrafeedback")
    assert report.skipped == {"equal scores": 5}
    assert report.examples == {"equal scores": ("row 1", "row 2", "row 3")}


def test_a_score_that_is_no_number_counts_as_missing():
    row = changed(rows_of("ultrafeedback")[0], "completions.0.fine-grained_score", float("nan"))
    for i in range(4):  # neither of the other scales rates more
        row = changed(row, f"completions.{i}.annotations", None)
        row = changed(row, f"completions.{i}.overall_score", None)
    [ranking] = load_public([row], "ultrafeedback")[0]
    assert (ranking.responses, ranking.ranks) == (("Wood.", "Tin", "Zinc"), (2, 1, 1))


def test_a_blank_message_of_the_user_is_counted():
    text = "\n\nHuman: \n\nAssistant: a\n\nHuman: Why?\n\nAssistant: "
    rankings, report = load_public([{"chosen": text + "b", "rejected": text + "c"}], "hh-rlhf")
    assert rankings == [] and report.skipped == {"an empty message of the user": 1}
    text = "\n\nAssistant: Hi\n\nHuman: Why?\n\nAssistant: "
    _, report = load_public([{"chosen": text + "b", "rejected": text + "c"}], "hh-rlhf")
    assert report.skipped == {"starts with the assistant": 1}


def test_red_teaming_is_refused_in_words(tmp_path):
    row = {
        "min_harmlessness_score_transcript": -2.1,
        "num_params": "52B",
        "transcript": "\n\nHuman: Hi\n\nAssistant: Hello",
        "rating": 4.0,
        "task_description": "ask for a greeting",
    }
    file = tmp_path / "red_team_attempts.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps([row]).encode()))  # published as one array
    with pytest.raises(DataError, match=r":1: field 'chosen': is missing; red-team-attempts hold"):
        load_public(file, "hh-rlhf")


def test_unknown_schemas_and_empty_files(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"empty.jsonl: holds no rows"):
        load_public(tmp_path / "empty.jsonl", "hh-rlhf")
    with pytest.raises(DataError, match="unknown schema 'hh'; known are hh-rlhf, summarize"):
        load_public(tmp_path / "empty.jsonl", "hh")


@pytest.mark.parametrize(
    "text, turns",
    [
        ("\n\nHuman: a\n\nAssistant: b", ["a", "b"]),
        ("\n\nHuman: a\n\nAssistant:", ["a", ""]),
        ("\n\nHuman: a\n\nb\nHuman: c\n\nAssistant:  d ", ["a\n\nb\nHuman: c", " d "]),
        ("\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", ["a", "b\n\nAssistant: c"]),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c", ["a", "b", "c"]),
    ],
)
def test_turns_of_a_transcript(text, turns):
    assert transcript_turns(text) == turns
