"""AttentionBackend: what a kernel offers to the layers of a model."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheFormat, CacheKind
from headrace_worker.models.layers import AttentionLayer


def zeroed(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """As torch.zeros, but a CPU's pages are only taken when they are first written.

    Raises torch's OutOfMemoryError, RuntimeError or MemoryError.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # numpy asks the system for zero pages; torch would write gigabytes of zeros itself, for half a minute.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)


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


class AttentionBackend(Protocol):
    """Writes new keys and values into the cache, and attends to everything in it."""

    name: str

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
