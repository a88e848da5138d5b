"""nf4.py against bitsandbytes on the CPU, the published code table and its own invariants."""

import math

import bitsandbytes.functional
import pytest
import scipy.stats
import torch

from minirlhf.maths.nf4 import (
    DYNAMIC_CODE,
    NF4_CODE,
    bits_per_parameter,
    dequantize_nf4,
    quantize_nf4,
)

# Dettmers et al. 2023, appendix E
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip
WHOLE = [(256, 512), (3, 19_200)]  # a multiple of the block of 64
RAGGED = [(37, 53), (65, 3)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_bitsandbytes(weights, compress_statistics=True):
    return bitsandbytes.functional.quantize_4bit(
        weights, blocksize=64, compress_statistics=compress_statistics, quant_type="nf4"
    )


# --- the codes -----------------------------------------------------------------------------


def test_the_code_is_the_published_table_and_scipys_quantiles():
    assert NF4_CODE.tolist() == pytest.approx(PUBLISHED, abs=3e-7)
    outermost = 0.9677083
    above = [scipy.stats.norm.ppf(outermost + (0.5 - outermost) * i / 8) for i in range(8)]
    below = [scipy.stats.norm.ppf(outermost + (0.5 - outermost) * i / 7) for i in range(7)]
    wanted = sorted([*above, 0.0, *(-x for x in below)])
    assert NF4_CODE.tolist() == pytest.approx([x / wanted[-1] for x in wanted], abs=2e-7)
    # The recipe found on the web, quantiles of (i + .5) / 16, has no exact zero.
    assert not any(scipy.stats.norm.ppf((i + 0.5) / 16) == 0 for i in range(16))
    assert 0.0 in NF4_CODE


def test_the_scales_code_is_bitsandbytes_dynamic_map():
    assert torch.equal(DYNAMIC_CODE, bitsandbytes.functional.create_dynamic_map())
    assert len(DYNAMIC_CODE.unique()) == 256


# --- against bitsandbytes ------------------------------------------------------------------


@pytest.mark.parametrize("shape", WHOLE + RAGGED)
def test_codes_are_bitsandbytes_bytes(shape):
    weights = normal(*shape)
    packed, state = by_bitsandbytes(weights)
    ours = quantize_nf4(weights)
    assert torch.equal(ours.codes, packed.flatten())
    assert torch.equal(ours.scale_scales, state.state2.absmax)
    assert ours.scale_mean == state.offset
    # Its CPU kernel sends a few scales that lie on the middle between two codes the other way.
    theirs = state.absmax.flatten().int()
    differ = (ours.scale_codes.int() - theirs).abs()
    assert differ.max() <= 1
    assert differ.float().mean() < 0.005


@pytest.mark.parametrize("shape", WHOLE)
def test_weights_come_back_as_from_bitsandbytes(shape):
    weights = normal(*shape)
    packed, state = by_bitsandbytes(weights)
    theirs = bitsandbytes.functional.dequantize_4bit(packed, state).view(shape)
    ours = dequantize_nf4(quantize_nf4(weights))
    assert ours.shape == weights.shape
    same = (ours - theirs).abs() < 1e-6
    assert same.float().mean() > 0.995  # all but the blocks of those few scales
    assert (ours - theirs).abs().max() < 0.03


# --- its own invariants --------------------------------------------------------------------


def test_every_weight_goes_to_the_nearest_level():
    """A slow search over 16 levels, with the scales before their own quantisation."""
    weights = normal(4, 64)
    codes = quantize_nf4(weights).codes
    unpacked = torch.stack([codes >> 4, codes & 15], -1).view(4, 64)
    for row, indices in zip(weights, unpacked.tolist(), strict=True):
        scale = row.abs().max().item()
        for weight, index in zip(row.tolist(), indices, strict=True):
            distance = [abs(weight / scale - level) for level in PUBLISHED]
            assert distance[index] == pytest.approx(min(distance), abs=1e-6)


def test_requantising_changes_no_code():
    quantized = quantize_nf4(normal(256, 512))
    once = dequantize_nf4(quantized)
    again = quantize_nf4(once)
    assert torch.equal(again.codes, quantized.codes)
    # The scales go through their own rounding once more, around a mean that moved a little.
    assert (dequantize_nf4(again) - once).abs().max() < 1e-3


def test_the_error_is_the_measured_one():
    weights = normal(512, 512)
    error = dequantize_nf4(quantize_nf4(weights)) - weights
    assert (error.norm() / weights.norm()).item() == pytest.approx(0.0920, abs=3e-4)


def test_zeros_stay_zeros_and_signs_stay_signs():
    weights = torch.cat([torch.zeros(64), normal(64), 100 * normal(64)])
    back = dequantize_nf4(quantize_nf4(weights))
    assert not back[:64].any()
    assert ((back[64:] * weights[64:]) >= 0).all()


@pytest.mark.parametrize("shape", [(1,), (65,), (2, 64), (3, 5, 7)])
def test_any_shape_comes_back(shape):
    weights = normal(*shape)
    back = dequantize_nf4(quantize_nf4(weights))
    assert back.shape == weights.shape
    assert (back - weights).abs().max() < 0.17 * weights.abs().max()  # half the widest gap, .15
    assert not dequantize_nf4(quantize_nf4(torch.zeros(shape))).any()


def test_4_127_bits_counted_in_bytes():
    weights = normal(1024, 1024)
    quantized = quantize_nf4(weights)
    tensors = (quantized.codes, quantized.scale_codes, quantized.scale_scales)
    bits = 8 * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert bits / weights.numel() == bits_per_parameter() == 4.126953125
    packed, state = by_bitsandbytes(weights, compress_statistics=False)
    bits = 8 * (packed.numel() + 4 * state.absmax.numel())
    assert bits / weights.numel() == bits_per_parameter(double_quantization=False) == 4.5


@pytest.mark.parametrize("weights", [torch.zeros(0), torch.tensor([1.0, math.nan])])
def test_what_cannot_be_quantised_is_refused(weights):
    with pytest.raises(ValueError, match="weights must be finite and at least one"):
        quantize_nf4(weights)
