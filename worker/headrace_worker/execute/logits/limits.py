"""Tokens that would end a sequence too early."""

from collections.abc import Sequence
from math import inf
from typing import Self

import torch

from headrace_worker.execute.logits.base import flat_index
from headrace_worker.schedule import request


class MinTokens:
    """``min_tokens``: until so many tokens exist, end-of-text and stop tokens are impossible.

    ``ignore_eos`` makes no difference here: it lets a sequence go on after end-of-text, and does
    not keep the token from being drawn.
    """

    def __init__(
        self, rows: Sequence[tuple[int, request.Sequence, frozenset[int]]], vocab_size: int, device: torch.device
    ) -> None:
        self._rows = [
            (sequence, flat_index([(row, sorted(ending))], vocab_size, device)) for row, sequence, ending in rows
        ]

    @classmethod
    def for_batch(
        cls,
        sequences: Sequence[request.Sequence],
        eos_token_ids: frozenset[int],
        vocab_size: int,
        device: torch.device,
    ) -> Self | None:
        rows = [
            (row, sequence, eos_token_ids | sequence.stop_token_ids)
            for row, sequence in enumerate(sequences)
            if sequence.output_len < sequence.stopping.min_tokens
        ]
        return cls(rows, vocab_size, device) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        places = [places for sequence, places in self._rows if sequence.output_len < sequence.stopping.min_tokens]
        if places:
            logits.view(-1).index_fill_(0, torch.cat(places), -inf)
