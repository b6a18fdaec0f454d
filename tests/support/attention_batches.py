"""Made-up batches and rows for attention back-ends."""

import torch

from headrace_worker.execute.attention.backend import AttentionRows
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.models.layers import AttentionLayer


def batch_of(counts: list[int], contexts: list[int], block_size: int, num_blocks: int) -> Batch:
    """Sequences on shuffled blocks; the last ``counts`` tokens of each are this step's."""
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    longest = max(-(-context // block_size) for context in contexts)
    tables = torch.randperm(num_blocks)[: len(counts) * longest].view(len(counts), longest).int()
    slots = [
        int(tables[i, place // block_size]) * block_size + place % block_size
        for i, (count, context) in enumerate(zip(counts, contexts, strict=True))
        for place in range(context - count, context)
    ]
    decodes = next((i for i, count in enumerate(counts) if count != 1), len(counts))
    return Batch(
        num_decodes=decodes,
        starts=starts,
        context_lens=list(contexts),
        query_starts=torch.tensor(starts, dtype=torch.int32),
        contexts=torch.tensor(contexts, dtype=torch.int32),
        block_tables=tables,
        slots=torch.tensor(slots),
    )


def rows_of(layer: AttentionLayer, total: int, *, sinks: bool = False) -> AttentionRows:
    """As model code passes them: heads before rows in memory."""
    return AttentionRows(
        torch.randn(layer.num_heads, total, layer.head_dim).transpose(0, 1),
        torch.randn(layer.num_kv_heads, total, layer.head_dim).transpose(0, 1),
        torch.randn(total, layer.num_kv_heads, layer.value_dim),
        torch.randn(layer.num_heads) if sinks else None,
    )
