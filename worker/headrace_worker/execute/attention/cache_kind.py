"""CacheKind: what a K/V cache's numbers are, and the arithmetic of those in eight bits."""

from dataclasses import dataclass
from enum import IntEnum

import torch

from headrace_worker.models.layers import AttentionLayer

_LEAST_HEAD = 1e-30
"""As if a head had a number of this size at least: no scale is 0."""


class CacheFormat(IntEnum):
    """The formats of cache.h, by its numbers."""

    PLAIN = 0
    """As the layers compute them."""
    INT8 = 1
    FP8 = 2
    """e4m3. A head of a token has a float32 scale of its own in both, by which its largest number is the format's largest."""

    @classmethod
    def named(cls, name: str) -> "CacheFormat":
        """For a setting: ``auto``, ``int8``, ``fp8`` or ``fp8_e4m3``."""
        return _BY_NAME[name]


_BY_NAME = {
    "auto": CacheFormat.PLAIN,
    "int8": CacheFormat.INT8,
    "fp8": CacheFormat.FP8,
    "fp8_e4m3": CacheFormat.FP8,
}
_MOST = {CacheFormat.INT8: 127.0, CacheFormat.FP8: 448.0}


@dataclass(frozen=True, slots=True)
class CacheKind:
    """What a cache holds, and where."""

    dtype: torch.dtype
    """What the layers compute in."""
    device: torch.device
    format: CacheFormat = CacheFormat.PLAIN

    @property
    def name(self) -> str:
        names = {CacheFormat.INT8: "int8", CacheFormat.FP8: "fp8_e4m3"}
        return names.get(self.format, str(self.dtype).removeprefix("torch."))

    @property
    def has_scales(self) -> bool:
        return self.format is not CacheFormat.PLAIN

    @property
    def stored(self) -> torch.dtype:
        """The dtype of the cache's tensors; those of FP8 are bytes too, which torch can copy by index."""
        return torch.int8 if self.has_scales else self.dtype

    def bytes_per_token(self, layer: AttentionLayer) -> int:
        scales = 2 * layer.num_kv_heads * torch.float32.itemsize if self.has_scales else 0
        return int(layer.kv_elements_per_token() * self.stored.itemsize + scales)


def keep(heads: torch.Tensor, form: CacheFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """``heads`` [..., dim] -> (bytes as int8 [..., dim], scales float32 [...]); the native kernels keep the same."""
    wide = heads.float()
    scales = wide.abs().amax(-1).clamp_min_(_LEAST_HEAD) / _MOST[form]
    numbers = wide / scales.unsqueeze(-1)
    if form is CacheFormat.INT8:
        return numbers.round_().to(torch.int8), scales
    return numbers.to(torch.float8_e4m3fn).view(torch.int8), scales


def restore(numbers: torch.Tensor, scales: torch.Tensor, form: CacheFormat, dtype: torch.dtype) -> torch.Tensor:
    """What ``keep`` has left of its ``heads``."""
    plain = numbers if form is CacheFormat.INT8 else numbers.view(torch.float8_e4m3fn)
    return (plain.float() * scales.unsqueeze(-1)).to(dtype)
