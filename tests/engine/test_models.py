"""minirlhf.engine.models: a base by name, or one line that says why not."""

import gc
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForCausalLM, AutoTokenizer

from minirlhf.engine import models
from minirlhf.engine.models import load_backbone, resolve
from minirlhf.engine.records import DataError


def test_a_folder_loads_as_plain_transformers_loads_it(micro_folder, tokenizer):
    backbone = load_backbone(str(micro_folder), device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(micro_folder).eval()
    ids = torch.tensor([[5, 9, 30]])
    ours = backbone.logits("base", ids, torch.ones_like(ids).bool())
    assert torch.allclose(ours, plain(ids).logits, atol=1e-6)
    assert backbone.model.dtype == torch.float32
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert backbone.tokenizer.pad_token != backbone.tokenizer.eos_token
    assert backbone.context_length == 128


def test_the_shipped_model_is_a_plain_llama(moonlet):
    """About 1M parameters, in a few MB, with the template that the stages use."""
    backbone = load_backbone("moonlet-1m", device="cpu")
    assert backbone.name == "moonlet-1m"
    assert backbone.model.config.model_type == "llama"
    assert 0.7e6 < backbone.sizes()["base"].parameters < 1.5e6
    assert sum(path.stat().st_size for path in moonlet.iterdir()) < 6_000_000
    assert AutoTokenizer.from_pretrained(moonlet).chat_template
    assert not list(moonlet.glob("*.bin"))


def test_a_relative_folder_is_kept_as_a_whole_path(micro_folder, monkeypatch):
    monkeypatch.chdir(micro_folder.parent)
    assert load_backbone("micro", device="cpu").name == str(micro_folder)


def test_no_pad_token_means_eos(micro_folder, tmp_path):
    folder = shutil.copytree(micro_folder, tmp_path / "micro")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    backbone = load_backbone(str(folder), device="cpu")
    assert backbone.tokenizer.pad_token_id == backbone.tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_an_unknown_model_is_one_line(name, capfd):
    with pytest.raises(DataError, match=f"unknown model '{name}'") as raised:
        load_backbone(name)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_without_a_network_nothing_is_asked_twice(monkeypatch):
    asked = []

    def no_network(url, **options):
        asked.append(url)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(models, "get_hf_file_metadata", no_network)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waits to ask again"))
    with pytest.raises(DataError, match="unknown model 'nobody/nothing'"):
        load_backbone("nobody/nothing")
    assert len(asked) == 1


def test_a_hub_that_answers_is_used(monkeypatch):
    class Answer:
        headers, request, status_code = {}, None, 404

    def not_found(url, **options):
        raise HfHubHTTPError("404", response=Answer())

    monkeypatch.setattr(models, "get_hf_file_metadata", lambda url, **options: None)
    assert models.reachable("some/model")
    monkeypatch.setattr(models, "get_hf_file_metadata", not_found)
    assert models.reachable("some/model")


@pytest.mark.parametrize("damage", ["empty", "weights", "truncated", "config"])
def test_a_damaged_folder_is_one_line(micro_folder, tmp_path, damage):
    folder = tmp_path / "micro"
    if damage == "empty":
        folder.mkdir()
    else:
        shutil.copytree(micro_folder, folder)
        file = folder / ("config.json" if damage == "config" else "model.safetensors")
        file.write_bytes(b"{" if damage != "truncated" else file.read_bytes()[:2000])
    with pytest.raises(DataError, match="holds no model that can be loaded") as raised:
        load_backbone(str(folder))
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_pickled_weights_are_refused(micro_folder, tmp_path):
    folder = shutil.copytree(micro_folder, tmp_path / "micro")
    (folder / "model.safetensors").unlink()
    state = AutoModelForCausalLM.from_pretrained(micro_folder).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="holds no model that can be loaded"):
        load_backbone(str(folder))


def test_an_unknown_quantisation_is_named():
    with pytest.raises(DataError, match="quantize: '8bit' is none of none, 4bit"):
        load_backbone("moonlet-1m", quantize="8bit")


def test_names_that_are_not_folders_stay_as_they_are():
    assert resolve("someone/model") == "someone/model"
    assert resolve("moonlet-1m").endswith("moonlet-1m")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")
def test_a_4_bit_model_lets_go_of_the_file_it_came_from(moonlet, tmp_path):
    folder = shutil.copytree(moonlet, tmp_path / "mine")
    backbone = load_backbone(str(folder), quantize="4bit", device="cpu")
    gc.collect()
    assert str(folder / "model.safetensors") not in Path("/proc/self/maps").read_text()
    embedding, head = backbone.model.get_input_embeddings(), backbone.model.get_output_embeddings()
    assert embedding.weight is head.weight
