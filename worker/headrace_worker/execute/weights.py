"""PackedWeight: the weight of a linear layer as the native kernels keep it, in one of several precisions."""

from dataclasses import dataclass
from enum import IntEnum

import torch

from headrace_worker.execute.lasting_memory import lasting
from headrace_worker.execute.native.library import Kernels, LinearCall
from headrace_worker.models.errors import ModelLoadError

_LANES = 16


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
    if form >= Format.INT8:
        data = _quantize(weight, form, kernels, threads)
    else:
        data = _pack_plain(weight, form, kernels, threads)
    return PackedWeight(data, form, *weight.shape)


def _pack_plain(weight: torch.Tensor, form: Format, kernels: Kernels, threads: int) -> torch.Tensor:
    dtype = next(dtype for dtype, plain in PLAIN.items() if plain is form)
    dense = weight.to(dtype).contiguous()
    if dtype is torch.float16 and not bool(dense.isfinite().all()):
        raise ModelLoadError("some weights are too large for float16; choose bfloat16 or float32")
    outputs, inputs = weight.shape
    packed = lasting(-(-outputs // _LANES) * _LANES * inputs * dtype.itemsize).view(dtype)
    kernels.pack(dense.data_ptr(), packed.data_ptr(), outputs, inputs, dtype.itemsize, threads)
    return packed


def _quantize(weight: torch.Tensor, form: Format, kernels: Kernels, threads: int) -> torch.Tensor:
    """The grids of quantize.h, which keep the weights of Q8_0, Q4_0 and Q4_1 as they are."""
    dense, (outputs, inputs) = weight.float().contiguous(), weight.shape
    packed = lasting(kernels.quantized_bytes(outputs, inputs, form))
    kernels.quantize(dense.data_ptr(), packed.data_ptr(), outputs, inputs, form, threads)
    return packed
