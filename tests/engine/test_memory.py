"""minirlhf.engine.memory: sums worked by hand, and what they must obey."""

from dataclasses import replace

import pytest

from minirlhf.engine.memory import (
    GIB,
    Job,
    base_bytes,
    largest,
    longest,
    needs,
    peak,
    role_bytes,
    unpacked,
    usable,
)
from minirlhf.engine.shapes import Shapes, table

KNOWN = table()
SMALL = Shapes("llama", 1000, 64, 128, 2, 4, 2, 16, True, 512)


def test_an_8b_base_in_4_and_in_16_bits():
    """6,979,321,856 packed weights at 4.127 bits; 2 x 128,256 x 4,096 of embeddings in 16 bits."""
    shapes = KNOWN["Llama-3.1-8B"]
    assert base_bytes(shapes, Job()) == 2 * 8_030_261_248
    packed = base_bytes(shapes, Job(quantize="4bit"))
    assert packed == pytest.approx(3.60e9 + 2.10e9, rel=0.002)
    assert base_bytes(shapes, Job(half=False)) == 4 * 8_030_261_248
    # the MLP's matrix in bfloat16, and a float32 scale for each 64 of its weights
    assert unpacked(shapes, Job(quantize="4bit")) == 4096 * 14336 * 2 + 4096 * 14336 // 16
    assert unpacked(shapes, Job()) == 0


def test_roles_are_adapters_in_32_bits_or_copies():
    shapes = KNOWN["Llama-3.1-8B"]
    roles = role_bytes(shapes, Job(quantize="4bit"))
    head = 4 * 4097
    adapter = 4 * 41_943_040
    assert roles == {
        "base": base_bytes(shapes, Job(quantize="4bit")),
        "reference": adapter,
        "reward": adapter + head,
        "policy": adapter,
        "value": adapter + head,
    }
    upper = role_bytes(shapes, Job(first_layer=24, value_model="shared", ema=True))
    assert upper["policy"] == adapter // 4 + head
    assert "value" not in upper
    assert upper["average of the policy"] == adapter // 4
    copies = role_bytes(SMALL, Job(full=True))
    assert copies["policy"] == copies["base"] == 4 * SMALL.parameters


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [("SmolLM2-135M", 23_040), ("Qwen2.5-7B", 57_344), ("Llama-3.1-8B", 131_072)],
)
def test_the_cache_has_the_published_bytes_per_token(name, bytes_per_token):
    """Keys and values in 16 bits; as rows end, half of it (the keys) stands there twice."""
    job = Job(prompt_tokens=2, response_tokens=1000, rollout_rows=16)
    cache = needs(KNOWN[name], job)["rollout"].cache
    assert cache == pytest.approx(1.5 * 16 * 1002 * bytes_per_token)


def test_one_stage_worked_by_hand():
    """A value pass over 3 x 20 tokens of 2 layers, LoRA of rank 4, float32, no checkpointing."""
    job = Job(half=False, rank=4, ppo_rows=3, prompt_tokens=12, response_tokens=8)
    need = needs(SMALL, job)["value"]
    # an adapter: q 64 -> 64, k and v 64 -> 32, o 64 -> 64, gate and up 64 -> 128, down 128 -> 64
    adapter = 2 * 4 * (128 + 96 + 96 + 128 + 192 + 192 + 192)
    base = 1000 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64
    assert SMALL.parameters == base
    assert need.weights == 4 * (base + 4 * adapter + 2 * 65)
    assert need.adam == 8 * (2 * adapter + 65)
    assert need.gradients == 4 * (adapter + 65)
    # 4 of the stream (64), queries and output (64), keys and values (32), mask (20), 4 of the MLP
    # (128), 7 of the rank; softmax of 4 heads, 2 norms
    layer = 4 * (4 * 64 + 2 * 64 + 2 * 32 + 20 + 4 * 128 + 7 * 4) + 4 * 4 + 8
    ends = 4 * 3 * 64  # the embedding, the last norm's input and output
    gradients = 4 * 2 * 128
    assert need.activations == 60 * (2 * layer + ends + gradients)
    assert (need.cache, need.logits, need.unpacking) == (0, 0, 0)
    again = needs(SMALL, replace(job, checkpointing=True))["value"]
    assert again.activations == 60 * (2 * 4 * 64 + ends + gradients + layer)


def test_the_logits_of_a_policy_pass():
    """At the loss: logits, and three more in the gradient of logsumexp; of the response alone."""
    job = Job(ppo_rows=4, checkpointing=True, quantize="4bit")
    need = needs(KNOWN["Llama-3.1-8B"], job)["policy"]
    assert need.logits == 4 * 4 * 4 * 256 * 128_256
    assert needs(KNOWN["Llama-3.1-8B"], job)["value"].logits == 0


def test_more_takes_more():
    job, shapes = Job(quantize="4bit", checkpointing=True, ptx_tokens=64), KNOWN["Qwen2.5-1.5B"]
    before = needs(shapes, job)
    assert list(before) == ["sft", "reward", "rollout", "scoring", "policy", "ptx", "value"]
    for change in (
        {"prompt_tokens": 300},
        {"response_tokens": 300},
        {"rank": 32},
        {"ppo_rows": 8, "sft_rows": 3, "reward_rows": 2, "rollout_rows": 20},
        {"quantize": "none"},
        {"full": True, "quantize": "none"},
    ):
        after = needs(shapes, replace(job, **change))
        assert all(after[stage].total > before[stage].total for stage in before if stage != "ptx")
    for change in ({"checkpointing": False}, {"dropout": True}):
        assert peak(shapes, replace(job, **change)) >= peak(shapes, job)
    none, shared = (replace(job, value_model=kind) for kind in ("none", "shared"))
    assert peak(shapes, none) < peak(shapes, shared) < peak(shapes, job)
    assert "value" not in needs(shapes, none)
    one, other = (needs(shapes, kind)["policy"].total for kind in (none, shared))
    assert other - one == 4 * 4 * (shapes.hidden + 1)  # a head: weights, two moments, gradient


def test_the_largest_that_fits_is_the_largest():
    shapes, job = KNOWN["Qwen2.5-1.5B"], Job(quantize="4bit", checkpointing=True)
    room = usable(8)
    assert room == int(8 * 0.95 * GIB - 0.7 * GIB)
    for setting, stages in {
        "ppo_rows": ("scoring", "policy", "value"),
        "sft_rows": ("sft",),
        "rollout_rows": ("rollout",),
    }.items():
        most = largest(shapes, job, setting, room)
        assert most > 1
        for rows, fits in ((most, True), (most + 1, False)):
            found = needs(shapes, replace(job, **{setting: rows}))
            assert (max(found[stage].total for stage in stages) <= room) == fits
    tokens = longest(shapes, job, room)
    alone = replace(job, ppo_rows=1, sft_rows=1, reward_rows=1)
    for length, fits in ((tokens, True), (tokens + 1, False)):
        longer = replace(alone, prompt_tokens=length, response_tokens=length)
        assert (peak(shapes, longer) <= room) == fits
    assert largest(shapes, job, "ppo_rows", GIB) == longest(shapes, job, GIB) == 0
    assert longest(shapes, job, 10**15) == shapes.context // 2
