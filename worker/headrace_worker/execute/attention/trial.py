"""trial(): whether a back-end works here, and is right, found out before it is given anybody's tokens.

Kernels that are compiled on the spot, or come from elsewhere, may miss a compiler, a library or this device.
"""

from itertools import accumulate

import torch

from headrace_worker.execute.attention.backend import AttentionBackend, AttentionRows
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheKind
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.models.layers import AttentionLayer

_COUNTS = (1, 1, 1, 5, 70)
"""Rows of some sequences, and below their tokens: short and long, within a block and over many."""
_CONTEXTS = (1, 90, 1100, 5, 290)
_MOST_ERROR = {torch.float32: 1e-3}
_MOST_ERROR_HALF = 3e-2


def trial(backend: AttentionBackend, layers: list[AttentionLayer], block_size: int, kind: CacheKind) -> str | None:
    """What is wrong with ``backend`` on made-up tokens, for each kind of layer; None: nothing."""
    for layer in dict.fromkeys(layers):
        if not backend.supports(layer, block_size, kind):
            return "it cannot do this model's layers in this precision and block size on this device"
        try:
            error = _largest_error(backend, layer, block_size, kind)
        except Exception as failure:  # noqa: BLE001 compilers and libraries of others raise anything
            return f"it failed: {str(failure).strip().partition(chr(10))[0] or type(failure).__name__}"
        if not error <= _MOST_ERROR.get(kind.dtype, _MOST_ERROR_HALF):
            return f"its answers are wrong by {error:.2g}"
    return None


def _largest_error(backend: AttentionBackend, layer: AttentionLayer, block_size: int, kind: CacheKind) -> float:
    batch = _batch(block_size, kind.device)
    blocks = batch.block_tables.numel()
    generator = torch.Generator().manual_seed(0)

    def made_up(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(kind.device, kind.dtype)

    rows = AttentionRows(
        query=made_up(batch.starts[-1], layer.num_heads, layer.head_dim),
        key=made_up(batch.starts[-1], layer.num_kv_heads, layer.head_dim),
        value=made_up(batch.starts[-1], layer.num_kv_heads, layer.value_dim),
        sinks=made_up(layer.num_heads) if layer.has_sinks else None,
    )
    past = PagedSdpa().allocate(layer, blocks, block_size, kind)
    past.key.copy_(made_up(*past.key.shape))
    past.value.copy_(made_up(*past.value.shape))
    cache = backend.allocate(layer, blocks, block_size, kind)
    cache.key.copy_(past.key)
    cache.value.copy_(past.value)
    expected = PagedSdpa().attend(layer, past, rows, batch)
    got = backend.attend(layer, cache, rows, batch)
    worst = (got.float() - expected.float()).abs().max().item()
    stored = torch.equal(cache.key, past.key) and torch.equal(cache.value, past.value)
    return float(worst) if stored else float("inf")


def _batch(block_size: int, device: torch.device) -> Batch:
    """Sequences whose blocks lie backwards, some with one row and some with several."""
    longest = -(-max(_CONTEXTS) // block_size)
    tables = torch.arange(len(_CONTEXTS) * longest - 1, -1, -1, dtype=torch.int32).view(-1, longest)
    slots = [
        int(tables[index, place // block_size]) * block_size + place % block_size
        for index, (count, context) in enumerate(zip(_COUNTS, _CONTEXTS, strict=True))
        for place in range(context - count, context)
    ]
    starts = [0, *accumulate(_COUNTS)]
    return Batch(
        num_decodes=_COUNTS.count(1),
        starts=starts,
        context_lens=list(_CONTEXTS),
        query_starts=torch.tensor(starts, dtype=torch.int32, device=device),
        contexts=torch.tensor(_CONTEXTS, dtype=torch.int32, device=device),
        block_tables=tables.to(device),
        slots=torch.tensor(slots, device=device),
    )
