"""minirlhf.engine.backbone: a base in 4 bits, and a base that is no Llama."""

import copy

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel

from minirlhf.engine.backbone import Backbone, LoRA
from minirlhf.engine.models import load_backbone
from minirlhf.engine.records import DataError
from tests.engine.backbone_setup import disturb, with_all_roles

# 4 bits -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_bit(micro_folder):
    return load_backbone(str(micro_folder), quantize="4bit", lora=LoRA(2, 4), device="cpu")


def test_four_bits_count_what_they_stand_for(four_bit, new_backbone):
    whole, packed = new_backbone().sizes()["base"], four_bit.sizes()["base"]
    assert packed.parameters == whole.parameters
    linear = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    saved = whole.bytes - packed.bytes
    # By hand: half a byte a weight, one byte of scale for 64 weights; per matrix the second level
    # of 4 bytes for 256 scales (one of each here), an offset of 4 bytes, a code of 256 * 4 bytes.
    left = linear / 2 + linear / 64 + 14 * (4 + 4 + 1024)
    assert saved == 4 * linear - left


def test_four_bit_roles_share_the_packed_base(four_bit, new_backbone, ids, everywhere):
    before = four_bit.logits("base", ids, everywhere)
    assert not torch.equal(before, new_backbone().logits("base", ids, everywhere))
    with_all_roles(four_bit)
    assert torch.equal(four_bit.logits("base", ids, everywhere), before)
    four_bit.add_role("policy")
    assert torch.equal(four_bit.logits("policy", ids, everywhere), before)


def test_four_bit_preparation_does_not_upcast_embeddings(micro_folder, tokenizer):
    """peft's own preparation would make every 16-bit tensor float32 and double the embeddings."""
    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(
        micro_folder, quantization_config=options, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    backbone = Backbone(model, tokenizer, lora=LoRA(2, 4))
    backbone.add_role("policy")
    parameters = backbone.train_role("policy")
    for name, parameter in model.named_parameters():
        if ".lora_" not in name and parameter.dtype != torch.uint8:
            assert parameter.dtype == torch.bfloat16, name
    assert {p.dtype for p in parameters} == {torch.float32}


def test_four_bit_gradients_reach_every_layer(micro_folder, tokenizer, ids, everywhere):
    """Oracle: a plain float32 model with the 4-bit weights written out.

    bitsandbytes may repack weights in a pass without gradient (CPUs with AVX512-BF16), for a kernel
    that lower layers get no gradient through; so first comes such a pass, as in every stage.
    """
    packed = load_backbone(str(micro_folder), quantize="4bit", lora=LoRA(2, 4), device="cpu")
    plain = load_backbone(str(micro_folder), lora=LoRA(2, 4), device="cpu")
    with torch.no_grad():
        layers = dict(packed.model.named_modules())
        for name, weight in plain.model.named_parameters():
            state = getattr(layers[name.rpartition(".")[0]].weight, "quant_state", None)
            if state is not None:
                four_bit = layers[name.rpartition(".")[0]].weight
                weight.copy_(bitsandbytes.functional.dequantize_4bit(four_bit.data, state))
    found = []
    for backbone in (packed, plain):
        backbone.add_role("policy")
        disturb(backbone, "policy")
        parameters = backbone.train_role("policy")
        with torch.no_grad():
            backbone.logits("policy", ids, everywhere)
        logits = backbone.logits("policy", ids, everywhere)
        logits.logsumexp(-1).sum().backward()
        found.append((logits.detach(), [p.grad for p in parameters]))
    (ours, our_grads), (theirs, their_grads) = found
    assert torch.allclose(ours, theirs, atol=1e-4)
    for one, other in zip(our_grads, their_grads, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * other.abs().max().item())


def test_four_bits_cannot_be_tuned_in_full(micro_folder):
    with pytest.raises(DataError, match="4-bit weights cannot be trained in full"):
        load_backbone(str(micro_folder), quantize="4bit", lora=None)


# Another architecture ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2(tokenizer):
    """Not a Llama: other names, biases, learned positions, transposed weights (Conv1D)."""
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("mode", [LoRA(2, 4), None])
def test_other_architectures_work(gpt2, tokenizer, mode, ids, everywhere):
    backbone = Backbone(copy.deepcopy(gpt2), tokenizer, "gpt2-like", mode)
    before = backbone.logits("base", ids, everywhere)
    with_all_roles(backbone)
    assert torch.equal(backbone.logits("base", ids, everywhere), before)
    assert not torch.allclose(backbone.logits("policy", ids, everywhere), before, atol=1e-3)
    assert backbone.scores("reward", ids, everywhere).shape == (3,)


def test_dropout_reaches_attention_and_mlp_of_other_architectures(gpt2, tokenizer, ids):
    backbone = Backbone(copy.deepcopy(gpt2), tokenizer)
    for part in ("attn", "mlp"):
        seen = []
        block = getattr(backbone.model.transformer.h[0], part)
        with backbone.dropout(0.5, torch.Generator().manual_seed(0)):
            hook = block.register_forward_hook(
                lambda m, a, out, seen=seen: seen.append(out[0] if isinstance(out, tuple) else out)
            )
            backbone.logits("base", ids, torch.ones_like(ids).bool())
        hook.remove()
        assert (seen[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.1), part
