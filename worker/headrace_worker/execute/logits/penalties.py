"""Repetition, presence and frequency penalties."""

from collections.abc import Sequence
from typing import Self
from weakref import WeakKeyDictionary

import numpy as np
import torch

from headrace_worker.execute.device import on_device
from headrace_worker.schedule import request


class TokenCounts:
    """The distinct tokens of one sequence, and how often each is in the output.

    Follows the sequence: each call counts only the tokens that are new.
    """

    def __init__(self, sequence: request.Sequence) -> None:
        prompt: list[int] = []
        if sequence.sampling.repetition_penalty != 1:
            prompt = np.unique(sequence.token_ids[: sequence.prompt_len]).tolist()
        self._slots = {token: slot for slot, token in enumerate(prompt)}
        self._ids = np.zeros(len(prompt) + 64, dtype=np.int64)
        self._ids[: len(prompt)] = prompt
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._counted = sequence.prompt_len

    @property
    def ids(self) -> np.ndarray:
        """[distinct] int64"""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> np.ndarray:
        """[distinct] float32; 0 for tokens that are in the prompt only."""
        return self._counts[: len(self._slots)]

    def follow(self, sequence: request.Sequence) -> None:
        tokens = sequence.token_ids
        for position in range(self._counted, len(tokens)):
            self._count(tokens[position])
        self._counted = len(tokens)

    def _count(self, token: int) -> None:
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[slot] = token
        self._counts[slot] += 1


CountsCache = WeakKeyDictionary[request.Sequence, TokenCounts]
"""Counts live as long as their sequence, across changes of the batch and preemptions."""


class Penalties:
    """``repetition_penalty`` for tokens of prompt and output, then ``frequency_`` and ``presence_penalty`` for those of the output."""

    def __init__(self, rows: Sequence[tuple[int, request.Sequence]], cache: CountsCache) -> None:
        self._rows = rows
        self._cache = cache
        specs = [sequence.sampling for _, sequence in rows]
        self._row_numbers = np.array([row for row, _ in rows], dtype=np.int64)
        self._values = np.array(
            [[spec.repetition_penalty, spec.frequency_penalty, spec.presence_penalty] for spec in specs],
            dtype=np.float32,
        )

    @classmethod
    def for_batch(cls, sequences: Sequence[request.Sequence], cache: CountsCache) -> Self | None:
        rows = [(row, sequence) for row, sequence in enumerate(sequences) if _penalised(sequence)]
        return cls(rows, cache) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        counts = [self._followed(sequence) for _, sequence in self._rows]
        sizes = [len(count.ids) for count in counts]
        places = np.concatenate([count.ids for count in counts])
        places += np.repeat(self._row_numbers * logits.shape[1], sizes)
        device = logits.device
        index = on_device(places, device)
        seen = on_device(np.concatenate([count.counts for count in counts]), device)
        repetition, frequency, presence = on_device(np.repeat(self._values, sizes, axis=0), device).unbind(1)
        flat = logits.view(-1)
        values = flat.index_select(0, index)
        values = torch.where(values > 0, values / repetition, values * repetition)
        values -= frequency * seen
        values -= presence * (seen > 0)
        flat.index_copy_(0, index, values)

    def _followed(self, sequence: request.Sequence) -> TokenCounts:
        counts = self._cache.get(sequence)
        if counts is None:
            counts = self._cache[sequence] = TokenCounts(sequence)
        counts.follow(sequence)
        return counts


def _penalised(sequence: request.Sequence) -> bool:
    spec = sequence.sampling
    return spec.repetition_penalty != 1 or spec.frequency_penalty != 0 or spec.presence_penalty != 0
