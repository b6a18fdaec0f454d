"""TritonAttention: our own kernels for CUDA, for every dtype and every rule that a layer can have."""

from dataclasses import dataclass

import torch
import triton

from headrace_worker.execute.attention.backend import AttentionRows, LayerCache, allocate_pages
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheKind
from headrace_worker.execute.attention.triton_kernels import attend_tiles, merge_parts
from headrace_worker.models.layers import AttentionLayer

_CAPABILITY = (8, 0)
_DTYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
_LARGEST_DIM = 256
_TILE_BYTES = 16 * 1024
"""Of keys, and of values: several such tiles have to fit into a multiprocessor's shared memory."""
_LARGEST_TILE = 64
_SMALLEST_TILE = 16
"""Of a matrix product on tensor cores, on each side."""
_CHUNK_ROWS = 64
"""Queries of a prompt, of all heads of one K/V head, that share a tile of its past; fewer where they are large."""
_CHUNK_BYTES = 32 * 1024
_PART_TOKENS = 256
"""A sequence's past is not divided into parts shorter than these."""
_MOST_PARTS = 16


@dataclass(frozen=True, slots=True)
class _Call:
    layer: AttentionLayer
    cache: LayerCache
    rows: AttentionRows
    batch: Batch
    out: torch.Tensor
    first: int
    """The first of the sequences that it is about."""
    tokens: int
    """Of a sequence in one program."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What each part of a sequence's past comes to."""

    count: int
    sums: torch.Tensor | None = None
    """float32 [rows, heads, count, value_dim]; None where there is one part, which needs no merging."""
    stats: torch.Tensor | None = None
    """float32 [rows, heads, count, 2]: the highest score, and the sum of the weights relative to it."""


class TritonAttention:
    """Calls triton_kernels.py. Cache layout: [num_blocks, block_size, num_kv_heads, dim]."""

    name = "triton"
    recordable = True

    def __init__(self, programs: int) -> None:
        """``programs``: how many of a kernel keep the device busy."""
        self._programs = programs

    @classmethod
    def on(cls, device: torch.device) -> "TritonAttention":
        return cls(2 * torch.cuda.get_device_properties(device).multi_processor_count)

    def supports(self, layer: AttentionLayer, block_size: int, kind: CacheKind) -> bool:
        fits = max(layer.head_dim, layer.value_dim) <= _LARGEST_DIM
        return fits and kind.stored in _DTYPES and torch.cuda.get_device_capability(kind.device) >= _CAPABILITY

    def allocate(self, layer: AttentionLayer, num_blocks: int, block_size: int, kind: CacheKind) -> LayerCache:
        return allocate_pages(layer, num_blocks, block_size, kind)

    def attend(self, layer: AttentionLayer, cache: LayerCache, rows: AttentionRows, batch: Batch) -> torch.Tensor:
        rows.store_pages(cache, batch)
        out = rows.query.new_empty((rows.query.shape[0], layer.num_heads, layer.value_dim))
        decodes = batch.num_decodes
        if decodes:
            self._attend_decodes(_Call(layer, cache, rows, batch, out, first=0, tokens=1))
        if batch.num_sequences > decodes:
            fitting = min(_CHUNK_ROWS, _CHUNK_BYTES // (_padded(layer.head_dim) * rows.query.itemsize))
            tokens = max(1, fitting // (layer.num_heads // layer.num_kv_heads))
            _attend_chunks(_Call(layer, cache, rows, batch, out, first=decodes, tokens=tokens))
        return out

    def prepare(self, batch: Batch) -> None:
        """Nothing is kept from step to step."""

    def _attend_decodes(self, call: _Call) -> None:
        """Few sequences would leave most of a device idle, so that their past is divided among its programs."""
        layer, batch, out = call.layer, call.batch, call.out
        rows = batch.num_decodes
        longest = batch.block_tables.shape[1] * call.cache.key.shape[1]
        count = parts_of_past(self._programs // (rows * layer.num_kv_heads), longest)
        if count == 1:
            _launch(call, (rows, layer.num_kv_heads, 1), _Parts(1))
            return
        shape = (rows, layer.num_heads, count)
        parts = _Parts(
            count,
            sums=out.new_empty((*shape, layer.value_dim), dtype=torch.float32),
            stats=out.new_empty((*shape, 2), dtype=torch.float32),
        )
        _launch(call, (rows, layer.num_kv_heads, count), parts)
        merge_parts[(rows, layer.num_heads)](
            out,
            parts.sums,
            parts.stats,
            call.rows.sinks,
            has_sinks=call.rows.sinks is not None,
            heads=layer.num_heads,
            value_dim=layer.value_dim,
            value_pad=_padded(layer.value_dim),
            splits=count,
        )


def parts_of_past(wanted: int, longest: int) -> int:
    """A power of two: at most ``wanted`` parts of a past of ``longest`` tokens, none of them too short to pay."""
    most = max(1, min(wanted, longest // _PART_TOKENS, _MOST_PARTS))
    return 1 << (most.bit_length() - 1)


def _attend_chunks(call: _Call) -> None:
    batch = call.batch
    chunks = range(call.first, batch.num_sequences)
    longest = max(batch.starts[index + 1] - batch.starts[index] for index in chunks)
    _launch(call, (len(chunks), call.layer.num_kv_heads, triton.cdiv(longest, call.tokens)), _Parts(1))


def _launch(call: _Call, grid: tuple[int, int, int], parts: _Parts) -> None:
    layer, cache, rows, batch = call.layer, call.cache, call.rows, call.batch
    group = layer.num_heads // layer.num_kv_heads
    dim_pad, value_pad = _padded(layer.head_dim), _padded(layer.value_dim)
    tile = _TILE_BYTES // (max(dim_pad, value_pad) * cache.key.itemsize)
    attend_tiles[grid](
        call.out,
        rows.query,
        cache.key,
        cache.value,
        rows.sinks,
        parts.sums,
        parts.stats,
        batch.block_tables,
        batch.query_starts,
        batch.contexts,
        layer.scale,
        layer.softcap or 0.0,
        call.first,
        batch.block_tables.stride(0),
        rows.query.stride(0),
        rows.query.stride(1),
        window=layer.sliding_window or 0,
        has_softcap=layer.softcap is not None,
        has_sinks=rows.sinks is not None,
        group=group,
        kv_heads=layer.num_kv_heads,
        head_dim=layer.head_dim,
        value_dim=layer.value_dim,
        dim_pad=dim_pad,
        value_pad=value_pad,
        block_size=cache.key.shape[1],
        tokens=call.tokens,
        rows=_padded(call.tokens * group),
        tile=min(max(tile, _SMALLEST_TILE), _LARGEST_TILE),
        splits=parts.count,
        num_stages=2,
    )


def _padded(size: int) -> int:
    """What a matrix product can be made of."""
    return max(_SMALLEST_TILE, int(triton.next_power_of_2(size)))
