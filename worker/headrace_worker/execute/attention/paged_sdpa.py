"""PagedSdpa: the portable back-end, plain torch operators on any device and dtype; the reference in tests."""

from collections.abc import Iterator

import torch
from torch.nn import functional

from headrace_worker.execute.attention.backend import AttentionRows, LayerCache, allocate_pages
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheKind, restore
from headrace_worker.models.layers import AttentionLayer


class PagedSdpa:
    """Gathers each sequence's blocks and hands them to torch's attention.

    Cache layout: [num_blocks, block_size, num_kv_heads, dim], and scales without the last.
    """

    name = "portable"
    recordable = False

    def supports(self, layer: AttentionLayer, block_size: int, kind: CacheKind) -> bool:
        return True

    def allocate(self, layer: AttentionLayer, num_blocks: int, block_size: int, kind: CacheKind) -> LayerCache:
        return allocate_pages(layer, num_blocks, block_size, kind)

    def attend(self, layer: AttentionLayer, cache: LayerCache, rows: AttentionRows, batch: Batch) -> torch.Tensor:
        rows.store_pages(cache, batch)
        out = rows.query.new_empty((rows.query.shape[0], layer.num_heads, layer.value_dim))
        if batch.num_decodes:
            self._attend_decodes(layer, cache, rows, batch, out)
        for index in range(batch.num_decodes, batch.num_sequences):
            self._attend_chunk(layer, cache, rows, batch, (index, out))
        return out

    def prepare(self, batch: Batch) -> None:
        """Nothing is kept from step to step."""

    def _attend_decodes(
        self, layer: AttentionLayer, cache: LayerCache, rows: AttentionRows, batch: Batch, out: torch.Tensor
    ) -> None:
        """All sequences with one row at once, padded to the longest."""
        count = batch.num_decodes
        longest = max(batch.context_lens[:count])
        blocks = batch.block_tables[:count, : _blocks(longest, cache)]
        found = _read(cache, blocks, rows.query.dtype)
        keys, values = (each.flatten(1, 2)[:, :longest].transpose(1, 2) for each in found)
        places = torch.arange(longest, device=keys.device)
        last = batch.contexts[:count].unsqueeze(1) - 1
        seen = _seen(layer, last.unsqueeze(2), places)
        query = rows.query[:count].unsqueeze(2)
        out[:count] = _attention(layer, query, keys, values, seen.unsqueeze(1), rows.sinks).squeeze(2)

    def _attend_chunk(
        self,
        layer: AttentionLayer,
        cache: LayerCache,
        rows: AttentionRows,
        batch: Batch,
        target: tuple[int, torch.Tensor],
    ) -> None:
        """One sequence with several rows."""
        index, out = target
        begin, end, context = batch.starts[index], batch.starts[index + 1], batch.context_lens[index]
        blocks = batch.block_tables[index, : _blocks(context, cache)]
        found = _read(cache, blocks, rows.query.dtype)
        keys, values = (each.flatten(0, 1)[:context].transpose(0, 1).unsqueeze(0) for each in found)
        places = torch.arange(context, device=keys.device)
        own = places[context - (end - begin) :]
        seen = _seen(layer, own.unsqueeze(1), places)
        query = rows.query[begin:end].transpose(0, 1).unsqueeze(0)
        out[begin:end] = _attention(layer, query, keys, values, seen, rows.sinks).squeeze(0).transpose(0, 1)


def _read(cache: LayerCache, blocks: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Keys and values of blocks: [*blocks.shape, block_size, num_kv_heads, dim] each."""
    for numbers, scales in ((cache.key, cache.key_scales), (cache.value, cache.value_scales)):
        found = numbers[blocks]
        yield found if scales is None else restore(found, scales[blocks], cache.format, dtype)


def _blocks(tokens: int, cache: LayerCache) -> int:
    return -(-tokens // int(cache.key.shape[1]))


def _seen(layer: AttentionLayer, own: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Which places a token at ``own`` sees: all up to its own, within the window."""
    seen = places <= own
    if layer.sliding_window is not None:
        seen &= places > own - layer.sliding_window
    return seen


def _attention(
    layer: AttentionLayer,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    seen: torch.Tensor,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """``query`` [n, heads, rows, dim] over ``keys`` [n, kv_heads, places, dim]; ``seen`` is broadcast over heads."""
    groups = layer.num_heads // layer.num_kv_heads
    if groups > 1:
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    if layer.softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=layer.scale)
    scores = torch.matmul(query, keys.transpose(2, 3)).float() * layer.scale
    if layer.softcap is not None:
        scores = torch.tanh(scores / layer.softcap) * layer.softcap
    scores = scores.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        column = sinks.float().view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat((scores, column), dim=3)
    weights = torch.softmax(scores, dim=3)[..., : keys.shape[2]].to(values.dtype)
    return torch.matmul(weights, values)
