"""What the benchmarks count and compare by: their arithmetic, and texts that are token ids."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.batches import Encoder
from minirlhf.engine.models import resolve
from minirlhf.engine.records import Prompt

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from common import PAD, prepare_model, words
from flops import Shape, ppo_stages

ROWS, LENGTH, HEADS = 3, 11, 5


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("rank", [0, 4])
def test_flops_are_those_of_the_matrix_products_that_run(rank):
    tokenizer = AutoTokenizer.from_pretrained(resolve("moonlet-1m"))
    backbone = Backbone(llama(), tokenizer, lora=LoRA(rank=rank) if rank else None)
    backbone.add_role("policy")
    backbone.train_role("policy")
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH)
    with FlopCounterMode(display=False) as forward, backbone.active("policy") as model:
        logits = model(ids, logits_to_keep=HEADS, use_cache=False).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()

    shape = Shape.of(backbone.model.config, rank)
    # the counter knows no attention on the CPU: two products of a query with each key it may see
    attention = 3 * ROWS * sum(2 * 2 * 24 * seen for seen in range(1, LENGTH + 1))
    products = shape.forward(ROWS, LENGTH, HEADS) - attention
    assert forward.get_total_flops() == products
    # frozen, the lowest layer's query, key and value matrices need no gradient of their input:
    # neither from the base matrix nor from A
    spared = 2 * ROWS * LENGTH * 24 * (24 + 12 + 12 + 3 * rank) if rank else 0
    expected = shape.backward(ROWS, LENGTH, HEADS) - 2 * attention - spared
    assert backward.get_total_flops() == expected


def test_shared_lower_layers_and_a_shared_value_are_counted_once():
    config = llama().config
    all_layers, one_layer = Shape.of(config, 4), Shape.of(config, 4, first_layer=2)
    separate = ppo_stages(all_layers, 2, 5, 7, 4, shared_value=False)
    shared = ppo_stages(one_layer, 2, 5, 7, 4, shared_value=True)
    assert shared["value epochs"] == 0
    head = 4 * 2 * (2 * 2 * 7 * 24 * 97)  # 4 epochs, forward and backward, 2 rows of 7
    body = separate["policy epochs"] - head
    assert shared["policy epochs"] - head == pytest.approx(body / 3)  # one layer of three
    assert separate["value epochs"] == pytest.approx(body)  # the same pass without the head
    adapters = 2 * all_layers.adapters(2 * 11)  # the two lower layers have none
    assert shared["sampling"] == separate["sampling"] - adapters


@pytest.mark.parametrize("eos", [False, True])
def test_words_are_token_ids_for_both_sides(tmp_path, eos):
    folder = prepare_model("random-1m", tmp_path, eos=eos)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = words(20, 24, 2048)
    ids = tokenizer(texts)["input_ids"]
    assert [" ".join(f"t{i}" for i in row) for row in ids] == texts
    assert all(len(row) == 24 and PAD not in row for row in ids)
    encoder = Encoder(tokenizer, 256)
    assert encoder.prompt(Prompt(texts[0])) == ids[0]
    assert encoder.response(texts[0], texts[1]) == [*ids[1], tokenizer.eos_token_id]
    # what TRL makes of a prompt and a completion
    joined = tokenizer(f"{texts[0]} {texts[1]}{tokenizer.eos_token}")["input_ids"]
    assert joined == [*ids[0], *ids[1], tokenizer.eos_token_id]
    assert (tokenizer.eos_token_id < 2048) == eos  # else the model has no logit for it
