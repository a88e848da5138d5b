"""minirlhf.labeling.formats: TRL's dataset types and back, through files that `datasets` reads."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from minirlhf.engine.batches import CHAT_TEMPLATE
from minirlhf.engine.records import DataError, Demonstration, Prompt, Ranking
from minirlhf.labeling.formats import (
    FILES,
    FORMS,
    TYPES,
    export,
    export_rows,
    import_rows,
    ranked_pairs,
    read_export,
)
from minirlhf.maths.preferences import ranking_to_pairs

TRICKY = "Why?\nAssistant: no\u2028\n\nUser: \x00Ü月"
RECORDS = {
    Prompt: [Prompt("Hi"), Prompt(TRICKY, "p1", "chat", ("Hello", "", "Ho", " x\n"))],
    Demonstration: [
        Demonstration("Hi", " Hello "),
        Demonstration(TRICKY, TRICKY, "d1", "chat", ("Hello", "")),
    ],
    Ranking: [
        Ranking("Hi", ("b", "a"), (2, 1)),
        Ranking(
            TRICKY, ("c", "", TRICKY, "c"), (2, 1, 2, 3), "Ada", "short", "r", "qa", ("Hi", "Ho")
        ),
        Ranking("Hi", ("b", "a"), (1, 2)),  # equal but for its ranks: `ranking` keeps them apart
    ],
}
# TRL, "Dataset formats and types": the columns of each type in each form
COLUMNS = {
    ("prompt-only", "conversational"): {"prompt"},
    ("prompt-only", "standard"): {"prompt"},
    ("prompt-completion", "conversational"): {"prompt", "completion"},
    ("prompt-completion", "standard"): {"prompt", "completion"},
    ("language-modeling", "conversational"): {"messages"},
    ("language-modeling", "standard"): {"text"},
    ("preference", "conversational"): {"prompt", "chosen", "rejected"},
    ("preference", "standard"): {"prompt", "chosen", "rejected"},
}
ALL = [(kind, form) for kind in TYPES for form in FORMS]
OURS = {"id", "use_case", "lengths", "labeler", "reason", "ranking", "pair"}


def load(folder):
    from datasets import load_dataset

    return load_dataset(str(folder), cache_dir=str(folder.parent / f"{folder.name}-cache"))


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("kind, form", ALL)
def test_datasets_reads_what_was_exported(tmp_path, kind, form, files):
    records = RECORDS[TYPES[kind]]
    splits = {"train": records, "valid": records[:1]}
    paths = export(splits, tmp_path / "set", kind, form, files)
    assert [p.name for p in paths] == [f"train.{files}", f"valid.{files}", "README.md"]
    assert read_export(tmp_path / "set") == splits
    loaded = load(tmp_path / "set")
    assert set(loaded) == {"train", "valid"}
    for split, expected in splits.items():
        assert loaded[split].to_list() == export_rows(expected, kind, form)
        assert import_rows(loaded[split]) == expected
        assert set(loaded[split].column_names) - OURS == COLUMNS[kind, form]


def test_conversational_rows_written_out():
    user, said = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
    names = {"id": "7", "use_case": "chat"}
    [row] = export_rows([Prompt("Hi", **names)], "prompt-only")
    assert row == {"prompt": [user], **names}
    demonstration = Demonstration("Hi", "Ho", history=("Hi", "Ho"), **names)
    [row] = export_rows([demonstration], "prompt-completion")
    assert row == {"prompt": [user, said, user], "completion": [said], **names}
    [row] = export_rows([demonstration], "language-modeling")
    assert row == {"messages": [user, said, user, said], **names}
    ranking = Ranking("Hi", ("Ho", "x"), (5, 2), "Ada", "why", **names)
    [row] = export_rows([ranking], "preference")
    assert row == {
        "prompt": [user],
        "chosen": [{"role": "assistant", "content": "x"}],
        "rejected": [said],
        **names,
        "labeler": "Ada",
        "reason": "why",
        "ranking": 0,
        "pair": [1, 0],
    }


def test_standard_rows_written_out():
    demonstration = Demonstration("Hi", "Ho", history=("A", "B"))
    prompt = "User: A\nAssistant: B\nUser: Hi\nAssistant:"
    [row] = export_rows([demonstration], "prompt-completion", "standard")
    assert (row["prompt"], row["completion"], row["lengths"]) == (prompt, " Ho", [1, 1, 2])
    [row] = export_rows([demonstration], "language-modeling", "standard")
    assert row["text"] == prompt + " Ho"
    [row] = export_rows([Ranking("Hi", ("", "x"), (2, 1))], "preference", "standard")
    assert (row["chosen"], row["rejected"]) == (" x", " ")


@pytest.mark.parametrize("record", RECORDS[Demonstration])
def test_standard_text_is_the_chat_template_without_its_end_token(record):
    """TRL makes standard rows from conversational ones with the tokenizer's chat template."""
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), eos_token="<eos>", chat_template=CHAT_TEMPLATE
    )
    for kind, name, opened in (
        ("language-modeling", "text", False),
        ("prompt-only", "prompt", True),
    ):
        if opened:
            record = Prompt(record.prompt, history=record.history)
        [row] = export_rows([record], kind)
        [standard] = export_rows([record], kind, "standard")
        messages = row.get("messages") or row["prompt"]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened)
        assert standard[name] == text.replace("<eos>", "")


@given(ranks=st.lists(st.integers(1, 5), min_size=2, max_size=8))
def test_pairs_are_those_of_the_ranking_loss(ranks):
    assert ranked_pairs(ranks) == ranking_to_pairs(ranks)


texts = st.text(max_size=8) | st.sampled_from(["User: ", "\nAssistant: ", "\n", " ", "2024-01-01"])
spoken = texts.filter(str.strip)
histories = st.lists(st.tuples(spoken, texts), max_size=2).map(lambda turns: sum(turns, ()))
common = {"id": texts, "use_case": texts, "history": histories}
dense = (
    st.lists(st.integers(1, 4), min_size=2, max_size=6)
    .filter(lambda ranks: len(set(ranks)) > 1)
    .map(lambda ranks: tuple(sorted(set(ranks)).index(rank) + 1 for rank in ranks))
)
strategies = {
    Prompt: st.builds(Prompt, spoken, **common),
    Demonstration: st.builds(Demonstration, spoken, spoken, **common),
    Ranking: dense.flatmap(
        lambda ranks: st.builds(
            Ranking,
            spoken,
            st.tuples(*[texts] * len(ranks)),
            st.just(ranks),
            texts,
            texts,
            **common,
        )
    ),
}


@pytest.mark.parametrize("kind, form", ALL)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_give_the_records_back(kind, form, data):
    records = data.draw(st.lists(strategies[TYPES[kind]], min_size=1, max_size=4))
    rows = export_rows(records, kind, form)
    assert import_rows(rows) == records
    assert import_rows(json.loads(json.dumps(rows))) == records


@pytest.mark.parametrize("kind", ["language-modeling", "preference"])
@pytest.mark.parametrize("files", FILES)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_files_give_the_records_back(tmp_path_factory, kind, files, data):
    """All sorts of text through the readers of `datasets` too."""
    records = RECORDS[TYPES[kind]][:1] + data.draw(st.lists(strategies[TYPES[kind]], max_size=20))
    folder = tmp_path_factory.mktemp("any") / "set"
    export({"train": records}, folder, kind, "standard", files)
    assert read_export(folder) == {"train": records}
    assert import_rows(load(folder)["train"]) == records


def test_gaps_between_ranks_are_lost_and_nothing_else():
    [ranking] = import_rows(export_rows([Ranking("Hi", ("a", "b", "c"), (7, 3, 7))], "preference"))
    assert ranking == Ranking("Hi", ("a", "b", "c"), (2, 1, 2))


def test_shuffled_pairs_are_put_together():
    rows = export_rows(RECORDS[Ranking], "preference")
    found = import_rows(rows[::-1])
    assert sorted(found, key=repr) == sorted(RECORDS[Ranking], key=repr)


def messages(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_rows_of_others_are_read_as_well():
    """Explicit prompts from TRL's documentation: no columns of ours."""
    prompt = messages("What color is the sky?")
    answers = [[{"role": "assistant", "content": text}] for text in ("It is blue.", "It is green.")]
    question = "What color is the sky?"
    assert import_rows([{"prompt": prompt}]) == [Prompt(question)]
    assert import_rows([{"prompt": prompt, "completion": answers[0]}]) == [
        Demonstration(question, "It is blue.")
    ]
    assert import_rows([{"messages": prompt + answers[0]}]) == [
        Demonstration(question, "It is blue.")
    ]
    pair = {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
    assert (
        import_rows([pair, pair])
        == [Ranking(question, ("It is blue.", "It is green."), (1, 2))] * 2
    )


PAIR = {
    "prompt": messages("Hi"),
    "chosen": messages("", "a")[1:],
    "rejected": messages("", "b")[1:],
    "ranking": 4,
    "pair": [0, 1],
}


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "the data: holds no rows"),
        ([{"id": "1"}], "row 1: field 'prompt': is missing"),
        ([{"prompt": "The sky is"}], "row 1: field 'lengths': is missing"),
        ([{"prompt": messages("Hi", "Ho")}], "row 1: field 'prompt': does not end with a message"),
        ([{"messages": messages("Hi")}], "row 1: field 'prompt': does not end with a message"),
        ([{"messages": []}], "row 1: field 'messages': holds no message"),
        ([{"prompt": messages(" ")}], "row 1: field 'prompt': is empty"),
        (
            [{"prompt": messages("Hi"), "completion": messages("Ho")}],
            "'completion': message 1 is by",
        ),
        (
            [{"prompt": messages("Hi"), "completion": messages("", "a", "b", "c")[1:]}],
            "row 1: field 'completion': has 3 messages, not one response",
        ),
        ([{"prompt": messages("Hi"), "id": 7}], "row 1: field 'id': must be text, is int"),
        ([{**PAIR, "pair": [0]}], "row 1: field 'pair': must be two places from 0, is [0]"),
        ([{**PAIR, "pair": [0, -1]}], "row 1: field 'pair': must be two places from 0"),
        ([{**PAIR, "ranking": "x"}], "row 1: field 'ranking': must be a whole number, is str"),
        (
            [PAIR, {**PAIR, "prompt": messages("Ho")}],
            "row 2: field 'prompt': ranking 4 has another in row 1",
        ),
        ([PAIR, PAIR], "row 1: field 'pair': the pairs of ranking 4 are not all its pairs"),
        ([{**PAIR, "pair": [0, 2]}], "row 1: field 'pair': the pairs of ranking 4 are not all"),
        ([{**PAIR, "pair": [1, 1]}], "row 1: field 'pair': ranking 4 has two texts at place 1"),
        (
            [PAIR, {**PAIR, "pair": [1, 2]}],
            "row 1: field 'pair': ranking 4 has two texts at place 1",
        ),
        (
            [PAIR, {**PAIR, "pair": [1, 2], "chosen": PAIR["rejected"]}],
            "row 1: field 'pair': the pairs of ranking 4 are not all its pairs",
        ),
        ([{"text": "User: Hi\nAssistant: Ho", "lengths": [3]}], "message 1 is not there in 'text'"),
        (
            [{"text": "User: Hi\nAssistant: Ho", "lengths": [-1]}],
            "message 1 is not there in 'text'",
        ),
        ([{"text": "User: Hi\nAssistant: Ho", "lengths": []}], "no response is opened after them"),
        ([{"text": "User: Hi\nAssistant: Ho", "lengths": [2, 2]}], "message 2 is not there"),
        ([{"text": "User: Hi\nAs", "lengths": [2]}], "no response is opened after them in 'text'"),
        ([{"prompt": "User: Hi\nAssistant: Ho", "lengths": [2]}], "there is more text after them"),
    ],
)
def test_rows_that_fit_no_type_are_named(rows, message):
    with pytest.raises(DataError) as error:
        import_rows(rows)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "records, kind, options, message",
    [
        ([Prompt("Hi")], "preference", {}, "'preference' holds Ranking records, not Prompt"),
        ([Prompt("Hi", where="a:3")], "preference", {}, "split 'train': a:3: 'preference' holds"),
        ([], "prompt-only", {}, "split 'train': there are no records to export"),
        ([Prompt("Hi")], "prompts", {}, "unknown type 'prompts'; known are prompt-only, prompt-c"),
        ([Prompt("Hi")], "prompt-only", {"form": "chat"}, "unknown form 'chat'; known are conv"),
        ([Prompt("Hi")], "prompt-only", {"files": "csv"}, "unknown files 'csv'; known are jsonl"),
        ([Prompt("a\ud800")], "prompt-only", {}, "field 'prompt': holds half a character (U+D800)"),
        (
            [Prompt("Hi", "2024-05-01"), Prompt("Ho", "2024-05-01 10:00")],
            "prompt-only",
            {},
            "split 'train': field 'id': every text is a date, which `datasets` would read",
        ),
        ([Prompt("2024-05-01")], "prompt-only", {}, "field 'prompt': every text is a date"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(tmp_path, records, kind, options, message):
    good = {Prompt: Prompt("Hi"), Ranking: RECORDS[Ranking][0]}[TYPES.get(kind, Prompt)]
    splits = {"valid": [good], "train": records}
    with pytest.raises(DataError) as error:
        export(splits, tmp_path / "set", kind, **options)
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_dates_are_kept_in_parquet(tmp_path):
    records = [Prompt("2024-05-01", "2024-05-02")]
    export({"train": records}, tmp_path / "set", "prompt-only", files="parquet")
    assert import_rows(load(tmp_path / "set")["train"]) == records


def test_split_names_and_folders_without_a_card(tmp_path):
    with pytest.raises(DataError, match="split 'a/b': its name must be letters, digits and _"):
        export({"a/b": [Prompt("Hi")]}, tmp_path / "set", "prompt-only")
    with pytest.raises(DataError, match="there are no splits"):
        export({}, tmp_path / "set", "prompt-only")
    with pytest.raises(DataError, match=r"README.md: cannot be read: No such file"):
        read_export(tmp_path)
    (tmp_path / "README.md").write_text("# A set\n---\nconfigs: 3\n---\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"README.md: has no head that lists the files"):
        read_export(tmp_path)


def test_an_export_replaces_an_older_one(tmp_path):
    folder = tmp_path / "set"
    export({"train": [Prompt("Old")], "valid": [Prompt("Old")]}, folder, "prompt-only")
    export({"train": [Prompt("New")]}, folder, "prompt-only", files="parquet")
    assert read_export(folder) == {"train": [Prompt("New")]}
    loaded = load(folder)
    assert set(loaded) == {"train"} and import_rows(loaded["train"]) == [Prompt("New")]
    assert not list(folder.glob("*.partial"))
    line = read_export(folder)["train"][0].where
    assert line == f"{folder / 'train.parquet'}:1"
