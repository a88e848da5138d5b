"""minirlhf.engine.decoder: the written-out pass is transformers' own, for every kind it reads."""

import copy

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from minirlhf.engine import decoder
from minirlhf.engine.backbone import Backbone, LoRA, position_ids
from minirlhf.engine.batches import Encoder, PromptBatch
from minirlhf.engine.reading import PlainReader, Reader
from minirlhf.engine.records import DataError
from minirlhf.engine.rollout import sample
from tests.engine.backbone_setup import disturb

SHAPE = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=64,
)
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig(vocab_size=90, num_key_value_heads=4, **SHAPE)),
    "grouped heads, tied, wide head": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=90, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, **SHAPE
        ),
    ),
    "llama 3 rope": (
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=90,
            num_key_value_heads=1,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            **SHAPE,
        ),
    ),
    "qwen2, biases": (Qwen2ForCausalLM, Qwen2Config(vocab_size=90, num_key_value_heads=2, **SHAPE)),
    "mistral": (
        MistralForCausalLM,
        MistralConfig(vocab_size=90, num_key_value_heads=2, sliding_window=None, **SHAPE),
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    kind, config = KINDS[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # as drawn they are zeros and ones
                torch.nn.init.normal_(parameter, 1.0, 0.3)
    return model


def on(model, tokenizer, lora=LoRA(4, 8), **options):  # noqa: B008  (frozen)
    backbone = Backbone(copy.deepcopy(model), tokenizer, "kind", lora, **options)
    for number, role in enumerate(("reference", "reward")):
        backbone.add_role(role)
        disturb(backbone, role, number)
    return backbone


@pytest.fixture(scope="module")
def batch():
    """Four rows of eleven tokens: whole, padded left, padded right, both."""
    ids = torch.randint(3, 90, (4, 11), generator=torch.Generator().manual_seed(5))
    mask = torch.ones(4, 11, dtype=torch.bool)
    mask[1, :4] = mask[2, 8:] = mask[3, :2] = mask[3, 9:] = False
    return ids, mask


def theirs(backbone, role, ids, mask):
    """transformers' own pass, through peft."""
    with backbone.active(role) as model:
        out = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=position_ids(mask),
            output_hidden_states=True,
        )
    return out.logits, out.hidden_states[-1]


@pytest.mark.parametrize("role", ["base", "reference"])
@pytest.mark.parametrize("lora", [LoRA(4, 8), LoRA(4, 8, first_layer=2), None])
def test_the_pass_is_transformers_own(model, tokenizer, batch, role, lora):
    backbone = on(model, tokenizer, lora)
    ids, mask = batch
    logits, hidden = theirs(backbone, role, ids, mask)
    assert backbone.written_out
    assert torch.allclose(backbone.logits(role, ids, mask)[mask], logits[mask], atol=2e-5)
    assert torch.allclose(backbone.hidden(role, ids, mask)[mask], hidden[mask], atol=2e-5)
    whole = torch.ones_like(mask)
    logits, _ = theirs(backbone, role, ids, whole)
    assert torch.allclose(backbone.logits(role, ids, whole), logits, atol=2e-5)


def test_keys_are_repeated_where_no_kernel_shares_them(model, tokenizer, batch, monkeypatch):
    backbone = on(model, tokenizer)
    shared = backbone.logits("reference", *batch)
    monkeypatch.setattr(decoder, "_knows_groups", lambda device, mask: False)
    repeated = backbone.logits("reference", *batch)
    assert torch.allclose(repeated[batch[1]], shared[batch[1]], atol=2e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_transformers_own(model, tokenizer, batch, checkpointing):
    backbone = on(model, tokenizer)
    parameters = backbone.train_role("reference")
    ids, mask = batch
    weight = torch.randn(4, 11, 90, generator=torch.Generator().manual_seed(1)) * mask[..., None]
    (theirs(backbone, "reference", ids, mask)[0] * weight).sum().backward()
    expected = [p.grad.clone() for p in parameters]
    backbone.model.zero_grad()
    backbone.checkpointing = checkpointing
    (backbone.logits("reference", ids, mask) * weight).sum().backward()
    for found, parameter in zip(expected, parameters, strict=True):
        scale = found.abs().max().item()
        assert torch.allclose(parameter.grad, found, atol=2e-5 * max(scale, 1.0))


def test_dropped_and_computed_again_is_dropped_the_same(model, tokenizer, batch):
    backbone = on(model, tokenizer)
    parameters = backbone.train_role("reference")
    ids, mask = batch
    found = []
    for checkpointing in (False, True):
        backbone.checkpointing = checkpointing
        with backbone.dropout(0.3, torch.Generator().manual_seed(2)):
            backbone.logits("reference", ids, mask)[mask].square().sum().backward()
        found.append([p.grad.clone() for p in parameters])
        backbone.model.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_trunk_is_shared_by_all_roles_for_good(model, tokenizer, batch):
    """Layers below `first_layer` have no adapter: computed once, they serve all, trained or not."""
    backbone = on(model, tokenizer, LoRA(4, 8, first_layer=2))
    ids, mask = batch
    trunk = backbone.trunk(ids, mask)
    assert not trunk.requires_grad
    for _ in range(2):
        for role in ("base", "reference"):
            straight = backbone.logits(role, ids, mask)
            shared = backbone.logits(role, ids, mask, trunk=trunk)
            assert torch.equal(straight, shared)
        straight = backbone.scores("reward", ids, mask)
        assert torch.equal(backbone.scores("reward", ids, mask, trunk), straight)
        disturb(backbone, "reference")
        disturb(backbone, "reward")
    names = [name for name in backbone.weights("reference") if "lora_B" in name]
    assert len(names) == 7 and all(".layers.2." in name for name in names)
    assert on(model, tokenizer).trunk(ids, mask) is None


def test_a_gradient_stops_at_the_trunk(model, tokenizer, batch):
    backbone = on(model, tokenizer, LoRA(4, 8, first_layer=1))
    parameters = backbone.train_role("reference")
    ids, mask = batch
    gradients = []
    for trunk in (None, backbone.trunk(ids, mask)):
        backbone.logits("reference", ids, mask, trunk=trunk)[mask].square().sum().backward()
        gradients.append([p.grad.clone() for p in parameters])
        backbone.model.zero_grad()
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [LoRA(4, 8), None])
@pytest.mark.parametrize("kind", ["fused", Reader, PlainReader])
def test_readers_say_what_one_pass_says(model, tokenizer, batch, kind, lora, monkeypatch):
    """Token by token, rows picked and repeated on the way, all readers alike."""
    backbone = on(model, tokenizer, lora)
    assert decoder.can_fuse(backbone.model)
    if kind == "fused":
        kind = Reader
    else:
        monkeypatch.setattr(decoder, "can_fuse", lambda model: False)
    ids, mask = batch
    mask = mask.clone()
    mask[:, 5:] = True  # prompts are padded on the left
    reader = kind(backbone, "reference", ids[:, :6], mask[:, :6], room=5)
    rows = torch.tensor([3, 1, 1])
    expected, _ = theirs(backbone, "reference", ids, mask)
    assert torch.allclose(reader.logits, expected[:, 5], atol=2e-5)
    reader.read(ids[:, 6])
    reader.pick(rows)
    assert torch.allclose(reader.logits, expected[rows, 6], atol=2e-5)
    for step in range(7, 11):
        reader.read(ids[rows, step])
        assert torch.allclose(reader.logits, expected[rows, step], atol=2e-5)


def test_both_readers_draw_the_same(model, tokenizer, batch, monkeypatch):
    backbone = on(model, tokenizer)
    ids, mask = batch
    prompts = PromptBatch(ids[:2, :8], mask[:2, :8])

    def draw():
        generator = torch.Generator().manual_seed(3)
        return sample(backbone, "reference", prompts, 20, generator, samples=2)

    own = draw()
    monkeypatch.setattr(decoder, "FAMILIES", ())
    plain = draw()
    assert torch.equal(own.response_ids, plain.response_ids)
    assert torch.allclose(own.logprobs, plain.logprobs, atol=1e-4)


@pytest.mark.parametrize("adapters", [LoRA(4, 8), LoRA(4, 8, first_layer=1), None])
def test_a_tree_scores_and_learns_as_single_rows_do(new_backbone, rankings, monkeypatch, adapters):
    """A prompt read once for all its responses: the same scores and gradients."""
    backbone = new_backbone(adapters)
    backbone.add_role("reward")
    disturb(backbone, "reward")
    parameters = backbone.train_role("reward")
    batch = Encoder(backbone.tokenizer, 128).rankings(rankings)
    found = []
    for families in (decoder.FAMILIES, ()):  # written out: a tree; else row by row
        monkeypatch.setattr(decoder, "FAMILIES", families)
        scores = backbone.ranking_scores("reward", batch)
        (scores * torch.linspace(-1, 1, len(scores))).sum().backward()
        found.append([scores.detach(), *(p.grad.clone() for p in parameters)])
        for parameter in parameters:
            parameter.grad = None
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * max(1, other.abs().max().item()))


def test_what_cannot_share_says_so(model, tokenizer, monkeypatch):
    with pytest.raises(DataError, match=r"lora\.first_layer: 3 leaves no layer of 3 an adapter"):
        Backbone(copy.deepcopy(model), tokenizer, "kind", LoRA(first_layer=3))
    monkeypatch.setattr(decoder, "FAMILIES", ())
    with pytest.raises(DataError, match=r"lora\.first_layer: only models of these kinds"):
        Backbone(copy.deepcopy(model), tokenizer, "kind", LoRA(first_layer=1))


def test_a_window_of_attention_goes_through_its_own_forward(tokenizer):
    config = MistralConfig(vocab_size=90, num_key_value_heads=2, sliding_window=4, **SHAPE)
    assert not decoder.can_read(MistralForCausalLM(config))


def test_what_would_not_be_exact_is_not_fused(model, monkeypatch):
    assert not decoder.can_fuse(copy.deepcopy(model).to(torch.bfloat16))
    monkeypatch.setattr(decoder, "FUSE_UP_TO", 1000)
    assert not decoder.can_fuse(model)
    config = LlamaConfig(vocab_size=90, attention_bias=True, **SHAPE)
    assert not decoder.can_fuse(LlamaForCausalLM(config))
