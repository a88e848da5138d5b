"""minirlhf.datasheet: tables counted once more by other means, and files read back."""

import re
from collections import Counter

import pytest
from datasets import load_dataset

from minirlhf import datasheet
from minirlhf.cli import main
from minirlhf.datasheet import Table
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import Ranking, read_records
from minirlhf.labeling.formats import read_export
from minirlhf.labeling.forms import FLAGS
from minirlhf.stages.pretrain import PretrainConfig
from minirlhf.world.almanac import load_almanac
from minirlhf.world.corpus import corpus
from minirlhf.world.datasets import build_datasets

SHARE = 0.012


@pytest.fixture(scope="module")
def datasets():
    return build_datasets(load_almanac(), 0, SHARE)


@pytest.fixture
def small(datasets, monkeypatch):
    """The command on a hundredth of the data, three documents a model and one small model."""
    monkeypatch.setattr(datasheet, "build_datasets", lambda almanac, seed: datasets)
    monkeypatch.setattr(datasheet, "LADDER", {"moonlet-1m": PretrainConfig(documents=300)})
    monkeypatch.setattr(datasheet, "RANKED_BY_MANY", 20)
    monkeypatch.setattr(datasheet, "ladder_table", lambda: Table("The ladder", ("",), []))


def cells(text: str, title: str) -> list[list[str]]:
    """The rows of the table under a title in what was printed."""
    block = text.split(title + "\n", 1)[1].split("\n\n")[0].splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in block[2:] if not line.startswith("(")]


def test_a_table_lines_up():
    table = Table("Title", ("", "n"), [("a", 1), ("long name", 20)], "(note)")
    assert str(table) == (
        "Title\n            n\n-------------\na           1\nlong name  20\n(note)\n"
    )


def test_the_tables_say_what_can_be_counted(small, datasets, capsys):
    assert main(["data"]) == 0
    printed = capsys.readouterr().out
    almanac = dict(cells(printed, "The almanac"))
    assert almanac["facts"] == f"{len(load_almanac().facts):,}"
    assert almanac["problems found by its checker"] == "0"
    documents = list(corpus(load_almanac(), 300))
    assert dict(cells(printed, "The corpus"))["documents"] == f"{len(documents)}"
    lines = [line for document in documents for line in document.splitlines() if line]
    assert (
        dict(cells(printed, "The corpus"))["distinct lines"]
        == f"{len(set(lines)) / len(lines):.0%}"
    )
    dealt = datasets.dealt["rm"]["train"]
    share = sum(s.use_case == "generation" for s in dealt) / len(dealt)
    generation = next(row for row in cells(printed, "Use cases") if row[0] == "generation")
    assert generation[1] == "45.6 %" and generation[3] == f"{100 * share:.1f} %"
    steps = cells(printed, "Curation")
    assert [row[1] for row in steps[1:]] == [row[2] for row in steps[:-1]]
    assert steps[0][1] == f"{len(datasets.raw):,}"
    sizes = {tuple(row[:3]): row[4] for row in cells(printed, "Sizes of the datasets, prompts")}
    for (name, split, source), count in sizes.items():
        there = Counter(s.source for s in datasets.dealt[name][split])[source]
        assert count == f"{there:,}"
    agreed = {(row[0], row[1]): row for row in cells(printed, "Agreement of labelers")}
    assert len(agreed) == 8 and agreed["held-out", "training"][2] == "77.3 %"
    assert all(0.2 < float(row[-1]) < 0.9 for row in agreed.values())
    title = "Priorities: the more helpful answer against the truer and kinder one"
    helpful = {row[0]: float(row[2].rstrip("%")) for row in cells(printed, title)}
    assert helpful["training"] > helpful["evaluation"] + 10
    flags = cells(printed, "Flags of training labelers")
    assert [row[0] for row in flags] == list(FLAGS)


def test_the_files_hold_the_datasets(small, datasets, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(datasheet, "tables", lambda seed: [])
    monkeypatch.setattr("minirlhf.cli.tables", lambda seed: [])
    assert main(["data", "--out", str(out)]) == 0
    assert str(out / "sft" / "train.jsonl") in capsys.readouterr().out
    assert read_export(out / "sft")["train"] == datasets.demonstrations("train")
    assert read_export(out / "ppo")["valid"] == datasets.prompts("ppo", "valid")
    rankings = read_records(out / "rankings" / "train.jsonl", Ranking)
    assert len(read_export(out / "rm")["train"]) == len(rankings)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    loaded = load_dataset(str(out / "rm"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "valid"}
    assert main(["data", "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_bad_seed_is_refused(capsys):
    assert main(["data", "--seed", "-1"]) == 2
    assert "--seed must lie between" in capsys.readouterr().err


def test_every_shipped_part_is_on_the_sheet():
    folders = {f.name for f in data_folder().iterdir() if f.is_dir()}
    assert folders == {"almanac", "comparisons", "models", "moon", "settings"}
