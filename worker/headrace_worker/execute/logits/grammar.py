"""Grammars: every token that would leave its sequence's grammar becomes impossible."""

from collections.abc import Sequence
from math import inf
from typing import Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
import xgrammar
from numpy.typing import NDArray

from headrace_worker.schedule import request


class _Followed:
    """A matcher that is as far as its sequence."""

    def __init__(self, grammar: request.Grammar) -> None:
        self._matcher = grammar.matcher()
        self._accepted = 0

    def possible(self, sequence: request.Sequence, token_ids: list[int]) -> int:
        """How many of some tokens, the first ones, may follow the sequence's."""
        self._follow(sequence)
        return self._matcher.possible(token_ids)

    def fill(self, sequence: request.Sequence, bitmask: NDArray[np.int32], row: int) -> None:
        self._follow(sequence)
        self._matcher.fill(bitmask, row)
        sequence.broken = self._matcher.broken

    def _follow(self, sequence: request.Sequence) -> None:
        for token_id in sequence.token_ids[sequence.prompt_len + self._accepted :]:
            self._matcher.accept(token_id)
        self._accepted = sequence.output_len


MatcherCache = WeakKeyDictionary[request.Sequence, _Followed]
"""Matchers live as long as their sequence, across changes of the batch and preemptions."""


def followed(sequence: request.Sequence, cache: MatcherCache) -> _Followed:
    """The matcher of a sequence whose grammar has been compiled."""
    found = cache.get(sequence)
    if found is None:
        assert sequence.grammar is not None  # noqa: S101 whoever asks has checked it
        found = cache[sequence] = _Followed(sequence.grammar)
    return found


class GrammarMask:
    """One bitmask for the whole batch, applied before anything else changes the logits."""

    def __init__(
        self, rows: Sequence[tuple[int, request.Sequence]], vocab_size: int, device: torch.device, cache: MatcherCache
    ) -> None:
        self._rows = rows
        self._cache = cache
        self._indices = [row for row, _ in rows]
        self._vocab_size = vocab_size
        self._device = device
        self._bitmask = np.zeros(xgrammar.get_bitmask_shape(self._indices[-1] + 1, vocab_size), dtype=np.int32)

    @classmethod
    def for_batch(
        cls, sequences: Sequence[request.Sequence], vocab_size: int, device: torch.device, cache: MatcherCache
    ) -> Self | None:
        """Raises ValueError for a sequence whose grammar has not been compiled."""
        rows = [(row, sequence) for row, sequence in enumerate(sequences) if sequence.sampling.grammar is not None]
        if any(sequence.grammar is None for _, sequence in rows):
            raise ValueError("a sequence came without its compiled grammar")
        return cls(rows, vocab_size, device, cache) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        for row, sequence in self._rows:
            self._followed(sequence).fill(sequence, self._bitmask, row)
        self.restrict(logits)

    def restrict(self, logits: torch.Tensor) -> None:
        """Apply the bitmask as it was at the last step."""
        bitmask = torch.from_numpy(self._bitmask).to(self._device)
        xgrammar.apply_token_bitmask_inplace(logits, bitmask, vocab_size=self._vocab_size, indices=self._indices)

    def rescue(self) -> "GrammarRescue":
        return GrammarRescue(self, self._indices, self._device)

    def _followed(self, sequence: request.Sequence) -> _Followed:
        return followed(sequence, self._cache)


class GrammarRescue:
    """Comes last: where the request's other limits have left nothing of what its grammar allows, the grammar wins."""

    def __init__(self, mask: GrammarMask, rows: Sequence[int], device: torch.device) -> None:
        self._mask = mask
        self._rows = torch.tensor(rows, device=device)

    def apply(self, logits: torch.Tensor) -> None:
        dead = self._rows[logits.index_select(0, self._rows).amax(1) == -inf]
        if len(dead):
            # All that the grammar allows is equally likely then.
            logits.index_fill_(0, dead, 0.0)
            self._mask.restrict(logits)
