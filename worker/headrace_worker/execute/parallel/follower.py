"""``python -m headrace_worker.execute.parallel.follower``: a rank above 0. It computes what it is told on standard input.

It ends when that does. Exit status: 0 then, 2 when it could not load its part of the model, 1 for anything else.
"""

import os
import select
import signal
import sys
from typing import BinaryIO

import msgspec
import torch

from headrace_shared.orphans import die_with
from headrace_shared.telemetry.logs import setup_logging
from headrace_worker.execute import kv_cache
from headrace_worker.execute.build import cache_kind, paged
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.execute.parallel.group import RankGroup
from headrace_worker.execute.parallel.orders import ComputeLogits, MoveBlocks, read_order
from headrace_worker.execute.parallel.part import RankPart, parts_of
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.load import load_model
from headrace_worker.models.network import Network

_LEADER_FAILS_S = 10.0
"""How long rank 0 may take to find out by itself why a model cannot be loaded. It tells it better."""


class Follower:
    """One part of a model, and this rank's part of the K/V cache."""

    def __init__(self, network: Network, attention: PagedAttention, group: RankGroup, device: torch.device) -> None:
        self._network, self._attention = network, attention
        self._group, self._device = group, device
        self._hidden = torch.empty(0)

    def follow(self, stream: BinaryIO) -> None:
        """Compute until the stream ends."""
        with torch.inference_mode():
            while (order := read_order(stream, self._device)) is not None:
                if isinstance(order, MoveBlocks):
                    self._attention.cache.move(order.way, order.pairs)
                elif isinstance(order, ComputeLogits):
                    # Ranks may differ in the last bits, and a row has to be the same one in all of them.
                    rows = self._hidden.new_empty((order.rows, self._hidden.shape[1]))
                    self._group.share(rows)
                    self._network.logits(rows)
                else:
                    self._attention.begin(order.batch)
                    self._hidden = self._network.hidden(order.input_ids, order.positions)


def load(part: RankPart) -> Follower:
    """Raises ModelLoadError."""
    torch.set_num_threads(part.threads)
    group = RankGroup(part.rank, part.source.tensor_parallel_size, part.store, torch.device(part.source.device))
    loaded = load_model(part.source)
    parts = parts_of(loaded, part.attention)
    kind = cache_kind(loaded, part.cache, parts)
    blocks = kv_cache.count_blocks(loaded.layers, part.cache, kind)
    # All ranks have heads of the same size, and so the same number of these.
    swap_blocks = kv_cache.count_swap_blocks(loaded.layers, part.cache, kind)
    network, attention = paged(loaded, group.smallest(blocks), part.cache, parts, swap_blocks)
    return Follower(network, attention, group, loaded.device)


def main() -> int:
    # Rank 0 decides when to stop, and may have to finish what runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stream = sys.stdin.buffer
    part = msgspec.json.decode(stream.readline(), type=RankPart)
    die_with(part.leader_pid)
    setup_logging(part.log_level, part.log_format)
    try:
        follower = load(part)
    except ModelLoadError as error:
        told_by_leader, _, _ = select.select([stream], [], [], _LEADER_FAILS_S)
        if not told_by_leader:
            sys.stderr.write(f"headrace worker: error: rank {part.rank}: {error}\n")
        return 2
    follower.follow(stream)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Without the farewell of the process group, which would wait for ranks that are gone.
    os._exit(status)
