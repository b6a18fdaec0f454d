"""FlashAttention: flash-attn's paged kernels, for whoever has installed flash-attn."""

import torch
from flash_attn import flash_attn_with_kvcache

from headrace_worker.execute.attention.backend import AttentionRows, LayerCache, allocate_pages
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheKind
from headrace_worker.models.layers import AttentionLayer

_CAPABILITY = (8, 0)
_DTYPES = frozenset({torch.float16, torch.bfloat16})
_LARGEST_DIM = 256
_PAGE_TOKENS = 256
"""Its pages have a multiple of these."""


class FlashAttention:
    """Cache layout: [num_blocks, block_size, num_kv_heads, dim]."""

    name = "flash_attn"
    recordable = True

    def supports(self, layer: AttentionLayer, block_size: int, kind: CacheKind) -> bool:
        dim = layer.head_dim
        fits = dim == layer.value_dim and dim <= _LARGEST_DIM and dim % 8 == 0 and block_size % _PAGE_TOKENS == 0
        capable = torch.cuda.get_device_capability(kind.device) >= _CAPABILITY
        return fits and not layer.has_sinks and kind.stored in _DTYPES and capable

    def allocate(self, layer: AttentionLayer, num_blocks: int, block_size: int, kind: CacheKind) -> LayerCache:
        return allocate_pages(layer, num_blocks, block_size, kind)

    def attend(self, layer: AttentionLayer, cache: LayerCache, rows: AttentionRows, batch: Batch) -> torch.Tensor:
        rows.store_pages(cache, batch)
        out = rows.query.new_empty((rows.query.shape[0], layer.num_heads, layer.value_dim))
        decodes = batch.num_decodes
        if decodes:
            query = rows.query[:decodes].unsqueeze(1)
            out[:decodes] = _attend(layer, cache, query, batch, slice(0, decodes)).squeeze(1)
        for index in range(decodes, batch.num_sequences):
            begin, end = batch.starts[index], batch.starts[index + 1]
            query = rows.query[begin:end].unsqueeze(0)
            out[begin:end] = _attend(layer, cache, query, batch, slice(index, index + 1)).squeeze(0)
        return out

    def prepare(self, batch: Batch) -> None:
        """Nothing is kept from step to step."""


def _attend(
    layer: AttentionLayer, cache: LayerCache, query: torch.Tensor, batch: Batch, sequences: slice
) -> torch.Tensor:
    """``query``: [sequences, rows, heads, dim], the last rows of what each of them has in the cache."""
    window = -1 if layer.sliding_window is None else layer.sliding_window - 1
    attended: torch.Tensor = flash_attn_with_kvcache(
        query.contiguous(),
        cache.key,
        cache.value,
        cache_seqlens=batch.contexts[sequences],
        block_table=batch.block_tables[sequences],
        softmax_scale=layer.scale,
        causal=True,
        window_size=(window, -1 if window < 0 else 0),
        softcap=layer.softcap or 0.0,
    )
    return attended
