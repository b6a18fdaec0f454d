"""build_runner(): from where a model is to a runner that can be given plans."""

import logging
from dataclasses import dataclass
from typing import Protocol

import torch

from headrace_worker.execute import kv_cache
from headrace_worker.execute.attention.backend import AttentionBackend
from headrace_worker.execute.attention.cache_kind import CacheFormat, CacheKind
from headrace_worker.execute.attention.choose import choose
from headrace_worker.execute.attention.native import NativeAttention
from headrace_worker.execute.draft_model import DraftModel, load_draft
from headrace_worker.execute.host_blocks import HostBlocks
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.execute.lean import LeanNetwork, can_be_lean
from headrace_worker.execute.linear import pack_linears, reorder_linears
from headrace_worker.execute.logits.logprobs import LogprobsMode
from headrace_worker.execute.native.library import kernels
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.execute.recorded import CudaGraphs, RecordedDecodes, RecordingLimits
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
    cache_kind: CacheKind
    draft: DraftModel | None = None
    swap_blocks: int = 0


class Peers(Protocol):
    """The other processes that hold parts of the same model, each with the same blocks of its own K/V cache."""

    def agree(self, num_blocks: int) -> int:
        """As many blocks as all of them have memory for."""

    def lead(self, network: Network, attention: PagedAttention) -> Network:
        """``network`` with the others following each of its steps, and each copy of ``attention``'s blocks."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Which of the faster parts may be used; for tests and benchmarks, which want each path by itself."""

    native: bool = True
    packed: bool = True
    lean: bool = True
    attention: str = "auto"
    """As the setting ``attention_backend``."""
    recorded_rows: int = 0
    """On CUDA, the largest batch of decodes that is recorded."""


def build_runner(settings: WorkerSettings) -> BuiltRunner:
    """Load the model that the settings name, and everything around it.

    Raises ModelLoadError or ModelNotSupportedError with one line for the person who started us.
    """
    torch.set_num_threads(settings.threads or usable_cores())
    source = model_source(settings)
    loaded = load_model(source)
    size = cache_size(settings, settings.max_num_seqs * loaded.max_model_len)
    draft = draft_for(settings, source, loaded)
    return assemble(loaded, size, parts_for(settings), LogprobsMode(settings.logprobs_mode), draft)


def parts_for(settings: WorkerSettings) -> Parts:
    # Offloaded weights are copied in each step, which leaves nothing to win.
    eager = settings.enforce_eager or settings.cpu_offload_gb > 0
    return Parts(attention=settings.attention_backend, recorded_rows=0 if eager else settings.max_num_seqs)


def model_source(settings: WorkerSettings) -> ModelSource:
    return ModelSource(
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
        tensor_parallel_size=settings.tensor_parallel_size,
        quantization=settings.quantization,
        cpu_offload_bytes=int(settings.cpu_offload_gb * (1 << 30)),
    )


def cache_size(settings: WorkerSettings, most_tokens: int | None = None) -> CacheSize:
    return CacheSize(
        block_size=settings.block_size,
        memory_bytes=settings.kv_cache_memory,
        utilization=settings.gpu_memory_utilization,
        most_tokens=most_tokens,
        blocks=settings.num_gpu_blocks_override,
        sharers=settings.tensor_parallel_size,
        format=CacheFormat.named(settings.kv_cache_dtype),
        swap_bytes=int(settings.swap_space * (1 << 30)),
    )


def draft_for(settings: WorkerSettings, source: ModelSource, loaded: LoadedModel) -> LoadedModel | None:
    """The draft model that the settings name for ``loaded``, if they name one. Raises ModelLoadError."""
    speculation = settings.speculation
    return load_draft(source, speculation, loaded) if speculation is not None and speculation.model else None


def assemble(
    loaded: LoadedModel,
    size: CacheSize,
    parts: Parts | None = None,
    mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS,
    draft: LoadedModel | None = None,
    peers: Peers | None = None,
) -> BuiltRunner:
    """Put a runner together around models that are already in memory, which it takes over.

    ``parts``: the fastest that this machine can do unless something else is asked for. ``peers``: who holds the rest of
    the model, when it is a part of one. Raises ModelLoadError when memory is short, or when the weights cannot be
    quantized as they were to be.
    """
    parts = parts or Parts()
    layers = loaded.layers + (draft.layers if draft is not None else [])
    kind = cache_kind(loaded, size, parts)
    num_blocks = kv_cache.count_blocks(layers, size, kind)
    swap_blocks = kv_cache.count_swap_blocks(loaded.layers, size, kind)
    if peers is not None:
        num_blocks = peers.agree(num_blocks)
    recorded_rows = parts.recorded_rows if loaded.device.type == "cuda" and peers is None else 0
    spare_blocks = min(recorded_rows, 1)
    network, attention = paged(loaded, num_blocks, size, parts, swap_blocks, spare_blocks)
    if peers is not None:
        network = peers.lead(network, attention)
    elif recorded_rows:
        most_blocks = min(-(-loaded.max_model_len // size.block_size), num_blocks)
        limits = RecordingLimits(recorded_rows, most_blocks, spare_block=num_blocks)
        network = _recorded(network, attention, limits, loaded.device)
    sampler = Sampler(loaded.vocab_size, loaded.eos_token_ids, mode)
    runner = ModelRunner(network, attention, sampler, loaded.vocab_size, loaded.device)
    guesser = None
    if draft is not None:
        guesses = Sampler(loaded.vocab_size, loaded.eos_token_ids, guesses=True)
        guesser = DraftModel(*paged(draft, num_blocks, size, parts), guesses, draft)
    return BuiltRunner(runner, loaded, num_blocks, kind, guesser, swap_blocks)


def cache_kind(loaded: LoadedModel, size: CacheSize, parts: Parts) -> CacheKind:
    """What the cache of a model holds. Raises ModelLoadError for a format that its device does not have."""
    if size.format is not CacheFormat.PLAIN and loaded.device.type != "cpu":
        raise ModelLoadError(
            f"kv_cache_dtype {size.format.name.lower()} cannot be done: it is for CPUs; on {loaded.device.type}, "
            "leave it at auto, the precision of the model"
        )
    return CacheKind(_computes_in(loaded, _packing(loaded, parts)), loaded.device, size.format)


def paged(
    loaded: LoadedModel,
    num_blocks: int,
    size: CacheSize,
    parts: Parts,
    swap_blocks: int = 0,
    spare_blocks: int = 0,
) -> tuple[Network, PagedAttention]:
    """A model around a K/V cache of its own, with ``spare_blocks`` behind its blocks, all of this ``size``.

    Raises ModelLoadError.
    """
    packing = _packing(loaded, parts)
    kind = cache_kind(loaded, size, parts)
    backend = _backend(loaded, size.block_size, packing, kind, parts.attention)
    cache = kv_cache.allocate(backend, loaded.layers, num_blocks + spare_blocks, size.block_size, kind)
    if swap_blocks:
        cache.host = HostBlocks(cache.layers, swap_blocks)
    attention = PagedAttention(backend, loaded.layers, loaded.layer_index, cache)
    network = _network(loaded, attention, packing, parts)
    log.info(
        "engine built",
        extra={
            "attention": backend.name,
            "layers": type(network).__name__,
            "weights": packing.layers.name.lower() if packing is not None else str(kind.dtype).removeprefix("torch."),
            "instructions": packing.kernels.isa if packing is not None else "-",
            "kv_dtype": kind.name,
            "kv_blocks": num_blocks,
            "kv_tokens": num_blocks * size.block_size,
            "kv_mib": cache.num_bytes >> 20,
            "swap_blocks": swap_blocks,
            "threads": torch.get_num_threads(),
        },
    )
    return network, attention


def _packing(loaded: LoadedModel, parts: Parts) -> Packing | None:
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
    if loaded.quantization != "none" and problem is not None:
        raise ModelLoadError(f"quantization {loaded.quantization} cannot be done: {problem}")
    return Packing.of(loaded.dtype, loaded.quantization, found, torch.get_num_threads()) if found is not None else None


def _computes_in(loaded: LoadedModel, packing: Packing | None) -> torch.dtype:
    """Beside packed weights everything is float32: it is what CPUs compute fastest."""
    return loaded.dtype if packing is None else torch.float32


def _is_float32_on_cpu(loaded: LoadedModel) -> bool:
    return loaded.device.type == "cpu" and loaded.dtype is torch.float32


def _backend(
    loaded: LoadedModel, block_size: int, packing: Packing | None, kind: CacheKind, wanted: str
) -> AttentionBackend:
    """One back-end for all layers: the native one when it can do every one of them."""
    if packing is not None and wanted == "auto":
        native = NativeAttention(packing.kernels, packing.threads)
        if all(native.supports(layer, block_size, kind) for layer in loaded.layers):
            return native
    return choose(wanted, loaded.layers, block_size, kind)


def _recorded(network: Network, attention: PagedAttention, limits: RecordingLimits, device: torch.device) -> Network:
    if not attention.backend.recordable:
        log.info("decode steps are not recorded: this attention back-end decides on the host what it does")
        return network
    recorded = RecordedDecodes(network, attention, limits, device)
    recorded.record(CudaGraphs())
    return recorded


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
