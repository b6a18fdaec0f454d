"""Beams: for each of them the best ways to go on, instead of one token."""

from collections.abc import Sequence
from typing import Self

import torch

from headrace_shared.protocol.event import TokenLogprob
from headrace_worker.execute.logits.largest import largest
from headrace_worker.execute.logits.logprobs import RowLogprobs
from headrace_worker.schedule import request
from headrace_worker.schedule.beam import Candidate


class BeamRows:
    """The rows of a batch that are beams.

    Their logits become log-probabilities before anything else changes them, and are not made to
    sum up to one again: what a request's parameters do to one beam leaves it comparable to others.
    """

    def __init__(self, rows: Sequence[tuple[int, request.Sequence, int]], device: torch.device) -> None:
        """``rows``: row, sequence, and how many ways to go on it needs."""
        self._rows = rows
        self._index = torch.tensor([row for row, _, _ in rows], device=device)
        # Temperature 0 asks for the most likely answer, as every search does.
        temperatures = [sequence.sampling.temperature or 1.0 for _, sequence, _ in rows]
        self._temperature = torch.tensor(temperatures, device=device)[:, None]

    @classmethod
    def for_batch(
        cls, sequences: Sequence[request.Sequence], eos_token_ids: frozenset[int], vocab_size: int, device: torch.device
    ) -> Self | None:
        rows = [
            (row, sequence, min(vocab_size, _needed(sequence, sequence.sampling.beams.width, eos_token_ids)))
            for row, sequence in enumerate(sequences)
            if sequence.sampling.beams is not None
        ]
        return cls(rows, device) if rows else None

    def to_log_probabilities(self, logits: torch.Tensor) -> None:
        """Change the beams' rows of logits [rows, vocab] in place."""
        logits[self._index] = (logits[self._index] / self._temperature).log_softmax(1)

    def candidates(self, scores: torch.Tensor, logprobs: RowLogprobs | None) -> dict[request.Sequence, list[Candidate]]:
        """The best tokens of each beam by its row of scores [rows, vocab], the best first."""
        picked = largest(scores[self._index], max(count for _, _, count in self._rows))
        found: dict[request.Sequence, list[Candidate]] = {}
        rows = zip(self._rows, picked.columns.tolist(), picked.values.tolist(), strict=True)
        for (row, sequence, count), token_ids, values in rows:
            entries: Sequence[TokenLogprob | None] = [None] * count
            if logprobs is not None:
                entries = logprobs.of(row, token_ids[:count]) or entries
            found[sequence] = [Candidate(*each) for each in zip(token_ids, values, entries, strict=False)]
        return found


def _needed(sequence: request.Sequence, width: int, eos_token_ids: frozenset[int]) -> int:
    """So many that ``width`` of them end nothing, whatever comes of the others; and never fewer than transformers looks at."""
    ending = sequence.stop_token_ids | (frozenset() if sequence.stopping.ignore_eos else eos_token_ids)
    return width * max(2, 1 + len(ending))
