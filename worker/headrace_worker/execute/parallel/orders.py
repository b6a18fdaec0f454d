"""What rank 0 tells the others to compute, and its form on a pipe: a header, and one run of int64.

A pipe, and not the process group: whoever reads one sleeps until something comes, however long that takes, and sees its
end when the writer dies.
"""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch

from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.device import on_device
from headrace_worker.execute.kv_cache import BlockMove

Words = np.ndarray[tuple[int, ...], np.dtype[np.int64]]

_HEADER = 5
_MOVE, _STEP, _LOGITS = range(3)
_WORD = 8


@dataclass(frozen=True, slots=True)
class MoveBlocks:
    """Copy blocks of the K/V cache, or to and from this rank's swap space."""

    way: BlockMove
    pairs: list[tuple[int, int]]

    def pack(self) -> bytes:
        return _packed([_MOVE, len(self.pairs), self.way, 0, 0], [np.array(self.pairs, dtype=np.int64)])


@dataclass(frozen=True, slots=True)
class ComputeStep:
    """Compute the hidden states of a batch."""

    input_ids: torch.Tensor
    positions: torch.Tensor
    batch: Batch

    def pack(self) -> bytes:
        batch, tables = self.batch, self.batch.block_tables
        header = [_STEP, len(self.input_ids), batch.num_sequences, tables.shape[1], batch.num_decodes]
        # One copy from the device, where there is one.
        tensors = torch.cat([self.input_ids, self.positions, batch.slots, tables.flatten().long()]).cpu()
        return _packed(header, [np.array(batch.starts + batch.context_lens, dtype=np.int64), tensors.numpy()])


@dataclass(frozen=True, slots=True)
class ComputeLogits:
    """Take part in the logits of so many hidden states, which rank 0 shares."""

    rows: int

    def pack(self) -> bytes:
        return _packed([_LOGITS, self.rows, 0, 0, 0], [])


Order = MoveBlocks | ComputeStep | ComputeLogits


def read_order(stream: BinaryIO, device: torch.device) -> Order | None:
    """The next one, with its tensors on ``device``; None once the writer is gone."""
    header = _read(stream, _HEADER)
    if header is None:
        return None
    kind, *sizes = header.tolist()
    if kind == _LOGITS:
        return ComputeLogits(sizes[0])
    body = _read(stream, 2 * sizes[0] if kind == _MOVE else sum(_lengths(sizes)))
    if body is None:
        return None
    if kind == _MOVE:
        return MoveBlocks(BlockMove(sizes[1]), [(source, target) for source, target in body.reshape(-1, 2).tolist()])
    return _step(sizes, body, device)


def _lengths(sizes: list[int]) -> list[int]:
    """Of the arrays of a step, by its header."""
    rows, sequences, width, _ = sizes
    return [sequences + 1, sequences, rows, rows, rows, sequences * width]


def _step(sizes: list[int], body: Words, device: torch.device) -> ComputeStep:
    _, sequences, width, num_decodes = sizes
    starts, contexts, input_ids, positions, slots, tables = np.split(body, np.cumsum(_lengths(sizes))[:-1])
    batch = Batch(
        num_decodes=num_decodes,
        starts=starts.tolist(),
        context_lens=contexts.tolist(),
        query_starts=on_device(starts.astype(np.int32), device),
        contexts=on_device(contexts.astype(np.int32), device),
        block_tables=on_device(tables.reshape(sequences, width).astype(np.int32), device),
        slots=on_device(slots, device),
    )
    return ComputeStep(on_device(input_ids, device), on_device(positions, device), batch)


def _packed(header: list[int], parts: list[Words]) -> bytes:
    return b"".join([np.array(header, dtype=np.int64).tobytes(), *(part.tobytes() for part in parts)])


def _read(stream: BinaryIO, words: int) -> Words | None:
    raw = bytearray(stream.read(words * _WORD))
    # A writer that dies may leave the beginning of an order behind.
    return np.frombuffer(raw, dtype=np.int64) if len(raw) == words * _WORD else None
