"""minirlhf.ladder: base models of several sizes, made alike, and what each has learned."""

import dataclasses
import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from minirlhf.cli import main
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import DataError
from minirlhf.ladder import HELD_OUT_SEED, make_base, measure_base
from minirlhf.stages import pretrain
from minirlhf.stages.pretrain import LADDER, PretrainConfig
from minirlhf.world.almanac import load_almanac
from minirlhf.world.corpus import corpus

TINY = PretrainConfig(
    vocabulary=320,
    hidden_size=16,
    layers=1,
    heads=2,
    intermediate_size=32,
    documents=60,
    batch_size=12,
    warmup_steps=2,
)


def test_made_again_it_is_the_same_to_the_bit(tmp_path):
    for name in ("one", "two"):
        make_base(TINY, tmp_path / name)
    files = {f.name for f in (tmp_path / "one").iterdir()}
    assert files == {f.name for f in (tmp_path / "two").iterdir()}
    assert {"model.safetensors", "tokenizer.json", "settings.yaml"} <= files
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    other = dataclasses.replace(TINY, seed=1)
    make_base(other, tmp_path / "three")
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "three")]
    assert weights[0] != weights[1]


def test_settings_are_logged_and_nothing_is_written_over(tmp_path):
    make_base(TINY, tmp_path / "one")
    logged = yaml.safe_load((tmp_path / "one" / "settings.yaml").read_text())
    assert logged == {"pretrain": dataclasses.asdict(TINY)}
    with pytest.raises(DataError, match=r"one: is there already; choose another --out"):
        make_base(TINY, tmp_path / "one")


def test_shipped_models_are_those_of_the_ladder():
    """What their files say is what the ladder would make; all of them fit into 40 MB."""
    size = 0
    for name, config in LADDER.items():
        folder = data_folder() / "models" / name
        logged = yaml.safe_load((folder / "settings.yaml").read_text())
        assert logged == {"pretrain": dataclasses.asdict(config)}, name
        size += (folder / "model.safetensors").stat().st_size
    assert size < 40e6


@torch.no_grad()
def test_the_loss_is_transformers_own_over_new_documents():
    folder = data_folder() / "models" / "moonlet-300k"
    row = measure_base("moonlet-300k", questions=4, documents=60)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total = count = 0
    for text in corpus(load_almanac(), 60, HELD_OUT_SEED):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[:, :255]
        ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        tokens = ids.shape[1] - 1
        total += model(input_ids=ids, labels=ids).loss.item() * tokens
        count += tokens
    assert row["loss"] == pytest.approx(total / count, rel=2e-3)  # 256 tokens end without EOS
    assert row["parameters"] == sum(p.numel() for p in model.parameters())


def test_larger_models_know_more():
    rows = [measure_base(name, questions=60, documents=60) for name in LADDER]
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert rows[0]["prompted"].estimate < rows[-1]["prompted"].estimate
    assert rows[-1]["parameters"] > 10 * rows[0]["parameters"]


def test_a_million_parameters_know_three_facts_in_five_and_say_so_when_shown_how():
    """Facts that it has read; asked bare, it tells clearly fewer of them."""
    row = measure_base("moonlet-1m", documents=1)
    assert row["prompted"].estimate >= 0.6
    assert row["bare"].high < row["prompted"].low


def test_the_command_makes_the_rungs_that_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(pretrain.LADDER, "moonlet-300k", TINY)
    monkeypatch.setattr("minirlhf.ladder.measure_base", lambda folder: measure_base(folder, 4, 4))
    out = str(tmp_path / "ladder")
    assert main(["ladder", "--out", out, "--sizes", "moonlet-300k"]) == 0
    assert "moonlet-300k" in capsys.readouterr().out
    rows = json.loads((tmp_path / "ladder" / "ladder.json").read_text())
    assert [row["model"] for row in rows] == ["moonlet-300k"]
    assert main(["ladder", "--out", out, "--sizes", "moonlet-300k"]) == 2
    assert "is there already" in capsys.readouterr().err
    before = (tmp_path / "ladder" / "moonlet-300k" / "model.safetensors").stat().st_mtime_ns
    assert main(["ladder", "--out", out, "--sizes", "moonlet-300k", "--resume"]) == 0
    after = (tmp_path / "ladder" / "moonlet-300k" / "model.safetensors").stat().st_mtime_ns
    assert before == after  # what is finished is measured again, not made again
    assert json.loads((tmp_path / "ladder" / "ladder.json").read_text()) == rows
    with pytest.raises(SystemExit, match="2"):
        main(["ladder", "--sizes", "moonlet-9t"])
    assert "invalid choice: 'moonlet-9t'" in capsys.readouterr().err
