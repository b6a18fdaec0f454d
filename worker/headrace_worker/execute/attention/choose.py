"""choose(): the attention back-end of a model, where there are several that could do it."""

import logging
from collections.abc import Callable, Mapping

import torch

from headrace_worker.execute.attention.backend import AttentionBackend
from headrace_worker.execute.attention.cache_kind import CacheKind
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.execute.attention.trial import trial
from headrace_worker.execute.device import using
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.layers import AttentionLayer

log = logging.getLogger(__name__)


def _flashinfer(device: torch.device) -> AttentionBackend:
    from headrace_worker.execute.attention.flash_infer import FlashInferAttention

    return FlashInferAttention(device)


def _flash_attn(device: torch.device) -> AttentionBackend:
    from headrace_worker.execute.attention.flash_attn import FlashAttention

    return FlashAttention()


def _triton(device: torch.device) -> AttentionBackend:
    from headrace_worker.execute.attention.triton_attention import TritonAttention

    return TritonAttention.on(device)


Make = Callable[[torch.device], AttentionBackend]

PORTABLE = "torch_sdpa"
ON_CUDA: Mapping[str, Make] = {"flashinfer": _flashinfer, "flash_attn": _flash_attn, "triton_attn": _triton}
"""By the names that vLLM has for them; the first that works is taken."""


def choose(wanted: str, layers: list[AttentionLayer], block_size: int, kind: CacheKind) -> AttentionBackend:
    """The one that is ``wanted``, or for ``auto`` the first of ``ON_CUDA`` that works here, else the portable one.

    Raises ModelLoadError when the one that is wanted does not work.
    """
    where = kind.device.type
    if where != "cuda" and wanted in ON_CUDA:
        raise ModelLoadError(f"attention_backend: {wanted} is for CUDA devices; leave it out on a {where}")
    names = list(ON_CUDA) if wanted == "auto" and where == "cuda" else [wanted]
    for name in names:
        if name not in ON_CUDA:
            continue
        found = _working(name, layers, block_size, kind)
        if not isinstance(found, str):
            return found
        if wanted == name:
            raise ModelLoadError(f"attention_backend: {name}: {found}")
        log.info("attention back-end left out", extra={"backend": name, "reason": found})
    return PagedSdpa()


def _working(name: str, layers: list[AttentionLayer], block_size: int, kind: CacheKind) -> AttentionBackend | str:
    """It, or why it does not work."""
    try:
        backend = ON_CUDA[name](kind.device)
    except ImportError as error:
        return f"it is not installed ({error})"
    except Exception as error:  # noqa: BLE001 libraries raise anything where a driver or a compiler is missing
        return f"it does not start: {error}"
    with using(kind.device):
        problem = trial(backend, layers, block_size, kind)
    return problem if problem is not None else backend
