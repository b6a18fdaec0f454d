"""KVCache: the memory that holds every running sequence's keys and values, in blocks."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import torch

from headrace_worker.execute.attention.backend import AttentionBackend, LayerCache
from headrace_worker.execute.attention.cache_kind import CacheFormat, CacheKind
from headrace_worker.execute.host_blocks import HostBlocks
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.layers import AttentionLayer

_CPU_SHARE = 0.5
"""A CPU's memory belongs to others as well: at most this much of the allowed share of what is free."""
_CPU_MOST_BYTES = 4 << 30
"""And no more than this unless asked for: a server on somebody's desk should not grow to half of it."""


class BlockMove(IntEnum):
    """From where to where blocks are copied: between those of the cache, out to the host's memory, or back."""

    WITHIN = 0
    OUT = 1
    BACK = 2


@dataclass(slots=True)
class KVCache:
    """Block ``i`` is row ``i`` of every layer's tensors: one block table serves all layers."""

    layers: list[LayerCache]
    num_blocks: int
    block_size: int
    host: HostBlocks | None = None
    """Where blocks go that have to make room; None: nowhere."""

    @property
    def num_bytes(self) -> int:
        return sum(layer.num_bytes for layer in self.layers)

    def move(self, way: BlockMove, pairs: list[tuple[int, int]]) -> None:
        """Copy blocks (from, to); all are read before any is written. Raises RuntimeError without a place on the host for them."""
        if way is BlockMove.WITHIN:
            self._copy(pairs)
        elif self.host is None:
            raise RuntimeError("this cache has no swap space")
        elif way is BlockMove.OUT:
            self.host.put(pairs)
        else:
            self.host.fetch(pairs)

    def _copy(self, pairs: list[tuple[int, int]]) -> None:
        device = self.layers[0].key.device
        source, target = torch.tensor(pairs, device=device).unbind(1)
        for layer in self.layers:
            for tensor in layer.tensors:
                tensor[target] = tensor[source]


@dataclass(frozen=True, slots=True)
class CacheSize:
    """How large the cache may be, and in which format its numbers are."""

    block_size: int = 16
    """Tokens."""
    memory_bytes: int | None = None
    """None: by ``utilization``."""
    utilization: float = 0.9
    """Share of the device's memory for weights and cache together; on a CPU, twice the share of free memory for the cache."""
    most_tokens: int | None = None
    """More than this could never be used."""
    blocks: int | None = None
    """Exactly so many, whatever memory there is."""
    sharers: int = 1
    """Processes like this one that the host's free memory is for."""
    swap_bytes: int = 0
    """Of the host's memory, for blocks that have to make room."""
    format: CacheFormat = CacheFormat.PLAIN


def block_bytes(layers: list[AttentionLayer], block_size: int, kind: CacheKind) -> int:
    """Bytes of one block, all layers together."""
    return sum(kind.bytes_per_token(layer) for layer in layers) * block_size


def count_blocks(layers: list[AttentionLayer], size: CacheSize, kind: CacheKind) -> int:
    """How many blocks fit. Raises ModelLoadError when that is not even one."""
    if size.blocks is not None:
        return size.blocks
    one = block_bytes(layers, size.block_size, kind)
    allowed = size.memory_bytes if size.memory_bytes is not None else _free_bytes(kind.device, size)
    blocks = max(0, allowed) // one
    if size.most_tokens is not None and size.memory_bytes is None:
        blocks = min(blocks, -(-size.most_tokens // size.block_size))
    if blocks < 1:
        raise ModelLoadError(f"the KV cache has {max(0, allowed)} bytes of memory, and one block needs {one}")
    return blocks


def count_swap_blocks(layers: list[AttentionLayer], size: CacheSize, kind: CacheKind) -> int:
    """How many blocks the host's memory is to hold. Raises ModelLoadError when that is not even one, or too much."""
    if not size.swap_bytes:
        return 0
    one, free = block_bytes(layers, size.block_size, kind), _free_host_bytes()
    if size.swap_bytes < one:
        raise ModelLoadError(f"the swap space has {size.swap_bytes} bytes of memory, and one block needs {one}")
    if size.swap_bytes * size.sharers > free:
        raise ModelLoadError(
            f"the swap space is {size.swap_bytes * size.sharers / (1 << 30):.1f} GiB, and {free / (1 << 30):.1f} GiB of "
            "this machine's memory are free"
        )
    return size.swap_bytes // one


def allocate(
    backend: AttentionBackend, layers: list[AttentionLayer], num_blocks: int, block_size: int, kind: CacheKind
) -> KVCache:
    """The cache itself. Raises ModelLoadError when the memory is not there."""
    try:
        caches = [backend.allocate(layer, num_blocks, block_size, kind) for layer in layers]
    except (RuntimeError, MemoryError) as error:
        raise ModelLoadError(f"no memory for {num_blocks} KV blocks: {str(error).partition(chr(10))[0]}") from error
    return KVCache(caches, num_blocks, block_size)


def _free_bytes(device: torch.device, size: CacheSize) -> int:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(total * size.utilization - (total - free))
    return min(_CPU_MOST_BYTES, int(_free_host_bytes() * size.utilization * _CPU_SHARE)) // size.sharers


def _free_host_bytes() -> int:
    """Free memory of this machine, or of the container we are in when that is less."""
    free = [_meminfo_bytes("MemAvailable")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file():
        text = limit.read_text().strip()
        if text.isdigit():
            free.append(int(text) - int(used.read_text()))
    return min(free)


def _meminfo_bytes(field: str) -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError as error:
        raise ModelLoadError(
            "this system does not say how much memory is free; set kv_cache_memory, and no swap_space"
        ) from error
    values = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(values[field].split()[0]) * 1024
