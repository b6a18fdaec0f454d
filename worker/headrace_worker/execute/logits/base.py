"""What the processors of a batch have in common."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch

RowIds = tuple[int, Iterable[int]]
"""A row of the batch, and token ids that matter in it."""


class LogitsProcessor(Protocol):
    """One feature, for all rows of a batch that ask for it."""

    def apply(self, logits: torch.Tensor) -> None:
        """Change contiguous float32 logits [rows, vocab] in place, as the sequences stand now."""


def flat_index(rows: Sequence[RowIds], vocab_size: int, device: torch.device) -> torch.Tensor:
    """Places in the flattened [rows * vocab] logits; ids outside the vocabulary are left out."""
    places = [row * vocab_size + token for row, ids in rows for token in ids if 0 <= token < vocab_size]
    return torch.tensor(places, dtype=torch.int64, device=device)
