"""PagedAttention: the attention of all layers of one model, over one K/V cache."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from headrace_worker.execute.attention.backend import AttentionBackend, AttentionRows
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.kv_cache import KVCache
from headrace_worker.models.layers import AttentionLayer
from headrace_worker.schedule.plan import StepGivenUpError


class PagedAttention:
    """Knows the layers, their caches and the batch of the step that is running.

    Model code reaches it through ``attention_hook``; lean layers call ``layer`` themselves.
    """

    def __init__(
        self,
        backend: AttentionBackend,
        layers: list[AttentionLayer],
        layer_index: dict[nn.Module, int],
        cache: KVCache,
    ) -> None:
        self.backend = backend
        self.cache = cache
        self.layers = layers
        self.layer_index = layer_index
        self._batch: Batch | None = None
        self._unwanted: Callable[[], bool] | None = None

    def begin(self, batch: Batch, unwanted: Callable[[], bool] | None = None) -> None:
        """The calls that follow are about ``batch``, until the next ``begin``.

        ``unwanted`` says whether it is to be given up, and is asked once per layer.
        """
        self._batch = batch
        self._unwanted = unwanted

    @property
    def may_be_given_up(self) -> bool:
        return self._unwanted is not None

    def check(self) -> None:
        """Raises StepGivenUpError when the batch is no longer wanted. What was written of it does not count."""
        if self._unwanted is not None and self._unwanted():
            raise StepGivenUpError

    @property
    def batch(self) -> Batch:
        if self._batch is None:
            raise RuntimeError("attention was called before the first step began")
        return self._batch

    def layer(self, index: int, rows: AttentionRows) -> torch.Tensor:
        """Attention of layer ``index``: [total, num_heads, value_dim]. Raises StepGivenUpError as ``check`` does."""
        self.check()
        return self.backend.attend(self.layers[index], self.cache.layers[index], rows, self.batch)

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **features: Any,
    ) -> torch.Tensor:
        rows = AttentionRows(
            query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), features.get("s_aux")
        )
        return self.layer(self.layer_index[module], rows).unsqueeze(0)

    def mask(self, **features: Any) -> None:
        """No mask is ever made: the batch says what a token sees."""
