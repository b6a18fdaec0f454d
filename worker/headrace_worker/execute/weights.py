"""PackedWeight: the weight of a linear layer as the native kernels keep it, in one of several precisions."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch.nn import functional

from headrace_worker.execute.native.library import Kernels, LinearCall
from headrace_worker.models.errors import ModelLoadError

_LANES = 16
_BLOCK = 32


class Format(IntEnum):
    """The formats of weights.h, by its numbers."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2
    INT8 = 3
    INT4 = 4
    """Blocks of 32 inputs whose float16 step and least weight say what their numbers mean, as in GGUF's Q4_1.

    The rows that meet them are quantized to blocks of 16 bits, so that the products are of integers.
    """


PLAIN = {torch.float32: Format.FLOAT32, torch.float16: Format.FLOAT16, torch.bfloat16: Format.BFLOAT16}
"""How weights are kept that are not to be quantized."""


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """[outputs, inputs], laid out as weights.h says."""

    data: torch.Tensor
    format: Format
    outputs: int
    inputs: int

    def call(self, bias: torch.Tensor | None = None) -> LinearCall:
        """What is the same in each call with this weight."""
        return LinearCall(
            packed=self.data.data_ptr(),
            bias=bias.data_ptr() if bias is not None else None,
            outputs=self.outputs,
            inputs=self.inputs,
            format=self.format,
        )


@dataclass(frozen=True, slots=True)
class Packing:
    """How the weights of one model are to be kept, and what computes with them."""

    kernels: Kernels
    threads: int
    layers: Format
    head: Format

    @classmethod
    def of(cls, dtype: torch.dtype, quantization: str, kernels: Kernels, threads: int) -> "Packing":
        """``quantization``: none, int8 or int4; a head in four bits would cost more than it saves."""
        if quantization == "none":
            return cls(kernels, threads, PLAIN[dtype], PLAIN[dtype])
        return cls(kernels, threads, Format[quantization.upper()], Format.INT8)


def pack(weight: torch.Tensor, form: Format, kernels: Kernels, threads: int) -> PackedWeight:
    """``weight``: [outputs, inputs] in any floating type; it may be freed afterwards.

    Raises ModelLoadError where ``form`` cannot hold a weight.
    """
    weight = weight.detach()
    if form is Format.INT8:
        data = _join(_quads(_quantize(weight.float(), 255)))
    elif form is Format.INT4:
        data = _join(_nibbles(_quads(_quantize(weight.float(), 15))))
    else:
        data = _pack_plain(weight, form, kernels, threads)
    return PackedWeight(data, form, *weight.shape)


def _pack_plain(weight: torch.Tensor, form: Format, kernels: Kernels, threads: int) -> torch.Tensor:
    dtype = next(dtype for dtype, plain in PLAIN.items() if plain is form)
    dense = weight.to(dtype).contiguous()
    if dtype is torch.float16 and not bool(dense.isfinite().all()):
        raise ModelLoadError("some weights are too large for float16; choose bfloat16 or float32")
    outputs, inputs = weight.shape
    packed = torch.empty(-(-outputs // _LANES) * _LANES * inputs, dtype=dtype)
    kernels.pack(dense.data_ptr(), packed.data_ptr(), outputs, inputs, dtype.itemsize, threads)
    return packed


@dataclass(slots=True)
class _Blocks:
    """weight = step * number + least"""

    numbers: torch.Tensor
    """[outputs, blocks, 32], uint8; later [panels, blocks, quads, 16, 4]"""
    steps: torch.Tensor
    """Steps and leasts, [outputs, blocks, 2], float16; later [panels, blocks, 2, 16]"""


def _quantize(weight: torch.Tensor, most: int) -> _Blocks:
    """Numbers 0 to ``most``, by whichever grid is closer to a block's weights: over their range, or around zero.

    The second is the one of GGUF's Q8_0 and Q4_0, whose weights stay what they are.
    """
    outputs, inputs = weight.shape
    # What the last block is filled up with widens no block's range.
    filled = torch.cat([weight, weight[:, -1:].expand(outputs, -inputs % _BLOCK)], 1)
    blocks = filled.view(outputs, -1, _BLOCK)
    low, high = blocks.aminmax(dim=2, keepdim=True)
    ranging = _on_grid(blocks, low, (high - low) / most, most)
    around = _on_grid(blocks, *_around_zero(low, high, most), most)
    closer = around[2] < ranging[2]
    numbers, steps = (torch.where(closer, *both) for both in zip(around[:2], ranging[:2], strict=True))
    return _Blocks(numbers.to(torch.uint8), steps)


def _around_zero(low: torch.Tensor, high: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(least, step) of Q8_0, which leaves number 0 out, or of Q4_0, whose unpaired number goes to the larger side."""
    half, largest = (most + 1) // 2, torch.maximum(-low, high)
    if most == 255:
        step = (largest / (half - 1)).half().float()
        return -half * step, step
    step = (largest / half).half().float()
    return torch.where(high > -low, 1 - half, -half) * step, step


def _on_grid(
    blocks: torch.Tensor, least: torch.Tensor, step: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(numbers, steps and leasts, sum of squared errors) with one step and one least for each block."""
    pair = torch.cat([step, least], 2).half()
    step, least = pair.float().split(1, 2)
    numbers = ((blocks - least) / step).nan_to_num_(0.0, 0.0, 0.0).round_().clamp_(0, most)
    return numbers, pair, (numbers * step + least - blocks).square_().sum(2, keepdim=True)


def _quads(blocks: _Blocks) -> _Blocks:
    """Sixteen outputs side by side, lanes behind the last one 0."""
    missing = (0, 0, 0, 0, 0, -len(blocks.numbers) % _LANES)
    numbers, steps = functional.pad(blocks.numbers, missing), functional.pad(blocks.steps, missing)
    shape = (-1, _LANES, numbers.shape[1])
    return _Blocks(
        numbers.view(*shape, _BLOCK // 4, 4).permute(0, 2, 3, 1, 4),
        steps.view(*shape, steps.shape[2]).permute(0, 2, 3, 1),
    )


def _nibbles(blocks: _Blocks) -> _Blocks:
    half = _BLOCK // 8
    return _Blocks(blocks.numbers[:, :, :half] | blocks.numbers[:, :, half:] << 4, blocks.steps)


def _join(blocks: _Blocks) -> torch.Tensor:
    split = blocks.numbers.numel()
    data = torch.empty(split + 2 * blocks.steps.numel(), dtype=torch.uint8)
    data[:split].view(blocks.numbers.shape).copy_(blocks.numbers)
    data[split:].view(torch.float16).view(blocks.steps.shape).copy_(blocks.steps)
    return data
