"""Tokens that must come now, whatever the model and the request's other parameters say."""

from collections.abc import Sequence
from math import inf
from typing import Self

import torch

from headrace_worker.execute.logits.base import RowIds, flat_index
from headrace_worker.schedule import request
from headrace_worker.schedule.thinking import ThinkingBudget


class ForcedTokens:
    """The end marker of a thinking part that has used up its budget. Comes last, even after the grammar."""

    def __init__(
        self, rows: Sequence[tuple[int, request.Sequence, ThinkingBudget]], vocab_size: int, device: torch.device
    ) -> None:
        self._rows = rows
        self._vocab_size = vocab_size
        self._device = device

    @classmethod
    def for_batch(cls, sequences: Sequence[request.Sequence], vocab_size: int, device: torch.device) -> Self | None:
        rows = [
            (row, sequence, sequence.thinking)
            for row, sequence in enumerate(sequences)
            if sequence.thinking is not None and not sequence.thinking.over
        ]
        return cls(rows, vocab_size, device) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        forced: list[RowIds] = []
        for row, sequence, budget in self._rows:
            token_id = None if budget.over else budget.forced(sequence.token_ids, sequence.prompt_len)
            if token_id is not None:
                forced.append((row, (token_id,)))
        if forced:
            logits.index_fill_(0, torch.tensor([row for row, _ in forced], device=self._device), -inf)
            logits.view(-1).index_fill_(0, flat_index(forced, self._vocab_size, self._device), 0.0)
