"""Options of other servers that mean nothing here, or nothing yet: none of them is passed over in silence.

Whoever moves to Headrace brings a command line along. Each of its options is either one of ``flags``, or one of these,
which a command refuses with the reason. A value that asks for nothing is accepted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ForeignFlag:
    """``--name``, why it is not honoured, and what to use instead."""

    name: str
    why: str
    off: tuple[str, ...] = ()
    """Values that ask for nothing but what is done anyway."""
    is_switch: bool = False
    """Takes no value."""
    harmless: bool = False
    """Changes how another server works inside, nothing that clients see: accepted, and said to have no effect."""

    def refusal(self, value: str) -> str | None:
        """The line that ends the command; None when ``value`` asks for nothing."""
        if self.harmless or value.lower() in self.off:
            return None
        # Nobody types a long JSON text to read it again.
        shown = f" {value}" if self.off and 0 < len(value) <= 40 else ""
        return f"--{self.name}{shown}: {self.why}"

    @property
    def warning(self) -> str | None:
        return f"--{self.name} has no effect: {self.why}" if self.harmless and self.why else None


def _refused(why: str, *names: str, off: Iterable[str] = ()) -> list[ForeignFlag]:
    return [ForeignFlag(name, why, tuple(off)) for name in names]


def _switches(why: str, *names: str) -> list[ForeignFlag]:
    return [ForeignFlag(name, why, is_switch=True) for name in names]


def _harmless(why: str, *names: str) -> list[ForeignFlag]:
    return [ForeignFlag(name, why, is_switch=True, harmless=True) for name in names]


_NO_ADAPTERS = "adapters are not supported yet; merge the adapter into the model's weights"
_NO_SOFT_PROMPTS = "soft prompts are not supported"
_NO_MEDIA = "only text is served yet"
_EXACT = "a guess counts when it is what would have been drawn, so that it changes no answer"
_NO_STAGES = "a model is split inside its layers, with --tensor-parallel-size, and not into groups of layers"
_MORE_WORKERS = "start further workers on the same --redis: they share its requests, and each may be lost"
_NO_EXPERT_SPLIT = "--tensor-parallel-size splits each expert, and leaves none of them whole to one process"
_LOCAL_PROCESSES = "the processes of --tensor-parallel-size are a worker's own children, on its machine"
_TOKENIZERS = "templates and tokenizers run in threads of the API node; use --tokenizer-threads"
_NOT_COMPILED = (
    "models are not compiled: Python stands between their layers, where attention is; --enforce-eager switches off "
    "what there is, CUDA graphs"
)
_NO_PLUGINS = "the engine's parts cannot be replaced from outside"
_ALWAYS_CHUNKED = "long prompts are always computed in chunks; --max-num-batched-tokens is their size"
_QUEUE_ORDER = "requests are ordered by the queue; see --scheduling-policy and --priority-aging"
_HTTPTOOLS = "HTTP is parsed by httptools, which bounds headers by itself; --max-body-bytes bounds bodies"

FOREIGN_FLAGS: tuple[ForeignFlag, ...] = (
    # HTTP front end
    *_harmless("HTTP front end and engine are always processes of their own", "disable-frontend-multiprocessing"),
    *_harmless("the log has the stack of every failure of the server", "log-error-stack"),
    *_refused(_HTTPTOOLS, "h11-max-incomplete-event-size", "h11-max-header-count"),
    *_switches("start headrace worker instead, which has no HTTP", "headless"),
    *_refused("system_fingerprint is always the digest of the model's card", "fingerprint-mode", "fingerprint-value"),
    *_refused("buckets of histograms are fixed", "custom-histogram-buckets"),
    *_switches("the cache's figures are always in GET /metrics", "kv-cache-metrics"),
    *_refused("a worker that hangs loses its lease, and its requests go to others; see --lease-ms", "watchdog-config"),
    *_switches(_NO_MEDIA, "trust-request-mm-kwargs"),
    *_refused(_NO_MEDIA, "allowed-local-media-path", "allowed-media-domains"),
    # Model and tokenizer
    *_refused("only models that generate text are served yet", "task", "runner", off=["auto", "generate"]),
    *_refused("models are served as what they are", "convert", off=["auto", "none"]),
    *_refused("only fast tokenizers, those with a tokenizer.json, are served", "tokenizer-mode", off=["auto", "hf"]),
    *_switches(
        "stop strings and streamed text need the tokenizer; prompts may be token ids all the same, and "
        "return_token_ids shows those of answers",
        "skip-tokenizer-init",
    ),
    *_refused("only configurations in Hugging Face's form can be read", "config-format", off=["auto", "hf"]),
    *_refused("models run on transformers' code", "model-impl", off=["auto", "transformers"]),
    *_refused("the loader has no further options", "model-loader-extra-config", off=["{}"]),
    *_refused("only files that are needed are downloaded", "ignore-patterns", off=["[]"]),
    *_refused(
        "the processes of --tensor-parallel-size load their parts at the same time",
        "max-parallel-loading-workers",
        off=["1"],
    ),
    *_refused("there is no support for Neuron devices", "override-neuron-config", off=["{}"]),
    *_refused("only models that generate text are served yet", "override-pooler-config", "pooler-config", off=["{}"]),
    # Cache, scheduler, engine
    *_refused("cached blocks are always named by BLAKE2 digests", "prefix-caching-hash-algo"),
    *_harmless(
        "a KV cache of int8 or fp8 always has a scale for each token and head, from what it holds",
        "calculate-kv-scales",
    ),
    *_refused("use --kv-cache-memory SIZE", "kv-cache-memory-bytes"),
    *_harmless(_ALWAYS_CHUNKED, "enable-chunked-prefill"),
    *_switches(_ALWAYS_CHUNKED, "no-enable-chunked-prefill"),
    *_refused(_QUEUE_ORDER, "scheduler-cls"),
    *_refused("a request is never held back for others", "scheduler-delay-factor", off=["0", "0.0"]),
    *_refused("tokens are sent on after every step", "num-scheduler-steps", off=["1"]),
    *_harmless("tokens are sent on after every step", "multi-step-stream-outputs"),
    *_refused("guesses get their places as they are made; leave it out", "num-lookahead-slots", off=["0"]),
    *_harmless("there is only one block manager", "use-v2-block-manager"),
    *_switches("a model's sliding window is always kept to", "disable-sliding-window"),
    *_harmless("answers are always processed beside the next step", "disable-async-output-proc"),
    *_harmless("there is no such kernel", "disable-cascade-attn"),
    *_refused("what is recorded serves sequences of any length; see --enforce-eager", "max-seq-len-to-capture"),
    *_refused(_NOT_COMPILED, "compilation-config", off=["0", "{}"]),
    *_refused(
        "every request has a seed of its own, so that it can be repeated on any worker; send the field seed", "seed"
    ),
    *_switches("a worker that shall sleep is stopped, and started again", "enable-sleep-mode"),
    *_refused("prompts and answers are computed by the same worker", "kv-transfer-config"),
    *_refused(_NO_PLUGINS, "additional-config", "worker-extension-cls", off=["{}"]),
    *_refused(_NO_PLUGINS, "worker-cls", off=["auto"]),
    # Parallel and distributed
    *_refused(_NO_STAGES, "pipeline-parallel-size", off=["1"]),
    *_refused(_MORE_WORKERS, "data-parallel-size", off=["1"]),
    *_switches(_NO_EXPERT_SPLIT, "enable-expert-parallel"),
    *_refused(_LOCAL_PROCESSES, "distributed-executor-backend", off=["uni", "mp"]),
    *_harmless("there is none: sums over processes are torch's", "disable-custom-all-reduce"),
    *_switches("there is no Ray", "ray-workers-use-nsight"),
    *_refused(_TOKENIZERS, "tokenizer-pool-size", off=["0"]),
    *_refused(_TOKENIZERS, "tokenizer-pool-type", "tokenizer-pool-extra-config", "renderer-num-workers"),
    # Adapters
    *_switches(_NO_ADAPTERS, "enable-lora", "fully-sharded-loras", "enable-lora-bias"),
    *_refused(_NO_ADAPTERS, "lora-modules", "max-loras", "max-lora-rank", "lora-dtype", "max-cpu-loras"),
    *_refused(_NO_ADAPTERS, "lora-extra-vocab-size", "long-lora-scaling-factors", "qlora-adapter-name-or-path"),
    *_switches(_NO_SOFT_PROMPTS, "enable-prompt-adapter"),
    *_refused(_NO_SOFT_PROMPTS, "prompt-adapters", "max-prompt-adapters", "max-prompt-adapter-token"),
    # Images, sound, video
    *_refused(_NO_MEDIA, "limit-mm-per-prompt", "mm-processor-kwargs", off=["{}"]),
    *_switches(_NO_MEDIA, "disable-mm-preprocessor-cache"),
    # Speculative decoding
    *_refused(
        "a draft model is quantized as the large one is, by --quantization",
        "speculative-model-quantization",
        off=["none"],
    ),
    *_refused("a draft model is kept whole", "speculative-draft-tensor-parallel-size", off=["1"]),
    *_refused(_EXACT, "spec-decoding-acceptance-method", off=["rejection_sampler"]),
    *_refused(_EXACT, "typical-acceptance-sampler-posterior-threshold", "typical-acceptance-sampler-posterior-alpha"),
    *_harmless("guesses are always computed together", "speculative-disable-mqa-scorer"),
    *_switches("logprobs are told of every token", "disable-logprobs-during-spec-decoding"),
    # Tools
    *_refused("processors are named by requests; see --logits-processor-pattern", "logits-processors"),
    *_refused("calls of strict tools always follow their schemas", "tool-strict-level"),
    # Observability
    *_refused("no metrics are hidden", "show-hidden-metrics-for-version"),
)
"""By topics. Whoever builds one of them moves it to ``flags``."""

BY_NAME: Mapping[str, ForeignFlag] = {flag.name: flag for flag in FOREIGN_FLAGS}
SHORT: Mapping[str, str] = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
    "-q": "quantization",
    "-O": "compilation-config",
    "-spec-draft-tp": "speculative-draft-tensor-parallel-size",
}


def foreign_flag(name: str) -> ForeignFlag | None:
    """The one with that long name; ``no-`` in front of a switch asks for nothing, so it is no refusal."""
    if (found := BY_NAME.get(name)) is not None:
        return found
    switch = BY_NAME.get(name.removeprefix("no-"))
    if switch is None or not switch.is_switch or name == switch.name:
        return None
    return ForeignFlag(name, "", is_switch=True, harmless=True)
