"""build_engine: the engine that the settings ask for; only the one asked for is imported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

import msgspec

from headrace_shared.errors import HeadraceError
from headrace_shared.protocol.grammar import GrammarBackend
from headrace_shared.protocol.sampling import ProcessorCall
from headrace_shared.text.tokenizer import Tokenizer
from headrace_worker.engine.generate import GenerateEngine, Runner
from headrace_worker.models.files import ModelFiles
from headrace_worker.schedule.prefill_shares import PrefillLimits
from headrace_worker.schedule.request import RowProcessor
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits
from headrace_worker.schedule.speculation.speculation import Speculation
from headrace_worker.schedule.step_pace import PaceLimits
from headrace_worker.settings import WorkerSettings

if TYPE_CHECKING:
    from headrace_worker.execute.build import BuiltRunner
    from headrace_worker.execute.grammar.compiler import GrammarCompiler

_LONG_SHARE = 0.04
"""Of the context length: what makes a prompt long where nothing is said and prompts share steps, as in vLLM."""


class EngineSetupError(HeadraceError):
    """The settings, the model or the machine do not allow an engine to be built; the message is for the operator."""


@dataclass(frozen=True)
class EngineSetup:
    """An engine, and what the rest of the worker must know of its model."""

    engine: GenerateEngine
    limits: SchedulerLimits
    files: ModelFiles
    architecture: str
    dtype: str
    """What the weights are kept in."""
    cache_dtype: str
    vocab_size: int
    eos_token_ids: frozenset[int]
    grammars: "Callable[[Tokenizer], GrammarCompiler] | None" = None
    """Makes the compiler of grammars for the model's tokenizer; None: the engine cannot constrain its answers."""
    processors: "Callable[[Sequence[ProcessorCall]], Sequence[RowProcessor]] | None" = None
    """Imports logits processors; None: the engine has no logits."""


def build_engine(settings: WorkerSettings) -> EngineSetup:
    """Load the model and wire scheduler and runner. Takes seconds to minutes.

    Raises EngineSetupError with one line for the operator.
    """
    if settings.engine == "simulated":
        return _build_simulated(settings)
    return _build_torch(settings)


def _build_simulated(settings: WorkerSettings) -> EngineSetup:
    from headrace_worker.engine import simulate

    max_model_len = min(settings.max_model_len or simulate.MAX_MODEL_LEN, simulate.MAX_MODEL_LEN)
    blocks_per_sequence = -(-max_model_len // settings.block_size)
    num_blocks = settings.num_gpu_blocks_override or blocks_per_sequence * min(settings.max_num_seqs, 64)
    limits = _limits(settings, max_model_len, num_blocks)
    eos = frozenset({simulate.EOS_ID})
    return EngineSetup(
        engine=_engine(limits, eos, simulate.SimulatedRunner(settings.simulated_step_ms)),
        limits=limits,
        files=_with_own_defaults(simulate.simulated_files(), settings),
        architecture="simulated",
        dtype="none",
        cache_dtype="none",
        vocab_size=simulate.VOCAB_SIZE,
        eos_token_ids=eos,
    )


def _build_torch(settings: WorkerSettings) -> EngineSetup:
    from headrace_worker.engine.speculate import build_speculation
    from headrace_worker.execute.grammar.compiler import GrammarCompiler
    from headrace_worker.execute.grammar.installed import how_to_install, is_installed
    from headrace_worker.execute.grammar.vocabulary import Vocabulary
    from headrace_worker.execute.logits.own import ProcessorLoader
    from headrace_worker.models.errors import ModelLoadError
    from headrace_worker.models.tokenizer import load_files

    backend = GrammarBackend(settings.grammar_backend)
    if not is_installed(backend):
        raise EngineSetupError(f"guided_decoding_backend: {how_to_install(backend)}")
    try:
        built = _runner(settings)
        files = load_files(settings)
    except ModelLoadError as error:
        raise EngineSetupError(str(error)) from error
    if settings.traces_model:
        built.runner.time_forward()
    model = built.model
    config = settings.speculation
    speculation = build_speculation(config, built) if config is not None else None
    limits = _limits(settings, model.max_model_len, built.num_blocks, built.swap_blocks)
    return EngineSetup(
        engine=_engine(limits, model.eos_token_ids, built.runner, speculation),
        limits=limits,
        files=_with_own_defaults(files, settings),
        architecture=type(model.model).__name__,
        dtype=str(model.dtype).removeprefix("torch.") if settings.quantization == "none" else settings.quantization,
        cache_dtype=built.cache_kind.name,
        vocab_size=model.vocab_size,
        eos_token_ids=model.eos_token_ids,
        processors=ProcessorLoader(settings.logits_processor_pattern).load,
        grammars=lambda tokenizer: GrammarCompiler(
            lambda: Vocabulary.of(tokenizer, model.vocab_size, model.eos_token_ids)
        ),
    )


def _runner(settings: WorkerSettings) -> "BuiltRunner":
    from headrace_worker.execute.build import build_runner

    if settings.tensor_parallel_size == 1:
        return build_runner(settings)
    from headrace_worker.execute.parallel.leader import build_parallel_runner

    return build_parallel_runner(settings)[0]


def _with_own_defaults(files: ModelFiles, settings: WorkerSettings) -> ModelFiles:
    asked = settings.override_generation_config.model_dump(exclude_none=True)
    if "max_new_tokens" in asked:
        asked["max_tokens"] = asked.pop("max_new_tokens")
    return replace(files, defaults=msgspec.structs.replace(files.defaults, **asked))


def _limits(settings: WorkerSettings, max_model_len: int, num_blocks: int, swap_blocks: int = 0) -> SchedulerLimits:
    long_tokens = settings.long_prefill_token_threshold
    if not long_tokens and settings.max_num_partial_prefills > 1:
        long_tokens = max(1, int(max_model_len * _LONG_SHARE))
    try:
        return SchedulerLimits(
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            max_model_len=min(max_model_len, num_blocks * settings.block_size),
            block_size=settings.block_size,
            num_blocks=num_blocks,
            enable_prefix_caching=settings.enable_prefix_caching,
            pace=PaceLimits(settings.target_step_ms / 1000 or inf, settings.interactive_itl_slack),
            prefills=PrefillLimits(settings.max_num_partial_prefills, settings.max_long_partial_prefills, long_tokens),
            swap_blocks=swap_blocks,
        )
    except ValueError as error:
        raise EngineSetupError(str(error)) from error


def _engine(
    limits: SchedulerLimits, eos_token_ids: frozenset[int], runner: Runner, speculation: Speculation | None = None
) -> GenerateEngine:
    return GenerateEngine(Scheduler(limits, eos_token_ids=eos_token_ids, speculation=speculation), runner)
