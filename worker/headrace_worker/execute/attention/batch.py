"""Batch: where the tokens of one step are, and where their past is."""

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Batch:
    """The packed tokens of ``n`` sequences, ``total`` in all; sequence ``i`` has rows ``[starts[i], starts[i + 1])``.

    Sequences ``[0, num_decodes)`` have exactly one row each.
    """

    num_decodes: int
    starts: list[int]
    """``n + 1`` row numbers."""
    context_lens: list[int]
    """Tokens of each sequence in the cache once this step has written its own."""
    query_starts: torch.Tensor
    """``starts`` as int32 [n + 1]."""
    contexts: torch.Tensor
    """``context_lens`` as int32 [n]."""
    block_tables: torch.Tensor
    """int32 [n, most blocks of a sequence]; places behind a sequence's own blocks are 0."""
    slots: torch.Tensor
    """int64 [total]: block * block_size + place in the block, where each row's key and value go."""

    is_static: bool = False
    """Its tensors stay where they are from step to step, so that what computes with them can be recorded."""

    @property
    def num_sequences(self) -> int:
        return len(self.context_lens)
