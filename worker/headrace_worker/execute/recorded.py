"""RecordedDecodes: steps in which every sequence decodes, recorded once for each batch size and played again.

Such a step is some hundred small operations, and on a fast device it takes longer to ask for them than to do them. A
recording is asked for once. It always computes with the same memory, so that a step's inputs are copied there, and filled
up with rows of nobody to the next batch size that was recorded.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from headrace_shared.clock import mono_s
from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.device import using
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.models.network import Network

log = logging.getLogger(__name__)

Compute = Callable[[], torch.Tensor]
Record = Callable[[Compute], Compute]
"""From a computation over memory that stays where it is to the same one over what that memory holds when it is played."""


@dataclass(frozen=True, slots=True)
class RecordingLimits:
    """What is recorded."""

    most_rows: int
    """Larger batches run as they come."""
    most_blocks: int
    """Of one sequence."""
    spare_block: int
    """A block of the K/V cache that belongs to no sequence: rows of nobody write there."""


def batch_sizes(most_rows: int) -> list[int]:
    """Powers of two, and the largest: at most half of a recording's rows are nobody's."""
    return [*(1 << bits for bits in range((most_rows - 1).bit_length())), most_rows]


class StaticInputs:
    """The inputs of recordings, all batch sizes in the same memory: what one leaves behind the next one overwrites."""

    def __init__(self, limits: RecordingLimits, block_size: int, device: torch.device) -> None:
        rows = limits.most_rows
        self._spare_block, self._spare_slot = limits.spare_block, limits.spare_block * block_size
        self._input_ids = torch.zeros(rows, dtype=torch.int64, device=device)
        self._positions = torch.zeros(rows, dtype=torch.int64, device=device)
        self._slots = torch.full((rows,), self._spare_slot, dtype=torch.int64, device=device)
        self._contexts = torch.ones(rows, dtype=torch.int32, device=device)
        self._tables = torch.full((rows, limits.most_blocks), limits.spare_block, dtype=torch.int32, device=device)
        self._starts = torch.arange(rows + 1, dtype=torch.int32, device=device)

    def input_ids(self, size: int) -> torch.Tensor:
        return self._input_ids[:size]

    def positions(self, size: int) -> torch.Tensor:
        return self._positions[:size]

    def batch(self, size: int) -> Batch:
        """Of ``size`` sequences; its lists are true after a ``fill`` with it."""
        return Batch(
            num_decodes=size,
            starts=list(range(size + 1)),
            context_lens=[1] * size,
            query_starts=self._starts[: size + 1],
            contexts=self._contexts[:size],
            block_tables=self._tables[:size],
            slots=self._slots[:size],
            is_static=True,
        )

    def fill(self, target: Batch, input_ids: torch.Tensor, positions: torch.Tensor, batch: Batch) -> None:
        """Have ``target``, of these inputs, hold ``batch`` and be nobody's behind it."""
        rows, size = batch.num_sequences, target.num_sequences
        self._input_ids[:rows].copy_(input_ids)
        self._positions[:rows].copy_(positions)
        self._slots[:rows].copy_(batch.slots)
        self._contexts[:rows].copy_(batch.contexts)
        # What is right of a sequence's own blocks is never looked at.
        self._tables[:rows, : batch.block_tables.shape[1]].copy_(batch.block_tables)
        target.context_lens = [*batch.context_lens, *[1] * (size - rows)]
        if rows < size:
            self._input_ids[rows:size] = 0
            self._positions[rows:size] = 0
            self._slots[rows:size] = self._spare_slot
            self._contexts[rows:size] = 1
            self._tables[rows:size, 0] = self._spare_block


@dataclass(slots=True)
class _Recording:
    batch: Batch
    play: Compute


class RecordedDecodes:
    """A Network that plays recordings where it has one, and is ``network`` where it has none."""

    def __init__(
        self, network: Network, attention: PagedAttention, limits: RecordingLimits, device: torch.device
    ) -> None:
        """Nothing is recorded yet."""
        self._network, self._attention, self._device = network, attention, device
        self._inputs = StaticInputs(limits, attention.cache.block_size, device)
        self._sizes = batch_sizes(limits.most_rows)
        self._recordings: dict[int, _Recording] = {}

    def record(self, record: Record) -> None:
        """Record every batch size; none, when a model does what cannot be recorded, which is logged."""
        begun_s = mono_s()
        try:
            with torch.inference_mode(), using(self._device):
                # The largest one first: what it needs is enough for the others.
                for size in reversed(self._sizes):
                    self._recordings[size] = self._record(size, record)
        except RuntimeError as error:
            self._recordings.clear()
            reason = str(error).strip().partition("\n")[0]
            log.warning("decode steps cannot be recorded, and run as they come", extra={"reason": reason})
            return
        log.info(
            "decode steps recorded",
            extra={"batch_sizes": self._sizes, "seconds": round(mono_s() - begun_s, 1)},
        )

    def hidden(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        batch = self._attention.batch
        recording = self._recording_for(batch)
        if recording is None:
            return self._network.hidden(input_ids, positions)
        # It cannot be given up halfway.
        self._attention.check()
        self._inputs.fill(recording.batch, input_ids, positions, batch)
        self._attention.begin(recording.batch)
        self._attention.backend.prepare(recording.batch)
        return recording.play()[: batch.num_sequences]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._network.logits(hidden)

    def _recording_for(self, batch: Batch) -> _Recording | None:
        rows = batch.num_sequences
        if batch.num_decodes < rows:
            return None
        return next((self._recordings.get(size) for size in self._sizes if size >= rows), None)

    def _record(self, size: int, record: Record) -> _Recording:
        batch = self._inputs.batch(size)
        input_ids, positions = self._inputs.input_ids(size), self._inputs.positions(size)
        self._attention.begin(batch)
        self._attention.backend.prepare(batch)
        return _Recording(batch, record(lambda: self._network.hidden(input_ids, positions)))


class CudaGraphs:
    """A Record: recordings are CUDA graphs, which share their memory, as only one of them plays at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        """Raises RuntimeError when ``compute`` waits for the device, or does something else that cannot be recorded."""
        before = torch.cuda.current_stream()
        aside = torch.cuda.Stream()
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            # Libraries set themselves up, and kernels are compiled, when they are first called.
            compute()
        before.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                hidden = compute()
        finally:
            # A recording that fails leaves its own stream behind.
            torch.cuda.set_stream(before)

        def play() -> torch.Tensor:
            graph.replay()
            return hidden

        return play
