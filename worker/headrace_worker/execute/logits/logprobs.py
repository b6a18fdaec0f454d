"""Log-probabilities of chosen tokens, and of the most likely ones beside them."""

from collections.abc import Sequence
from typing import Self

import torch

from headrace_shared.protocol.event import TokenLogprob, TopLogprob
from headrace_worker.execute.logits.largest import largest
from headrace_worker.schedule import request

_ROWS_AT_ONCE = 64


def describe(logits: torch.Tensor, token_ids: Sequence[int], top: int) -> list[TokenLogprob]:
    """For each row of logits [rows, vocab] the entry of its token, with the ``top`` most likely ones.

    Memory beyond the result is bounded, however many rows there are.
    """
    entries: list[TokenLogprob] = []
    for start in range(0, len(token_ids), _ROWS_AT_ONCE):
        end = start + _ROWS_AT_ONCE
        entries += _describe(logits[start:end], token_ids[start:end], min(top, logits.shape[1]))
    return entries


def _describe(logits: torch.Tensor, token_ids: Sequence[int], top: int) -> list[TokenLogprob]:
    chosen = torch.tensor(token_ids, device=logits.device)[:, None]
    logprobs = logits.log_softmax(1)
    ranks = (logits > logits.gather(1, chosen)).sum(1) + 1
    columns = largest(logits, top).columns if top else chosen[:, :0]
    rows = zip(
        token_ids,
        logprobs.gather(1, chosen).squeeze(1).tolist(),
        ranks.tolist(),
        columns.tolist(),
        logprobs.gather(1, columns).tolist(),
        strict=True,
    )
    return [
        TokenLogprob(
            token_id,
            logprob,
            rank,
            [TopLogprob(*best, place) for place, best in enumerate(zip(ids, values, strict=True), 1)],
        )
        for token_id, logprob, rank, ids, values in rows
    ]


class RowLogprobs:
    """The rows of a batch that ask for log-probabilities, taken before anything changes the logits."""

    def __init__(self, rows: Sequence[tuple[int, int]], device: torch.device) -> None:
        """``rows``: row and number of most likely tokens."""
        # One group per number, so that which of equally likely tokens are named does not depend on other rows.
        self._groups = {
            top: [row for row, wanted in rows if wanted == top] for top in sorted({wanted for _, wanted in rows})
        }
        self._index = {top: torch.tensor(group, device=device) for top, group in self._groups.items()}
        self._raw: dict[int, torch.Tensor] = {}

    @classmethod
    def for_batch(cls, sequences: Sequence[request.Sequence], device: torch.device) -> Self | None:
        rows = [
            (row, sequence.sampling.logprobs)
            for row, sequence in enumerate(sequences)
            if sequence.sampling.logprobs is not None
        ]
        return cls(rows, device) if rows else None

    def capture(self, logits: torch.Tensor) -> None:
        self._raw = {top: logits[index] for top, index in self._index.items()}

    def of(self, row: int, token_ids: Sequence[int]) -> list[TokenLogprob] | None:
        """Entries for several tokens at the place of one row; None when it asks for none."""
        for top, group in self._groups.items():
            if row in group:
                logits = self._raw[top][group.index(row)].expand(len(token_ids), -1)
                return describe(logits, token_ids, top)
        return None

    def take(self, token_ids: Sequence[int]) -> list[TokenLogprob | None]:
        """One entry per row of the batch, for the tokens that were drawn; the captured logits are dropped."""
        entries: list[TokenLogprob | None] = [None] * len(token_ids)
        for top, group in self._groups.items():
            described = describe(self._raw.pop(top), [token_ids[row] for row in group], top)
            for row, entry in zip(group, described, strict=True):
                entries[row] = entry
        return entries
