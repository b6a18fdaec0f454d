"""Memory for what stays as long as a model does: its weights, cached keys and values.

A step reads most of it, and where a page of it lies has to be looked up each time. Linux has pages of 2 MiB for whoever
asks ("transparent huge pages", on most systems in the mode `madvise`), in place of five hundred of 4 KiB.
"""

import contextlib
import mmap
from threading import Lock

import torch

_CHUNK_BYTES = 32 << 20
"""Small things share a piece of memory of this size: huge pages begin at multiples of theirs."""
_ALIGNED = 64
"""A cache line, and the widest vector."""

_lock = Lock()
_chunk: tuple[mmap.mmap, int] | None = None
"""The one that was begun last, and how much of it is taken; those that are full live as long as what is in them."""


def lasting(num_bytes: int) -> torch.Tensor:
    """Zeros, uint8, on a CPU; the system gives its pages when they are first written. Raises MemoryError."""
    global _chunk
    if num_bytes == 0:
        return torch.zeros(0, dtype=torch.uint8)
    if num_bytes > _CHUNK_BYTES // 2:
        return _tensor(_mapped(num_bytes), 0, num_bytes)
    with _lock:
        chunk, taken = _chunk or (None, _CHUNK_BYTES)
        if chunk is None or taken + num_bytes > _CHUNK_BYTES:
            chunk, taken = _mapped(_CHUNK_BYTES), 0
        _chunk = (chunk, taken + -(-num_bytes // _ALIGNED) * _ALIGNED)
    return _tensor(chunk, taken, num_bytes)


def _mapped(num_bytes: int) -> mmap.mmap:
    try:
        memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"the system gives no {num_bytes} bytes: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # A kernel without them.
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _tensor(memory: mmap.mmap, offset: int, num_bytes: int) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=torch.uint8, count=num_bytes, offset=offset)
