"""FlashInferAttention: FlashInfer's paged kernels, for whoever has installed flashinfer-python."""

from typing import Any

import flashinfer
import numpy as np
import torch

from headrace_worker.execute.attention.backend import AttentionRows, LayerCache, allocate_pages
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheKind
from headrace_worker.execute.attention.page_plan import Ints, PagePlan
from headrace_worker.execute.device import on_device
from headrace_worker.models.layers import AttentionLayer

_CAPABILITY = (8, 0)
_DTYPES = frozenset({torch.float16, torch.bfloat16})
_DIMS = frozenset({64, 128, 256})
_WORKSPACE_BYTES = 128 * 1024 * 1024
_TENSOR_CORE_GROUP = 4
"""So many heads of one K/V head and more are a matrix product; with fewer the plain kernel is the faster one."""


class FlashInferAttention:
    """Cache layout: [num_blocks, block_size, num_kv_heads, dim], which FlashInfer calls NHD.

    FlashInfer plans a batch before it computes its layers, once for each kind of layer.
    """

    name = "flashinfer"
    recordable = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._decoders: dict[tuple[AttentionLayer, int], Any] = {}
        """By kind of layer, and the rows of a static batch; 0: for all others."""
        self._prefillers: dict[AttentionLayer, Any] = {}
        self._page: tuple[int, torch.dtype] = (0, torch.float16)
        self._planned: Batch | None = None

    def supports(self, layer: AttentionLayer, block_size: int, kind: CacheKind) -> bool:
        alike = layer.head_dim == layer.value_dim and layer.head_dim in _DIMS and not layer.has_sinks
        return alike and kind.stored in _DTYPES and torch.cuda.get_device_capability(kind.device) >= _CAPABILITY

    def allocate(self, layer: AttentionLayer, num_blocks: int, block_size: int, kind: CacheKind) -> LayerCache:
        self._page = (block_size, kind.dtype)
        if layer not in self._prefillers:
            self._prefillers[layer] = flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        return allocate_pages(layer, num_blocks, block_size, kind)

    def attend(self, layer: AttentionLayer, cache: LayerCache, rows: AttentionRows, batch: Batch) -> torch.Tensor:
        if batch is not self._planned:
            self.prepare(batch)
        rows.store_pages(cache, batch)
        query, pages, decodes = rows.query.contiguous(), (cache.key, cache.value), batch.num_decodes
        out = torch.empty_like(query)
        if decodes:
            self._decoder(layer, batch).run(query[:decodes], pages, out=out[:decodes])
        if batch.num_sequences > decodes:
            self._prefillers[layer].run(query[decodes:], pages, out=out[decodes:])
        return out

    def prepare(self, batch: Batch) -> None:
        block_size, _ = self._page
        decodes, every = batch.num_decodes, batch.num_sequences
        if decodes:
            plan = PagePlan.of(batch, range(decodes), block_size)
            pages = self._pages(batch, plan)
            for layer in self._prefillers:
                self._decoder(layer, batch).plan(*pages, *self._shape(layer), **self._rules(layer))
        if every > decodes:
            plan = PagePlan.of(batch, range(decodes, every), block_size)
            pages = self._pages(batch, plan)
            for layer, wrapper in self._prefillers.items():
                starts = _on_host(plan.query_indptr)
                wrapper.plan(starts, *pages, *self._shape(layer), causal=True, **self._rules(layer))
        self._planned = batch

    def _pages(self, batch: Batch, plan: PagePlan) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Only the pages' numbers are wanted on the device: FlashInfer plans on the host."""
        numbers = batch.block_tables.flatten().index_select(0, on_device(plan.places, self._device))
        return _on_host(plan.indptr), numbers, _on_host(plan.last_page_len)

    def _shape(self, layer: AttentionLayer) -> tuple[int, int, int, int]:
        return layer.num_heads, layer.num_kv_heads, layer.head_dim, self._page[0]

    def _rules(self, layer: AttentionLayer) -> dict[str, Any]:
        _, dtype = self._page
        return {
            "sm_scale": layer.scale,
            "window_left": -1 if layer.sliding_window is None else layer.sliding_window - 1,
            "logits_soft_cap": layer.softcap,
            "q_data_type": dtype,
            "kv_data_type": dtype,
        }

    def _decoder(self, layer: AttentionLayer, batch: Batch) -> Any:
        key = (layer, batch.num_decodes if batch.is_static else 0)
        if key not in self._decoders:
            self._decoders[key] = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
                self._workspace,
                "NHD",
                use_tensor_cores=layer.num_heads // layer.num_kv_heads >= _TENSOR_CORE_GROUP,
                **(self._static_buffers(batch) if batch.is_static else {}),
            )
        return self._decoders[key]

    def _static_buffers(self, batch: Batch) -> dict[str, Any]:
        """Where a wrapper keeps its plan, so that what was recorded finds the next one in the same place."""
        rows, most_blocks = batch.block_tables.shape
        sizes = {"indptr": rows + 1, "indices": rows * most_blocks, "last_page_len": rows}
        buffers = {
            f"paged_kv_{name}_buffer": torch.zeros(size, dtype=torch.int32, device=self._device)
            for name, size in sizes.items()
        }
        return {"use_cuda_graph": True, **buffers}


def _on_host(numbers: Ints) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers))
