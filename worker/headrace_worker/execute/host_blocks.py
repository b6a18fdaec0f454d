"""HostBlocks: copies of K/V blocks in the host's memory."""

from collections.abc import Iterator

import torch

from headrace_worker.execute.attention.backend import LayerCache, zeroed
from headrace_worker.models.errors import ModelLoadError

_STAGED_BYTES = 32 << 20
"""Of the device's memory, at most, for blocks on their way; at least one block."""


class HostBlocks:
    """Place ``i`` has a whole block, all layers one after the other.

    On CUDA the memory is pinned and copies are only begun: whatever is begun later on the same stream comes after them.
    """

    def __init__(self, layers: list[LayerCache], num_blocks: int) -> None:
        """Raises ModelLoadError when the memory is not there."""
        # Scales travel as what the numbers beside them are.
        self._tensors = [tensor.view(layers[0].key.dtype) for layer in layers for tensor in layer.tensors]
        self._widths = [tensor[0].numel() for tensor in self._tensors]
        first, shape = self._tensors[0], (num_blocks, sum(self._widths))
        self._at_once = max(1, _STAGED_BYTES // (shape[1] * first.dtype.itemsize))
        try:
            if first.device.type == "cuda":
                self._places = torch.empty(shape, dtype=first.dtype, pin_memory=True)
            else:
                self._places = zeroed(shape, first.dtype, torch.device("cpu"))
        except (RuntimeError, MemoryError) as error:
            raise ModelLoadError(f"no memory for {num_blocks} blocks of swap space") from error

    def put(self, pairs: list[tuple[int, int]]) -> None:
        """Copy blocks of the cache (block, place)."""
        for part in self._parts(pairs):
            blocks = self._index([block for block, _ in part])
            staged = torch.cat([tensor[blocks].flatten(1) for tensor in self._tensors], dim=1)
            for row, (_, place) in zip(staged, part, strict=True):
                self._places[place].copy_(row, non_blocking=True)

    def fetch(self, pairs: list[tuple[int, int]]) -> None:
        """Copy blocks back into the cache (place, block)."""
        for part in self._parts(pairs):
            blocks = self._index([block for _, block in part])
            staged = self._tensors[0].new_empty((len(part), self._places.shape[1]))
            for row, (place, _) in zip(staged, part, strict=True):
                row.copy_(self._places[place], non_blocking=True)
            for tensor, columns in zip(self._tensors, staged.split(self._widths, dim=1), strict=True):
                tensor[blocks] = columns.unflatten(1, tensor.shape[1:])

    def _parts(self, pairs: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        for start in range(0, len(pairs), self._at_once):
            yield pairs[start : start + self._at_once]

    def _index(self, blocks: list[int]) -> torch.Tensor:
        return torch.tensor(blocks, device=self._tensors[0].device)
