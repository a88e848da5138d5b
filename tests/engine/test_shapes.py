"""minirlhf.engine.shapes: parameter counts against published totals and against real models."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config

from minirlhf.engine import shapes as module
from minirlhf.engine.decoder import LINEARS
from minirlhf.engine.records import DataError
from minirlhf.engine.shapes import find_shapes, shapes_of, table

# As the model cards print them
PUBLISHED = {
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "SmolLM2-1.7B": 1_711_376_384,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.1-8B": 8_030_261_248,
    "Mistral-7B-v0.3": 7_248_023_552,
}
# QLoRA's sums for the same models: weights of the matrices, an adapter of rank 16 on all of them
MATRICES = {
    "SmolLM2-135M": (106_168_320, 4_884_480),
    "Llama-3.2-3B": (2_818_572_288, 24_313_856),
    "Qwen2.5-7B": (6_525_288_448, 40_370_176),
    "Llama-3.1-8B": (6_979_321_856, 41_943_040),
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(module, "reachable", lambda source: False)


def test_the_table_has_the_published_parameter_counts():
    assert {name: shapes.parameters for name, shapes in table().items()} == PUBLISHED


@pytest.mark.parametrize("name", MATRICES)
def test_what_is_packed_and_what_is_trained(name):
    shapes = table()[name]
    assert (shapes.layers * shapes.layer_weights, shapes.adapter(16)) == MATRICES[name]


@pytest.mark.parametrize("name", ["SmolLM2-135M", "Qwen2.5-0.5B", "Mistral-7B-v0.3"])
def test_transformers_and_peft_count_the_same(name):
    shapes = table()[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shapes.config())
        assert model.num_parameters() == shapes.parameters
        matrices = [m for m in model.model.layers.modules() if isinstance(m, nn.Linear)]
        assert sum(m.weight.numel() for m in matrices) == shapes.layers * shapes.layer_weights
        assert shapes_of(model.config) == shapes
        layers = [*range(3, shapes.layers)]
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
        upper = LoraConfig(
            r=4,
            target_modules=[*LINEARS],
            layers_to_transform=layers,
            task_type="CAUSAL_LM",
        )
        peft = get_peft_model(model, lora, adapter_name="all")
        peft.add_adapter("upper", upper)
    sizes = {
        adapter: sum(p.numel() for n, p in peft.named_parameters() if f".{adapter}." in n)
        for adapter in ("all", "upper")
    }
    assert sizes == {"all": shapes.adapter(4), "upper": shapes.adapter(4, first_layer=3)}


def test_models_are_found_by_every_name(micro_folder, monkeypatch):
    known = table()
    for name in ("Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b"):
        assert find_shapes(name) == ("Llama-3.2-1B", known["Llama-3.2-1B"])
    assert find_shapes("smollm2")[1] == known["SmolLM2-135M"]
    assert find_shapes("moonlet-1m")[1].hidden == 128
    assert find_shapes(str(micro_folder))[1].vocabulary == 400
    with pytest.raises(DataError, match=r"'nobody/Nothing-9B': no folder.*Llama-3.1-8B"):
        find_shapes("nobody/Nothing-9B")


def test_a_hub_is_asked_for_what_is_not_in_the_table(micro_folder, monkeypatch):
    read = AutoConfig.from_pretrained(micro_folder)
    monkeypatch.setattr(module, "reachable", lambda source: source == "some/model")
    monkeypatch.setattr(module.AutoConfig, "from_pretrained", lambda source, **_: read)
    assert find_shapes("some/model") == ("some/model", shapes_of(read))


def test_other_architectures_are_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="know llama, mistral, qwen2, not 'gpt2'"):
        shapes_of(GPT2Config())
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(DataError, match="has no config that can be read") as error:
        find_shapes(str(tmp_path))
    assert "\n" not in str(error.value)
