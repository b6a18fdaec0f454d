"""StepInputs: a plan as the packed tensors that a model wants."""

from dataclasses import dataclass

import numpy as np
import torch

from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.device import on_device
from headrace_worker.schedule.plan import Slice


@dataclass(slots=True)
class StepInputs:
    """One step: the rows of all slices one after the other."""

    input_ids: torch.Tensor
    """int64 [total]"""
    positions: torch.Tensor
    """int64 [total]"""
    batch: Batch
    sample_rows: list[int]
    """The last row of each slice that samples; where it has guesses, theirs and the one before."""


def build_inputs(slices: list[Slice], block_size: int, device: torch.device) -> StepInputs:
    """``slices`` must not be empty; the ones with a single token come first, as far as they do in the plan."""
    counts = np.fromiter((part.count for part in slices), dtype=np.int64, count=len(slices))
    first = np.fromiter((part.start for part in slices), dtype=np.int64, count=len(slices))
    starts = np.zeros(len(slices) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    contexts = first + counts
    total = int(starts[-1])
    owner = np.repeat(np.arange(len(slices)), counts)
    positions = np.arange(total) - (starts[:-1] - first)[owner]
    input_ids = np.empty(total, dtype=np.int64)
    tables = np.zeros((len(slices), int(-(-contexts.max() // block_size))), dtype=np.int32)
    for index, part in enumerate(slices):
        tokens, blocks = part.sequence.token_ids, part.sequence.block_table
        begin, end = part.start, part.start + part.count
        known = tokens[begin] if part.count == 1 else tokens[begin:end] + part.guesses
        input_ids[starts[index] : starts[index + 1]] = known
        used = -(-end // block_size)
        tables[index, :used] = blocks[:used]
    slots = tables[owner, positions // block_size].astype(np.int64) * block_size + positions % block_size
    several = np.flatnonzero(counts != 1)
    batch = Batch(
        num_decodes=int(several[0]) if several.size else len(slices),
        starts=starts.tolist(),
        context_lens=contexts.tolist(),
        query_starts=on_device(starts.astype(np.int32), device),
        contexts=on_device(contexts.astype(np.int32), device),
        block_tables=on_device(tables, device),
        slots=on_device(slots, device),
    )
    sample_rows = [
        row
        for part, end in zip(slices, batch.starts[1:], strict=True)
        if part.samples
        for row in range(end - 1 - len(part.guesses), end)
    ]
    return StepInputs(on_device(input_ids, device), on_device(positions, device), batch, sample_rows)
