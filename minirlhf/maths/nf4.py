"""NF4 with double quantisation, by hand: what `quantize: 4bit` does to a weight matrix.

For reading and for the memory sums. The stages use bitsandbytes, which gives the same codes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 64  # weights that share one scale (their largest magnitude)
SUPER_BLOCK = 256  # scales that share one scale of their own


def _nf4_code() -> Tensor:
    """Quantiles of N(0, 1), 8 above zero and 7 below, an exact 0 between, scaled to [-1, 1]."""
    # Not quantile 1, which is infinite: the mean of what 16 and 15 levels would leave outside.
    outermost = 1 - (1 / 32 + 1 / 30) / 2
    above, below = (
        torch.special.ndtri(torch.linspace(outermost, 0.5, levels + 1, dtype=torch.float64)[:-1])
        for levels in (8, 7)
    )
    code = torch.cat([-below, torch.zeros(1, dtype=torch.float64), above.flip(0)])
    return (code / code[-1]).float()


def _dynamic_code() -> Tensor:
    """The 256 values of the scales' 8-bit code: seven decades, each twice as fine as the last."""
    code = [0.0, 1.0]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        centres = 10.0 ** (exponent - 6) * (edges[:-1] + edges[1:]) / 2
        code += centres.tolist() + (-centres).tolist()
    return torch.tensor(sorted(code))


NF4_CODE = _nf4_code()
DYNAMIC_CODE = _dynamic_code()


class NF4(NamedTuple):
    """A quantised tensor of N weights: 4 bits each, and its scales in 8 bits each."""

    codes: Tensor  # (ceil(N / 2),) uint8, two 4-bit indices into NF4_CODE per byte
    scale_codes: Tensor  # (blocks,) uint8, indices into DYNAMIC_CODE
    scale_scales: Tensor  # (ceil(blocks / 256),) float32
    scale_mean: Tensor  # scalar float32, taken off the scales before they were quantised
    shape: torch.Size


def _quantize_blocks(values: Tensor, code: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Index of the nearest code value, after each block was divided by its largest magnitude."""
    blocks = torch.nn.functional.pad(values, (0, -len(values) % block)).view(-1, block)
    scales = blocks.abs().amax(-1)
    scaled = blocks * (1 / scales.clamp(min=1e-38)).unsqueeze(-1)
    return torch.bucketize(scaled, (code[1:] + code[:-1]) / 2).flatten()[: len(values)], scales


def _dequantize_blocks(codes: Tensor, scales: Tensor, code: Tensor, block: int) -> Tensor:
    return code[codes.long()] * scales.repeat_interleave(block)[: len(codes)]


def quantize_nf4(weights: Tensor) -> NF4:
    """Round each weight to the nearest of 16 levels, and the scales to 8 bits.

    Quantising twice: 32-bit scales would cost 32 / 64 = 0.5 bits per weight, these cost 0.127.

    Source:  Dettmers et al. 2023, section 3 (arXiv:2305.14314).
    Args:    weights, any shape, floating point.
    Returns: NF4, on the CPU.
    Raises:  ValueError for an empty tensor, or for inf or nan among the weights.
    >>> quantize_nf4(torch.tensor([-2.0, 0.0, 0.1, 2.0])).codes.tolist()  # 0 7, 8 15
    [7, 143]
    """
    values = weights.detach().float().cpu().flatten()
    if not len(values) or not values.isfinite().all():
        raise ValueError("weights must be finite and at least one")
    codes, scales = _quantize_blocks(values, NF4_CODE, BLOCK)
    codes = torch.nn.functional.pad(codes, (0, len(codes) % 2), value=7).to(torch.uint8)
    mean = scales.mean()
    scale_codes, scale_scales = _quantize_blocks(scales - mean, DYNAMIC_CODE, SUPER_BLOCK)
    packed = codes[::2] << 4 | codes[1::2]
    return NF4(packed, scale_codes.to(torch.uint8), scale_scales, mean, weights.shape)


def dequantize_nf4(quantized: NF4) -> Tensor:
    """The weights that the model computes with.

    Args:    quantized, from `quantize_nf4`.
    Returns: float32, of the original shape.
    >>> weights = torch.tensor([[-2.0, 0.0], [0.1, 2.0]])
    >>> [round(w, 2) for w in dequantize_nf4(quantize_nf4(weights)).flatten().tolist()]
    [-2.0, 0.0, 0.16, 2.0]
    """
    n = quantized.shape.numel()
    codes = torch.stack([quantized.codes >> 4, quantized.codes & 15], -1).flatten()[:n]
    scales = quantized.scale_mean + _dequantize_blocks(
        quantized.scale_codes, quantized.scale_scales, DYNAMIC_CODE, SUPER_BLOCK
    )
    return _dequantize_blocks(codes, scales, NF4_CODE, BLOCK).view(quantized.shape)


def bits_per_parameter(double_quantization: bool = True) -> float:
    """Storage per weight of a large tensor, the scales included.

    Source:  Dettmers et al. 2023, section 3.
    Returns: bits: 4 + 8 / 64 + 32 / (64 * 256), or 4 + 32 / 64 with 32-bit scales.
    >>> bits_per_parameter(), bits_per_parameter(double_quantization=False)
    (4.126953125, 4.5)
    """
    if not double_quantization:
        return 4 + 32 / BLOCK
    return 4 + 8 / BLOCK + 32 / (BLOCK * SUPER_BLOCK)
