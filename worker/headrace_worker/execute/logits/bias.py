"""Tokens that a request wants more, less, only or not at all."""

from collections.abc import Iterator, Sequence
from math import inf
from typing import Self

import torch

from headrace_worker.execute.logits.base import RowIds, flat_index
from headrace_worker.schedule import request

Word = tuple[int, ...]


class AllowedTokens:
    """``allowed_token_ids``: every other token becomes impossible."""

    def __init__(self, rows: Sequence[RowIds], vocab_size: int, device: torch.device) -> None:
        self._rows = torch.tensor([row for row, _ in rows], device=device)
        self._allowed = flat_index(rows, vocab_size, device)

    @classmethod
    def for_batch(cls, sequences: Sequence[request.Sequence], vocab_size: int, device: torch.device) -> Self | None:
        rows = [
            (row, sequence.sampling.allowed_token_ids)
            for row, sequence in enumerate(sequences)
            if sequence.sampling.allowed_token_ids is not None
        ]
        return cls(rows, vocab_size, device) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        flat = logits.view(-1)
        kept = flat.index_select(0, self._allowed)
        logits.index_fill_(0, self._rows, -inf)
        flat.index_copy_(0, self._allowed, kept)


class LogitBias:
    """``logit_bias``: added to single tokens' logits."""

    def __init__(self, rows: Sequence[tuple[int, dict[int, float]]], vocab_size: int, device: torch.device) -> None:
        self._places = flat_index(rows, vocab_size, device)
        values = [value for _, bias in rows for token, value in bias.items() if 0 <= token < vocab_size]
        self._values = torch.tensor(values, dtype=torch.float32, device=device)

    @classmethod
    def for_batch(cls, sequences: Sequence[request.Sequence], vocab_size: int, device: torch.device) -> Self | None:
        rows = [
            (row, sequence.sampling.logit_bias)
            for row, sequence in enumerate(sequences)
            if sequence.sampling.logit_bias
        ]
        return cls(rows, vocab_size, device) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        logits.view(-1).index_add_(0, self._places, self._values)


class BadWords:
    """``bad_words``: the last token of a word is impossible where the others have just appeared.

    What has appeared includes the prompt: a word that begins there is not completed either.
    """

    def __init__(self, rows: Sequence[tuple[int, request.Sequence]], vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._single = flat_index(
            [(row, [word[0] for word in sequence.sampling.bad_words if len(word) == 1]) for row, sequence in rows],
            vocab_size,
            device,
        )
        self._longer = [
            (row, sequence, [word for word in sequence.sampling.bad_words if len(word) > 1]) for row, sequence in rows
        ]

    @classmethod
    def for_batch(cls, sequences: Sequence[request.Sequence], vocab_size: int, device: torch.device) -> Self | None:
        rows = [(row, sequence) for row, sequence in enumerate(sequences) if sequence.sampling.bad_words]
        return cls(rows, vocab_size, device) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        flat = logits.view(-1)
        flat.index_fill_(0, self._single, -inf)
        completing = [(row, list(_completions(sequence, words))) for row, sequence, words in self._longer]
        flat.index_fill_(0, flat_index(completing, self._vocab_size, self._device), -inf)


def _completions(sequence: request.Sequence, words: Sequence[Word]) -> Iterator[int]:
    """The last tokens of those words whose other tokens are the sequence's last ones."""
    tokens = sequence.token_ids
    for word in words:
        length = len(word) - 1
        if len(tokens) >= length and tuple(tokens[-length:]) == word[:-1]:
            yield word[-1]
