"""NativeAttention: the compiled back-end, which computes in float32 on a CPU."""

from ctypes import byref

import torch

from headrace_worker.execute.attention.backend import AttentionRows, LayerCache, zeroed
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheKind
from headrace_worker.execute.native.library import AttentionCall, Kernels, address
from headrace_worker.models.layers import AttentionLayer

_LANES = 16


class NativeAttention:
    """Calls attention.h.

    Cache layout: keys [num_blocks, kv_heads, dim, block_size], values [num_blocks, kv_heads, block_size, dim], and
    scales [num_blocks, kv_heads, block_size]; those of FP8 are 256 times as large as elsewhere.
    """

    name = "native"
    recordable = False

    def __init__(self, kernels: Kernels, threads: int) -> None:
        self._kernels = kernels
        self._threads = threads
        self._calls: dict[int, AttentionCall] = {}

    def supports(self, layer: AttentionLayer, block_size: int, kind: CacheKind) -> bool:
        whole = all(size % _LANES == 0 for size in (block_size, layer.value_dim))
        return whole and kind.dtype is torch.float32 and kind.device.type == "cpu"

    def allocate(self, layer: AttentionLayer, num_blocks: int, block_size: int, kind: CacheKind) -> LayerCache:
        shape = (num_blocks, layer.num_kv_heads)
        cache = LayerCache(
            zeroed((*shape, layer.head_dim, block_size), kind.stored, kind.device),
            zeroed((*shape, block_size, layer.value_dim), kind.stored, kind.device),
            kind.format,
        )
        if kind.has_scales:
            cache.key_scales, cache.value_scales = (
                zeroed((*shape, block_size), torch.float32, kind.device) for _ in range(2)
            )
        return cache

    def attend(self, layer: AttentionLayer, cache: LayerCache, rows: AttentionRows, batch: Batch) -> torch.Tensor:
        call = self._call(layer, cache)
        call.query, call.key, call.value = rows.query.data_ptr(), rows.key.data_ptr(), rows.value.data_ptr()
        call.query_row, call.query_head, _ = rows.query.stride()
        call.key_row, call.key_head, _ = rows.key.stride()
        call.value_row, call.value_head, _ = rows.value.stride()
        sinks = rows.sinks.contiguous() if rows.sinks is not None else None
        call.sinks = address(sinks)
        return self._run(call, layer, batch)

    def prepare(self, batch: Batch) -> None:
        """Nothing is kept from step to step."""

    def _call(self, layer: AttentionLayer, cache: LayerCache) -> AttentionCall:
        """The call's arguments, with those filled in that never change."""
        known = self._calls.get(id(cache))
        if known is not None:
            return known
        call = self._calls[id(cache)] = AttentionCall(
            key_cache=cache.key.data_ptr(),
            value_cache=cache.value.data_ptr(),
            key_scales=address(cache.key_scales),
            value_scales=address(cache.value_scales),
            kept=cache.format,
            num_heads=layer.num_heads,
            num_kv_heads=layer.num_kv_heads,
            head_dim=layer.head_dim,
            value_dim=layer.value_dim,
            block_size=cache.key.shape[3],
            window=layer.sliding_window or 0,
            softcap=layer.softcap or 0.0,
            scale=layer.scale,
            threads=self._threads,
        )
        return call

    def _run(self, call: AttentionCall, layer: AttentionLayer, batch: Batch) -> torch.Tensor:
        total = batch.slots.shape[0]
        out = torch.empty((total, layer.num_heads, layer.value_dim))
        call.out = out.data_ptr()
        call.query_starts, call.contexts = batch.query_starts.data_ptr(), batch.contexts.data_ptr()
        call.block_tables, call.slots = batch.block_tables.data_ptr(), batch.slots.data_ptr()
        call.table_row = batch.block_tables.shape[1]
        call.num_sequences, call.num_rows = batch.num_sequences, total
        if self._kernels.attend(byref(call)) != 0:
            raise MemoryError("no memory for the attention kernel's scratch space")
        return out
