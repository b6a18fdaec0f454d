"""Log-probabilities of chosen tokens, and of others beside them."""

import enum
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch

from headrace_shared.protocol.event import TokenLogprob, TopLogprob
from headrace_worker.execute.logits.largest import largest
from headrace_worker.schedule import request

_ROWS_AT_ONCE = 64


class LogprobsMode(enum.StrEnum):
    """What is told of a token."""

    RAW_LOGPROBS = "raw_logprobs"
    """Its log-probability as the model gives it."""
    PROCESSED_LOGPROBS = "processed_logprobs"
    """Its log-probability in the distribution that the token was drawn from."""
    RAW_LOGITS = "raw_logits"
    PROCESSED_LOGITS = "processed_logits"

    @property
    def raw(self) -> bool:
        return self in (LogprobsMode.RAW_LOGPROBS, LogprobsMode.RAW_LOGITS)

    @property
    def normalised(self) -> bool:
        return self in (LogprobsMode.RAW_LOGPROBS, LogprobsMode.PROCESSED_LOGPROBS)


class Wanted(NamedTuple):
    """What a request wants to be told beside the tokens that were taken."""

    top: int
    """So many of the most likely tokens,"""
    token_ids: tuple[int, ...] = ()
    """or, when there are any, these tokens instead."""


def describe(
    logits: torch.Tensor, token_ids: Sequence[int], wanted: Wanted, mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS
) -> list[TokenLogprob]:
    """For each row of logits [rows, vocab] the entry of its token, with the wanted ones, the most likely first.

    Memory beyond the result is bounded, however many rows there are.
    """
    entries: list[TokenLogprob] = []
    for start in range(0, len(token_ids), _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        entries += _describe(logits[start:end], token_ids[start:end], wanted, mode)
    return entries


def _describe(logits: torch.Tensor, token_ids: Sequence[int], wanted: Wanted, mode: LogprobsMode) -> list[TokenLogprob]:
    chosen = torch.tensor(token_ids, device=logits.device)[:, None]
    values = logits.log_softmax(1) if mode.normalised else logits
    columns, ranks = _beside(logits, wanted)
    rows = zip(
        token_ids,
        values.gather(1, chosen).squeeze(1).tolist(),
        _ranks(logits, chosen).squeeze(1).tolist(),
        zip(columns.tolist(), values.gather(1, columns).tolist(), ranks.tolist(), strict=True),
        strict=True,
    )
    return [
        TokenLogprob(token_id, value, rank, [TopLogprob(*each) for each in zip(*beside, strict=True)])
        for token_id, value, rank, beside in rows
    ]


def _beside(logits: torch.Tensor, wanted: Wanted) -> tuple[torch.Tensor, torch.Tensor]:
    """The wanted tokens of each row and their ranks, both [rows, wanted]."""
    rows, vocab = logits.shape
    if not wanted.token_ids:
        top = min(wanted.top, vocab)
        columns = largest(logits, top).columns if top else logits.new_zeros((rows, 0), dtype=torch.int64)
        return columns, torch.arange(1, top + 1, device=logits.device).expand(rows, -1)
    columns = torch.tensor(wanted.token_ids, device=logits.device).expand(rows, -1)
    order = logits.gather(1, columns).argsort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    return columns, torch.cat([_ranks(logits, column) for column in columns.split(1, dim=1)], 1)


def _ranks(logits: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """1 for the most likely; ``column`` [rows, 1] has one token of each row."""
    return (logits > logits.gather(1, column)).sum(1, keepdim=True) + 1


class RowLogprobs:
    """The rows of a batch that ask for log-probabilities."""

    def __init__(self, rows: Sequence[tuple[int, Wanted]], mode: LogprobsMode, device: torch.device) -> None:
        self._mode = mode
        # One group per wish, so that which of equally likely tokens are named does not depend on other rows.
        self._groups: dict[Wanted, list[int]] = {}
        for row, wanted in rows:
            self._groups.setdefault(wanted, []).append(row)
        self._index = {wanted: torch.tensor(group, device=device) for wanted, group in self._groups.items()}
        self._kept: dict[Wanted, torch.Tensor] = {}

    @classmethod
    def for_batch(cls, sequences: Sequence[request.Sequence], mode: LogprobsMode, device: torch.device) -> Self | None:
        rows = [
            (row, Wanted(sequence.sampling.logprobs, sequence.sampling.logprob_token_ids))
            for row, sequence in enumerate(sequences)
            if sequence.sampling.logprobs is not None
        ]
        return cls(rows, mode, device) if rows else None

    def capture(self, logits: torch.Tensor) -> None:
        """Keep the logits [rows, vocab] as they are now."""
        self._kept = {wanted: logits[index] for wanted, index in self._index.items()}

    def of(self, row: int, token_ids: Sequence[int]) -> list[TokenLogprob] | None:
        """Entries for several tokens at the place of one row; None when it asks for none."""
        for wanted, group in self._groups.items():
            if row in group:
                logits = self._kept[wanted][group.index(row)].expand(len(token_ids), -1)
                return describe(logits, token_ids, wanted, self._mode)
        return None

    def take(self, token_ids: Sequence[int]) -> list[TokenLogprob | None]:
        """One entry per row of the batch, for the tokens that were drawn; the captured logits are dropped."""
        entries: list[TokenLogprob | None] = [None] * len(token_ids)
        for wanted, group in self._groups.items():
            taken = [token_ids[row] for row in group]
            described = describe(self._kept.pop(wanted), taken, wanted, self._mode)
            for row, entry in zip(group, described, strict=True):
                entries[row] = entry
        return entries
