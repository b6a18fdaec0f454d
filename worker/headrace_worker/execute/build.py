"""build_runner(): from where a model is to a runner that can be given plans."""

import logging
import os
from dataclasses import dataclass

import torch

from headrace_worker.execute import kv_cache
from headrace_worker.execute.attention.backend import AttentionBackend
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.execute.runner import ModelRunner
from headrace_worker.execute.sampler import Sampler
from headrace_worker.models.load import LoadedModel, ModelSource, load_model
from headrace_worker.models.network import TransformersNetwork
from headrace_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class BuiltRunner:
    """A runner, and what the scheduler has to know about it."""

    runner: ModelRunner
    model: LoadedModel
    num_blocks: int


def build_runner(settings: WorkerSettings) -> BuiltRunner:
    """Load the model that the settings name, and everything around it.

    Raises ModelLoadError or ModelNotSupportedError with one line for the person who started us.
    """
    torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
    source = ModelSource(
        model=settings.model,
        dtype=settings.dtype,
        device=settings.device,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        max_model_len=settings.max_model_len,
    )
    loaded = load_model(source)
    size = CacheSize(
        block_size=settings.block_size,
        memory_bytes=settings.kv_cache_memory,
        utilization=settings.gpu_memory_utilization,
        most_tokens=settings.max_num_seqs * loaded.max_model_len,
    )
    return assemble(loaded, size)


def assemble(loaded: LoadedModel, size: CacheSize) -> BuiltRunner:
    """Put a runner together around a model that is already in memory. Raises ModelLoadError when memory is short."""
    backend: AttentionBackend = PagedSdpa()
    num_blocks = kv_cache.count_blocks(loaded.layers, size, loaded.dtype, loaded.device)
    cache = kv_cache.allocate(backend, loaded.layers, num_blocks, size.block_size, (loaded.dtype, loaded.device))
    attention = PagedAttention(backend, loaded.layers, loaded.layer_index, cache)
    network = TransformersNetwork(loaded.model, attention)
    sampler = Sampler(loaded.vocab_size, loaded.eos_token_ids)
    runner = ModelRunner(network, attention, sampler, loaded.vocab_size, loaded.device)
    log.info(
        "engine built",
        extra={
            "attention": backend.name,
            "kv_blocks": num_blocks,
            "kv_tokens": num_blocks * size.block_size,
            "kv_mib": cache.num_bytes >> 20,
            "threads": torch.get_num_threads(),
        },
    )
    return BuiltRunner(runner, loaded, num_blocks)
