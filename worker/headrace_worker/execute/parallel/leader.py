"""Leader: rank 0 of a model that is split over processes. It alone has requests, a scheduler and a sampler."""

import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import torch

from headrace_worker.execute.build import BuiltRunner, assemble, cache_size, draft_for, model_source
from headrace_worker.execute.kv_cache import BlockMove, KVCache
from headrace_worker.execute.logits.logprobs import LogprobsMode
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.execute.parallel.group import RankGroup
from headrace_worker.execute.parallel.orders import ComputeLogits, ComputeStep, MoveBlocks
from headrace_worker.execute.parallel.part import RankPart, parts_of, rank_devices
from headrace_worker.execute.parallel.ranks import Ranks
from headrace_worker.execute.threads import usable_cores
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.load import ModelSource, check_model, load_model
from headrace_worker.models.network import Network
from headrace_worker.settings import WorkerSettings

_FOLLOWER = "headrace_worker.execute.parallel.follower"


class Leader:
    """The Peers of a model's first part."""

    def __init__(self, ranks: Ranks, group: RankGroup) -> None:
        self._ranks, self._group = ranks, group

    def agree(self, num_blocks: int) -> int:
        return self._group.smallest(num_blocks)

    def lead(self, network: Network, attention: PagedAttention) -> Network:
        attention.cache = _MirroredCache(attention.cache, self._ranks)
        return _LeadingNetwork(network, attention, self._ranks, self._group)

    def close(self) -> None:
        self._ranks.close()
        self._group.leave()


class _MirroredCache(KVCache):
    """Blocks that are copied here are copied by all ranks."""

    def __init__(self, cache: KVCache, ranks: Ranks) -> None:
        super().__init__(cache.layers, cache.num_blocks, cache.block_size, cache.host)
        self._ranks = ranks

    def move(self, way: BlockMove, pairs: list[tuple[int, int]]) -> None:
        self._ranks.order(MoveBlocks(way, pairs))
        super().move(way, pairs)


class _LeadingNetwork:
    """A Network that all ranks compute together."""

    def __init__(self, network: Network, attention: PagedAttention, ranks: Ranks, group: RankGroup) -> None:
        self._network, self._attention = network, attention
        self._ranks, self._group = ranks, group

    def hidden(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self._attention.check()
        batch = self._attention.batch
        # From here on it cannot be given up: the others would wait for this rank's share of a layer.
        self._attention.begin(batch)
        self._ranks.order(ComputeStep(input_ids, positions, batch))
        return self._network.hidden(input_ids, positions)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self._ranks.order(ComputeLogits(hidden.shape[0]))
        self._group.share(hidden)
        return self._network.logits(hidden)


def build_parallel_runner(settings: WorkerSettings) -> tuple[BuiltRunner, Leader]:
    """``build_runner`` for a model that is split over ``tensor_parallel_size`` processes, which are started.

    Raises as that does. When one of the others ends, this process does.
    """
    size = settings.tensor_parallel_size
    devices = rank_devices(settings.device, size)
    if torch.distributed.is_initialized():
        raise ModelLoadError(
            "tensor_parallel_size: this process has a model in several processes already; start another"
        )
    source = replace(model_source(settings), device=devices[0])
    check_model(source)
    threads = settings.threads or max(1, usable_cores() // size)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="headrace-ranks-") as folder, ExitStack() as undo:
        store = str(Path(folder) / "store")
        greetings = [
            RankPart(
                rank=rank,
                leader_pid=os.getpid(),
                store=store,
                source=replace(source, device=devices[rank], progress_bar=False),
                cache=cache_size(settings),
                threads=threads,
                attention=settings.attention_backend,
                log_level=settings.log_level,
                log_format=settings.log_format,
            )
            for rank in range(1, size)
        ]
        ranks = Ranks(_FOLLOWER, [msgspec.json.encode(each) + b"\n" for each in greetings])
        undo.callback(ranks.close)
        group = RankGroup(0, size, store, torch.device(devices[0]))
        undo.callback(group.leave)
        leader = Leader(ranks, group)
        built = _build(settings, source, leader)
        undo.pop_all()
    return built, leader


def _build(settings: WorkerSettings, source: ModelSource, leader: Leader) -> BuiltRunner:
    loaded = load_model(source)
    size = cache_size(settings, settings.max_num_seqs * loaded.max_model_len)
    draft = draft_for(settings, source, loaded)
    mode = LogprobsMode(settings.logprobs_mode)
    return assemble(loaded, size, parts_of(loaded, settings.attention_backend), mode, draft, leader)
