"""RowSampler: what draws tokens from rows of logits."""

from typing import Protocol

import torch

from headrace_shared.protocol.event import TokenLogprob
from headrace_worker.schedule.beam import Candidate
from headrace_worker.schedule.request import Sequence


class SampledRows(Protocol):
    """One entry per row of logits."""

    token_ids: list[int]
    logprobs: list[TokenLogprob | None]
    candidates: dict[Sequence, list[Candidate]]
    """Of the rows that are beams."""
    failed: dict[Sequence, str]
    """Rows that could not be computed, and why."""


class RowSampler(Protocol):
    """Draws tokens from logits [rows, vocab], which it may change in place."""

    def sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> SampledRows: ...

    def prompt_logprobs(self, logits: torch.Tensor, sequence: Sequence, start: int) -> list[TokenLogprob]: ...

    def possible(self, sequence: Sequence, token_ids: list[int]) -> int: ...

    def forget(self, request_id: str) -> None: ...
