"""The compiled kernels, where they were built: loading them and calling them.

The kernels are plain C, compiled when the package was built, once per instruction set; ``kernels()``
says whether this machine has them. Calls release the GIL.
"""

import ctypes
import functools
import hashlib
import logging
from collections.abc import Callable
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

_LIBRARY = Path(__file__).with_name("kernels.so")


class AttentionCall(Structure):
    """``Attention`` in attention.h, field for field."""

    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value")),
        *((f"{name}_{step}", c_int64) for name in ("query", "key", "value") for step in ("row", "head")),
        *((name, c_void_p) for name in ("key_cache", "value_cache", "key_scales", "value_scales")),
        *((name, c_void_p) for name in ("out", "cosine", "sine")),
        *((name, c_void_p) for name in ("query_norm", "key_norm", "sinks")),
        *((name, c_void_p) for name in ("query_starts", "contexts", "block_tables", "slots")),
        ("table_row", c_int64),
        *((name, c_int32) for name in ("num_sequences", "num_rows", "num_heads", "num_kv_heads", "head_dim")),
        *((name, c_int32) for name in ("value_dim", "block_size", "rotary_dim", "window", "kept", "threads")),
        *((name, c_float) for name in ("scale", "softcap", "norm_eps")),
    )


class LinearCall(Structure):
    """``Linear`` in linear.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("x", "packed", "bias", "y", "scratch")),
        *((name, c_int32) for name in ("rows", "outputs", "inputs", "mode", "format")),
    )


class LayerCall(Structure):
    """``Layer`` in decoder.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("input_norm", "middle_norm", "attention_norm", "gated_norm")),
        *((name, c_void_p) for name in ("query_norm", "key_norm", "merged", "output", "gate_up", "down")),
        *((name, c_void_p) for name in ("merged_bias", "output_bias", "gate_up_bias", "down_bias")),
        *((name, c_void_p) for name in ("key_cache", "value_cache", "key_scales", "value_scales")),
        *((name, c_int32) for name in ("window", "rotary", "format")),
    )


class DecoderCall(Structure):
    """``Decoder`` in decoder.h."""

    _fields_ = (
        ("layers", POINTER(LayerCall)),
        ("final_norm", c_void_p),
        *((name, c_void_p) for name in ("residual", "normed", "merged", "attended", "delta", "gated", "scratch")),
        ("cosine", c_void_p * 2),
        ("sine", c_void_p * 2),
        ("attention", AttentionCall),
        *((name, c_int32) for name in ("num_layers", "hidden", "intermediate", "gate")),
        ("norm_eps", c_float),
    )


@dataclass(frozen=True, slots=True)
class Kernels:
    """The functions for this machine's instruction set. Pointers are addresses of contiguous data, float32 but for weights."""

    isa: str
    pack: Callable[[int, int, int, int, int, int], None]
    """weight [outputs, inputs], packed, outputs, inputs, bytes of an element (4 or 2), threads"""
    quantized_bytes: Callable[[int, int, int], int]
    """Of a weight in blocks: outputs, inputs, format"""
    quantize: Callable[[int, int, int, int, int, int], None]
    """weight (float32), packed, outputs, inputs, format, threads"""
    unpack_rows: Callable[[object, int, int, int, int], None]
    """LinearCall by reference, ids (int64, in range), out [count, inputs], count, threads"""
    scratch_bytes: Callable[[int, int], int]
    """Of LinearCall's scratch for weights in blocks: rows, inputs"""
    linear: Callable[[object, int], None]
    """LinearCall by reference, threads"""
    attend: Callable[[object], int]
    """AttentionCall by reference; 0, or not when memory is short"""
    decode: Callable[[object], int]
    """DecoderCall by reference; 0, or not when memory is short"""


class StaleKernelsError(OSError):
    """The library was built from other sources than those beside it: what it computes may be something else."""


def address(tensor: torch.Tensor | None) -> int | None:
    """Where its numbers are; NULL for nothing."""
    return None if tensor is None else int(tensor.data_ptr())


@functools.cache
def kernels() -> Kernels | None:
    """The kernels, loaded once per process; None, said once in the log, where they cannot be had."""
    try:
        found = load_kernels()
    except StaleKernelsError as error:
        log.warning(
            "native kernels are out of date and not used: everything takes several times as long until they are built again",
            extra={"reason": str(error), "build_again": "make kernels, or install the package again"},
        )
        return None
    except (OSError, AttributeError) as error:
        log.warning("native kernels are not available: torch operators do their work", extra={"reason": str(error)})
        return None
    log.debug("native kernels loaded", extra={"isa": found.isa})
    return found


def load_kernels(isa: str | None = None) -> Kernels:
    """The kernels for one instruction set; None: the best that this machine has.

    Raises OSError or AttributeError when they were not built, or not for that set; StaleKernelsError when the sources
    have changed since.
    """
    # The kernels want an OpenMP runtime among the global symbols: torch's own, so that there is one
    # pool of threads, and else the system's.
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*.so*"))
    ctypes.CDLL(str(bundled[0]) if bundled else "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(_LIBRARY))
    _check_sources(library)
    library.hr_isa.restype = c_char_p
    isa = isa or library.hr_isa().decode()

    def function(name: str, result: type[c_int] | type[c_int64] | None, *arguments: object) -> Callable[..., Any]:
        found = getattr(library, f"hr_{name}_{isa}")
        found.restype, found.argtypes = result, arguments
        return found  # type: ignore[no-any-return]  # ctypes knows nothing of what it calls

    sizes = [ctypes.sizeof(each) for each in (DecoderCall, LayerCall, LinearCall)]
    if function("layout", c_int64)() != (sizes[0] * 1000 + sizes[1]) * 1000 + sizes[2]:
        raise OSError(f"the structures of {_LIBRARY.name} are not those of {Path(__file__).name}")
    return Kernels(
        isa=isa,
        pack=function("pack", None, c_void_p, c_void_p, c_int, c_int, c_int, c_int),
        quantized_bytes=function("quantized_bytes", c_int64, c_int, c_int, c_int),
        quantize=function("quantize", None, c_void_p, c_void_p, c_int, c_int, c_int, c_int),
        unpack_rows=function("unpack_rows", None, POINTER(LinearCall), c_void_p, c_void_p, c_int, c_int),
        scratch_bytes=function("scratch_bytes", c_int64, c_int, c_int),
        linear=function("linear", None, POINTER(LinearCall), c_int),
        attend=function("attend", c_int, POINTER(AttentionCall)),
        decode=function("decode", c_int, POINTER(DecoderCall)),
    )


def _check_sources(library: ctypes.CDLL) -> None:
    """Raises StaleKernelsError."""
    built_from = None
    if hasattr(library, "hr_sources"):
        library.hr_sources.restype = c_char_p
        built_from = library.hr_sources().decode()
    if built_from != sources_digest(Path(__file__).parent):
        raise StaleKernelsError(f"{_LIBRARY} was built from other sources than those in its folder")


def sources_digest(folder: Path) -> str:
    """Of the C sources in ``folder``; the build hook, which cannot import this package, has the same."""
    found = hashlib.sha256()
    for path in sorted([*folder.glob("*.c"), *folder.glob("*.h")]):
        found.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()
