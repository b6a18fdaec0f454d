"""AttentionBackend: what a kernel offers to the layers of a model."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheFormat, CacheKind, keep
from headrace_worker.execute.lasting_memory import lasting
from headrace_worker.models.layers import AttentionLayer


def zeroed(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As torch.zeros, but a CPU's pages are only taken when they are first written.

    Raises torch's OutOfMemoryError, RuntimeError or MemoryError.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # The system's pages are zeros; torch would write gigabytes of them itself, for half a minute.
    return lasting(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)


@dataclass(slots=True)
class LayerCache:
    """One layer's keys and values, in whatever layout its back-end likes."""

    key: torch.Tensor
    value: torch.Tensor
    format: CacheFormat = CacheFormat.PLAIN
    key_scales: torch.Tensor | None = None
    """float32, one for each token and head; None in a plain cache."""
    value_scales: torch.Tensor | None = None

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All there are; block ``i`` is row ``i`` of each."""
        return [each for each in (self.key, self.value, self.key_scales, self.value_scales) if each is not None]

    @property
    def num_bytes(self) -> int:
        return sum(int(each.nbytes) for each in self.tensors)


def allocate_pages(layer: AttentionLayer, num_blocks: int, block_size: int, kind: CacheKind) -> LayerCache:
    """The layout of most paged kernels, [num_blocks, block_size, num_kv_heads, dim]; scales have no last dimension.

    Raises as ``zeroed`` does.
    """
    shape = (num_blocks, block_size, layer.num_kv_heads)
    cache = LayerCache(
        zeroed((*shape, layer.head_dim), kind.stored, kind.device),
        zeroed((*shape, layer.value_dim), kind.stored, kind.device),
        kind.format,
    )
    if kind.has_scales:
        cache.key_scales, cache.value_scales = (zeroed(shape, torch.float32, kind.device) for _ in range(2))
    return cache


class AttentionBackend(Protocol):
    """Writes new keys and values into the cache, and attends to everything in it."""

    name: str
    recordable: bool
    """Whether all that a step of decodes does depends on what its tensors hold, and not on its lists: then it can be
    recorded once and played again with other contents."""

    def supports(self, layer: AttentionLayer, block_size: int, kind: CacheKind) -> bool:
        """Whether layers like this one can be computed here."""

    def allocate(self, layer: AttentionLayer, num_blocks: int, block_size: int, kind: CacheKind) -> LayerCache:
        """A zeroed cache. Raises torch's OutOfMemoryError or RuntimeError when there is no room."""

    def attend(
        self,
        layer: AttentionLayer,
        cache: LayerCache,
        rows: "AttentionRows",
        batch: Batch,
    ) -> torch.Tensor:
        """Store the rows' keys and values, then attend causally. Returns [total, num_heads, value_dim], contiguous."""

    def prepare(self, batch: Batch) -> None:
        """``batch``, which ``attend`` was recorded with, holds something else now and is about to be played."""


@dataclass(slots=True)
class AttentionRows:
    """One layer's packed queries, keys and values; strided views are welcome, with contiguous last dimensions."""

    query: torch.Tensor
    """[total, num_heads, head_dim]"""
    key: torch.Tensor
    """[total, num_kv_heads, head_dim]"""
    value: torch.Tensor
    """[total, num_kv_heads, value_dim]"""
    sinks: torch.Tensor | None = None
    """[num_heads]"""

    def store_pages(self, cache: LayerCache, batch: Batch) -> None:
        """Write keys and values into a cache of ``allocate_pages``."""
        for numbers, scales, new in (
            (cache.key, cache.key_scales, self.key),
            (cache.value, cache.value_scales, self.value),
        ):
            kept = new
            if scales is not None:
                kept, own = keep(new, cache.format)
                scales.flatten(0, 1).index_copy_(0, batch.slots, own)
            numbers.flatten(0, 1).index_copy_(0, batch.slots, kept)
