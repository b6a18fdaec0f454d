"""build_runner(): from where a model is to a runner that can be given plans."""

import logging
from dataclasses import dataclass

import torch

from headrace_worker.execute import kv_cache
from headrace_worker.execute.attention.backend import AttentionBackend
from headrace_worker.execute.attention.native import NativeAttention
from headrace_worker.execute.attention.paged_sdpa import PagedSdpa
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.execute.lean import LeanNetwork, can_be_lean
from headrace_worker.execute.linear import pack_linears, reorder_linears
from headrace_worker.execute.logits.logprobs import LogprobsMode
from headrace_worker.execute.native.library import kernels
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.execute.runner import ModelRunner
from headrace_worker.execute.sampler import Sampler
from headrace_worker.execute.threads import usable_cores
from headrace_worker.execute.weights import PLAIN, Packing
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.families import take_apart
from headrace_worker.models.load import LoadedModel, ModelSource, load_model
from headrace_worker.models.network import Network, TransformersNetwork
from headrace_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class BuiltRunner:
    """A runner, and what the scheduler has to know about it."""

    runner: ModelRunner
    model: LoadedModel
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Parts:
    """Which of the faster parts may be used; for tests and benchmarks, which want each path by itself."""

    native: bool = True
    packed: bool = True
    lean: bool = True


def build_runner(settings: WorkerSettings) -> BuiltRunner:
    """Load the model that the settings name, and everything around it.

    Raises ModelLoadError or ModelNotSupportedError with one line for the person who started us.
    """
    torch.set_num_threads(settings.threads or usable_cores())
    source = ModelSource(
        model=settings.model,
        dtype=settings.dtype,
        device=settings.device,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        max_model_len=settings.max_model_len,
        code_revision=settings.code_revision,
        download_dir=settings.download_dir,
        config=settings.hf_config_path,
        overrides=settings.config_overrides,
        load_format=settings.load_format,
        progress_bar=settings.use_tqdm_on_load,
    )
    loaded = load_model(source)
    size = CacheSize(
        block_size=settings.block_size,
        memory_bytes=settings.kv_cache_memory,
        utilization=settings.gpu_memory_utilization,
        most_tokens=settings.max_num_seqs * loaded.max_model_len,
    )
    return assemble(loaded, size, mode=LogprobsMode(settings.logprobs_mode), quantization=settings.quantization)


def assemble(
    loaded: LoadedModel,
    size: CacheSize,
    parts: Parts | None = None,
    mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS,
    quantization: str = "none",
) -> BuiltRunner:
    """Put a runner together around a model that is already in memory, which it takes over.

    ``parts``: the fastest that this machine can do unless something else is asked for.
    ``quantization``: none, int8 or int4. Raises ModelLoadError when memory is short, or when the
    weights cannot be quantized.
    """
    parts = parts or Parts()
    threads = torch.get_num_threads()
    packing = _packing(loaded, parts, quantization)
    # With packed weights everything else is float32: it is what CPUs compute fastest.
    dtype = loaded.dtype if packing is None else torch.float32
    backend = _backend(loaded, size.block_size, packing, dtype)
    num_blocks = kv_cache.count_blocks(loaded.layers, size, dtype, loaded.device)
    cache = kv_cache.allocate(backend, loaded.layers, num_blocks, size.block_size, (dtype, loaded.device))
    attention = PagedAttention(backend, loaded.layers, loaded.layer_index, cache)
    network = _network(loaded, attention, packing, parts)
    sampler = Sampler(loaded.vocab_size, loaded.eos_token_ids, mode)
    runner = ModelRunner(network, attention, sampler, loaded.vocab_size, loaded.device)
    log.info(
        "engine built",
        extra={
            "attention": backend.name,
            "layers": type(network).__name__,
            "weights": packing.layers.name.lower() if packing is not None else str(dtype).removeprefix("torch."),
            "instructions": packing.kernels.isa if packing is not None else "-",
            "kv_blocks": num_blocks,
            "kv_tokens": num_blocks * size.block_size,
            "kv_mib": cache.num_bytes >> 20,
            "threads": threads,
        },
    )
    return BuiltRunner(runner, loaded, num_blocks)


def _packing(loaded: LoadedModel, parts: Parts, quantization: str) -> Packing | None:
    """How the kernels keep the weights; None where they cannot, and torch's own operators do the work."""
    problem = None
    if loaded.device.type != "cpu":
        problem = "it is for CPUs; on CUDA, load a checkpoint that is quantized already"
    elif loaded.is_quantized:
        problem = "the checkpoint is quantized already"
    elif loaded.dtype not in PLAIN or any(each.ndim > 2 for each in loaded.model.parameters()):
        # Experts in one tensor, convolutions: what computes with them wants them as they are.
        problem = "not all of the model's weights are plain matrices"
    found = kernels() if parts.native and (problem is None or _is_float32_on_cpu(loaded)) else None
    if problem is None and found is None:
        problem = "the compiled kernels are missing; install Headrace where there is a C compiler"
    if quantization != "none" and problem is not None:
        raise ModelLoadError(f"quantization {quantization} cannot be done: {problem}")
    return Packing.of(loaded.dtype, quantization, found, torch.get_num_threads()) if found is not None else None


def _is_float32_on_cpu(loaded: LoadedModel) -> bool:
    return loaded.device.type == "cpu" and loaded.dtype is torch.float32


def _backend(loaded: LoadedModel, block_size: int, packing: Packing | None, dtype: torch.dtype) -> AttentionBackend:
    """One back-end for all layers: the native one when it can do every one of them."""
    if packing is not None:
        native = NativeAttention(packing.kernels, packing.threads)
        if all(native.supports(layer, block_size, dtype, loaded.device) for layer in loaded.layers):
            return native
    return PagedSdpa()


def _network(loaded: LoadedModel, attention: PagedAttention, packing: Packing | None, parts: Parts) -> Network:
    if packing is not None and parts.lean and attention.backend.name == NativeAttention.name:
        decoder = take_apart(loaded.model, loaded.config)
        if decoder is not None and can_be_lean(decoder, loaded.layers):
            return LeanNetwork(loaded.model, decoder, attention, packing)
    if parts.packed and packing is not None:
        pack_linears(loaded.model, packing)
    elif parts.packed and _is_float32_on_cpu(loaded):
        reorder_linears(loaded.model)
    return TransformersNetwork(loaded.model, attention)
