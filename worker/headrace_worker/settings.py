"""WorkerSettings: everything that can be said to a worker, by environment (``HEADRACE_WORKER_*``) or the command line."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from headrace_worker.cpus import cpu_list
from headrace_worker.speculative_config import SpeculativeConfig, speculative_config

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def _bytes_from_text(value: object) -> object:
    """``2GiB`` -> 2 * 1024**3, ``500MB`` -> 500 * 1000**2; plain numbers are bytes."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be a size like 2GiB, 500MB or a number of bytes")
    unit = (match[2] or "").upper()
    base = 1024 if "I" in unit else 1000
    return int(float(match[1]) * base ** _POWERS[unit.rstrip("B").rstrip("I")])


def _names_from_text(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _tokens_from_text(value: object) -> object:
    """``32k`` -> 32000, ``32K`` -> 32768, ``auto`` and ``-1`` -> None: as long as the model was made for."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in ("auto", "-1"):
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text)
    if match is None:
        raise ValueError("must be a number of tokens like 32768, 32K or 32k, or auto")
    tokens = float(match[1]) * {"": 1, "k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}[match[2]]
    if not tokens.is_integer():
        raise ValueError("must be a whole number of tokens")
    return int(tokens)


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError(f"must be auto, cpu, cuda or cuda:N; there is no support for {value[:40]!r}")
    return value


def _cpus(value: str | None) -> str | None:
    if value is not None and value != "auto":
        cpu_list(value)
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _regular_expression(value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return value


Bytes = Annotated[int, BeforeValidator(_bytes_from_text)]
Names = Annotated[list[str], NoDecode, BeforeValidator(_names_from_text)]


_GrammarBackend = Literal["auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"]


class StructuredOutputsConfig(BaseModel):
    """vLLM's form of what constrains answers to a grammar."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: _GrammarBackend = "auto"


class SamplingDefaults(BaseModel):
    """For what a request leaves out; None: as the model's generation_config says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0)] = None
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None


class WorkerSettings(BaseSettings):
    """Settings of one worker process."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_WORKER_", frozen=True, extra="forbid")

    model: str = Field(description="Local directory, GGUF file or Hugging Face id of the model.")
    served_model_name: Names = Field(
        default=[],
        description="Names that clients use, comma separated; the first is the model's name, the rest aliases. Default: derived from MODEL.",
    )
    engine: Literal["torch", "simulated"] = Field(
        default="torch", description="`simulated` needs no model and no torch: deterministic tokens at a set pace."
    )
    simulated_step_ms: float = Field(
        default=5.0, ge=0, description="Duration of one step of the simulated engine, milliseconds."
    )
    tokenizer: str | None = Field(
        default=None, description="Directory or id to take the tokenizer from, when not the model's own."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a Hugging Face id.")
    tokenizer_revision: str | None = Field(
        default=None, description="Branch, tag or commit to take the tokenizer from; default: the model's."
    )
    trust_remote_code: bool = Field(default=False, description="Run Python code that a model repository brings along.")
    code_revision: str | None = Field(
        default=None, description="Branch, tag or commit of that code; default: the model's."
    )
    download_dir: str | None = Field(
        default=None, description="Folder that Hugging Face ids are downloaded to; default: the Hugging Face cache."
    )
    load_format: Literal["auto", "safetensors", "pt", "gguf", "dummy"] = Field(
        default="auto", description="Kind of weight files; `dummy` makes up random weights, equal in every worker."
    )
    use_tqdm_on_load: bool = Field(default=True, description="Show a progress bar while the weights are loaded.")
    hf_config_path: str | None = Field(
        default=None, description="Directory or id to take the model's configuration from, when not with the weights."
    )
    hf_overrides: dict[str, Any] = Field(
        default={}, description="What the model's configuration is to say instead, as a JSON object."
    )
    rope_scaling: dict[str, Any] | None = Field(
        default=None, description="Rotary embedding's scaling as a JSON object, instead of the model's own."
    )
    rope_theta: float | None = Field(
        default=None, gt=0, description="Rotary embedding's base, instead of the model's own."
    )
    dtype: Literal["auto", "float32", "float", "float16", "half", "bfloat16"] = Field(
        default="auto",
        description="Precision of the weights; `auto` is float32 on a CPU and the checkpoint's own elsewhere. A CPU computes in float32 with weights of any precision.",
    )
    quantization: Literal["none", "int8", "int4"] = Field(
        default="none",
        description="Quantize the weights as they are loaded, on a CPU: `int8` (8.5 bits a weight) or `int4` (5 bits).",
    )
    kv_cache_dtype: Literal["auto", "int8", "fp8", "fp8_e4m3"] = Field(
        default="auto",
        description="Precision of the KV cache: `auto` (what the layers compute in), or on a CPU `int8` or `fp8` (`fp8_e4m3`), a byte a number with a scale for each token and head.",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto", description="`auto`, `cpu`, `cuda` or `cuda:N`."
    )
    attention_backend: Annotated[
        Literal["auto", "flashinfer", "flash_attn", "triton_attn", "torch_sdpa"], BeforeValidator(_lower)
    ] = Field(
        default="auto",
        description="Which kernels compute attention, by vLLM's names; `auto`: on CUDA the first of flashinfer, flash_attn (if installed) and triton_attn that works there, else torch_sdpa; on a CPU the compiled ones where they fit.",
    )
    enforce_eager: bool = Field(
        default=False,
        description="Do without CUDA graphs, in which decode steps are recorded otherwise; on a CPU there are none.",
    )
    cpu_offload_gb: float = Field(
        default=0.0,
        ge=0,
        description="Weights that stay in the host's memory and are copied to a CUDA device as each layer computes, GiB; the first layers, and no CUDA graphs then.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="Compute threads on a CPU; 0: one per core this process may use, shared out among the processes of tensor_parallel_size.",
    )
    cpu_affinity: Annotated[str | None, AfterValidator(_cpus)] = Field(
        default=None,
        description="CPUs that this process and all its threads run on, like `0-3,8`; `auto`: those of the NUMA node that has most of them. Default: all that there are.",
    )
    tensor_parallel_size: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that the model's weights and KV heads are split over, on the devices of this machine; each has `threads` and `kv_cache_memory` of its own.",
    )
    max_model_len: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_tokens_from_text)] = Field(
        default=None, description="Context length limit, tokens, like 32768, 32K or 32k; default: the model's own."
    )
    block_size: int = Field(default=16, ge=1, le=256, description="Tokens per KV block.")
    kv_cache_memory: Bytes | None = Field(
        default=None, ge=1, description="Memory for the KV cache, like 2GiB; default: by gpu_memory_utilization."
    )
    gpu_memory_utilization: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of the device's memory for weights and KV cache together; on a CPU, half of this share of the free memory, at most 4 GiB, goes to the KV cache.",
    )
    max_num_seqs: int = Field(default=64, ge=1, description="Sequences computed at once.")
    max_num_batched_tokens: int = Field(
        default=512, ge=1, description="Tokens computed in one step, prefill chunks and decodes together."
    )
    target_step_ms: float = Field(
        default=0.0,
        ge=0,
        description="How long a step may take in which prompts are computed beside sequences that decode: it gets as much of the prompts as fits, by what steps have taken so far, milliseconds; 0: as much as max_num_batched_tokens allows.",
    )
    interactive_itl_slack: float = Field(
        default=1.5,
        ge=1,
        description="How much longer a step may take with background requests in it than without them, as a factor; 1: they run only when nobody else does.",
    )
    max_num_partial_prefills: int = Field(
        default=1, ge=1, description="Prompts that share a step's tokens evenly; 1: one prompt after the other."
    )
    max_long_partial_prefills: int = Field(
        default=1,
        ge=1,
        description="How many long prompts are computed in one step; shorter ones pass those beyond. At most max_num_partial_prefills.",
    )
    long_prefill_token_threshold: int = Field(
        default=0,
        ge=0,
        description="More tokens than these make a prompt a long one; 0: 4 % of the context length when max_num_partial_prefills is above 1, else no prompt is.",
    )
    num_gpu_blocks_override: int | None = Field(
        default=None, ge=1, description="KV blocks, on whatever device, instead of what fits into its memory."
    )
    preemption_mode: Literal["recompute", "swap"] | None = Field(
        default=None,
        description="What happens to the KV blocks of a sequence that has to make room: `recompute` computes them again, `swap` keeps a copy in swap_space; default: swap when there is swap_space, else recompute.",
    )
    swap_space: float = Field(
        default=0.0,
        ge=0,
        description="Memory of the host for such copies, GiB, for each process of tensor_parallel_size; 0: none. On a CPU more kv_cache_memory is the better use of it.",
    )
    enable_prefix_caching: bool = Field(default=True, description="Share the KV blocks of equal prompt beginnings.")
    chat_template: str | None = Field(default=None, description="Jinja chat template: a file, or the template itself.")
    chat_template_content_format: Literal["auto", "string", "openai"] = Field(
        default="auto", description="How the template wants message contents."
    )
    default_chat_template_kwargs: dict[str, Any] = Field(
        default={},
        description='Template variables for what requests leave out, as a JSON object: {"enable_thinking": false}.',
    )
    tool_call_parser: str = Field(
        default="auto",
        description="How the model writes calls of tools: `auto` (as its chat template suggests), `none`, or a parser's name.",
    )
    tool_parser_plugin: Path | None = Field(
        default=None, description="Python file of own tool parsers; API nodes need it as well."
    )
    enable_auto_tool_choice: bool | None = Field(
        default=None,
        description="Let the model decide whether to call tools; default: where its calls can be read. On, a worker that cannot read them does not start.",
    )
    exclude_tools_when_tool_choice_none: bool = Field(
        default=True, description="Leave tools out of the prompt while `tool_choice` is none."
    )
    reasoning_parser: str = Field(
        default="auto",
        description="How the model marks its thoughts: `auto` (as its chat template suggests), `none`, or a parser's name.",
    )
    enable_reasoning: bool | None = Field(
        default=None,
        description="Tell thoughts apart from answers; default: where they can be read. On, a worker that cannot read them does not start.",
    )
    reasoning_effort_map: dict[str, str] = Field(
        default={},
        description='What the chat template is told instead of a `reasoning_effort`, as a JSON object: {"xhigh": "high"}.',
    )
    trust_request_chat_template: bool = Field(default=False, description="Accept a chat_template from clients.")
    response_role: str = Field(default="assistant", description="Role of generated messages.")
    generation_config: Annotated[str, AfterValidator(lambda value: "none" if value == "vllm" else value)] = Field(
        default="auto",
        description="Where sampling defaults come from: `auto` (the model), `none` or `vllm` (fixed defaults) or a directory.",
    )
    override_generation_config: SamplingDefaults = Field(
        default=SamplingDefaults(),
        description='Sampling defaults that go before those, as a JSON object: {"temperature": 0.5}.',
    )
    guided_decoding_backend: _GrammarBackend = Field(
        default="auto",
        description="What constrains answers to a grammar; `auto`: xgrammar, and guidance for what xgrammar cannot do. outlines and lm-format-enforcer have to be installed, as the extras of these names.",
    )
    structured_outputs_config: StructuredOutputsConfig = Field(
        default=StructuredOutputsConfig(),
        description='The same by its newer name, as a JSON object: {"backend": "guidance"}.',
    )
    max_logprobs: int = Field(
        default=20, ge=-1, description="Most logprobs that a request may ask for; -1: the whole vocabulary."
    )
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"] = Field(
        default="raw_logprobs",
        description="What logprobs tell: log-probabilities or logits, as the model gives them or as tokens are drawn from them. Those of prompts are always raw log-probabilities.",
    )
    logits_processor_pattern: Annotated[str | None, AfterValidator(_regular_expression)] = Field(
        default=None,
        description="Regular expression for the whole import name of a logits processor that requests may use; default: none.",
    )
    speculative_config: dict[str, Any] = Field(
        default={},
        description='Guess tokens ahead and keep those that are right, as a JSON object with vLLM\'s names: {"method": "ngram", "num_speculative_tokens": 4}; methods: ngram, suffix, draft_model.',
    )
    spec_method: str | None = Field(default=None, description="`method` of speculative_config.")
    speculative_model: str | None = Field(
        default=None, description="`model` of speculative_config, the draft model; `[ngram]` for the method ngram."
    )
    num_speculative_tokens: int | None = Field(
        default=None, description="`num_speculative_tokens` of speculative_config: most tokens guessed at once."
    )
    ngram_prompt_lookup_max: int | None = Field(
        default=None, description="`prompt_lookup_max` of speculative_config: longest run of tokens that is looked up."
    )
    ngram_prompt_lookup_min: int | None = Field(
        default=None, description="`prompt_lookup_min` of speculative_config: shortest run that must be found."
    )
    speculative_disable_by_batch_size: int | None = Field(
        default=None,
        description="`disable_by_batch_size` of speculative_config: so many sequences and more are computed without guesses; default: as far as they pay.",
    )
    speculative_max_model_len: int | None = Field(
        default=None,
        description="`max_model_len` of speculative_config: longer sequences get no guesses of the draft model.",
    )
    lease_ms: int = Field(
        default=3000,
        ge=200,
        description="Silence after which other workers take over this worker's requests, milliseconds.",
    )
    drain: Literal["handover", "finish"] = Field(
        default="handover",
        description="What a signal to stop does with running requests: hand them over to other workers at once, or finish them first.",
    )
    drain_timeout_s: float = Field(
        default=300.0, ge=0, description="How long finishing may take; what still runs then is handed over, seconds."
    )
    orphan_grace_s: float = Field(
        default=10.0,
        gt=0,
        description="A request that no API node has listened to for that long is ended, unless it was sent to run on by itself, seconds.",
    )
    metrics_host: str = Field(default="127.0.0.1", description="Address that /metrics and /health listen on.")
    metrics_port: int = Field(
        default=0, ge=-1, le=65535, description="Port of /metrics and /health; 0 picks a free one, -1 opens none."
    )
    log_stats: bool = Field(
        default=True,
        description="A log line of statistics every 10 seconds while there is something to tell; without it vLLM's series are left out of /metrics too.",
    )
    collect_detailed_traces: Annotated[
        list[Literal["model", "worker", "all"]], NoDecode, BeforeValidator(_names_from_text)
    ] = Field(
        default=[],
        description="Times of the modules to put into traces, comma separated: model (its forward passes), worker (whole steps), all.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level of the log."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Log lines for people or for machines."
    )

    @model_validator(mode="after")
    def _check_ranks(self) -> Self:
        if self.tensor_parallel_size > 1:
            if self.engine == "simulated":
                raise ValueError("tensor_parallel_size: the simulated engine has no weights to split; leave it out")
            if self.quantization != "none":
                raise ValueError(
                    "tensor_parallel_size: splits plain weights, and quantization packs whole ones; leave one of them out"
                )
            if self.cpu_affinity == "auto":
                raise ValueError(
                    "cpu_affinity: auto would put all processes of tensor_parallel_size on one NUMA node; name the CPUs"
                )
            if self.cpu_offload_gb:
                raise ValueError(
                    "tensor_parallel_size: each process has its part of every layer on its device; leave cpu_offload_gb out"
                )
            if self.device.startswith("cuda:"):
                raise ValueError(
                    "tensor_parallel_size: takes the first devices that there are; say device cuda, and choose which "
                    "there are with CUDA_VISIBLE_DEVICES"
                )
        return self

    @model_validator(mode="after")
    def _check_swap(self) -> Self:
        """Raises ValueError."""
        if self.preemption_mode == "swap" and not self.swap_space:
            raise ValueError("preemption_mode: swap needs swap_space; say how many GiB")
        if self.preemption_mode == "recompute" and self.swap_space:
            raise ValueError("swap_space: preemption_mode recompute has no use for it; leave one of them out")
        if self.swap_space and self.engine == "simulated":
            raise ValueError("swap_space: the simulated engine has no KV cache to copy; leave it out")
        return self

    @model_validator(mode="after")
    def _check_speculation(self) -> Self:
        """Raises ValueError."""
        if self.speculation is not None and self.engine == "simulated":
            raise ValueError("speculative_config: the simulated engine has no use for guesses; leave it out")
        return self

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        if self.kv_cache_dtype != "auto" and self.engine == "simulated":
            raise ValueError("kv_cache_dtype: the simulated engine keeps no keys and values; leave it out")
        return self

    @model_validator(mode="after")
    def _one_grammar_backend(self) -> Self:
        if len({self.guided_decoding_backend, self.structured_outputs_config.backend, "auto"}) > 2:
            raise ValueError("guided_decoding_backend and structured_outputs_config name different backends")
        return self

    @property
    def speculation(self) -> SpeculativeConfig | None:
        """How tokens are guessed; None: not at all."""
        return speculative_config(self.speculative_config, self.__dict__)

    @property
    def grammar_backend(self) -> str:
        """What constrains answers, by whichever of its two names it was chosen."""
        chosen = self.guided_decoding_backend
        return self.structured_outputs_config.backend if chosen == "auto" else chosen

    @property
    def traces_model(self) -> bool:
        return bool({"model", "all"} & set(self.collect_detailed_traces))

    @property
    def traces_worker(self) -> bool:
        return bool({"worker", "all"} & set(self.collect_detailed_traces))

    @property
    def config_overrides(self) -> dict[str, Any]:
        """``hf_overrides``, and what has options of its own."""
        rope = {"rope_scaling": self.rope_scaling, "rope_theta": self.rope_theta}
        return {**self.hf_overrides, **{name: value for name, value in rope.items() if value is not None}}
