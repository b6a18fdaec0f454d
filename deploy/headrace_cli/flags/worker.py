"""Options of workers."""

from typing import Any, Literal

from headrace_cli.flag import Flag


def _worker(name: str, kind: Any, text: str, metavar: str | None = None, *also: str) -> Flag:
    variable = f"HEADRACE_WORKER_{name.replace('-', '_').upper()}"
    return Flag(name, kind, text, (variable,), metavar, also, is_json=metavar == "JSON")


WORKER_FLAGS = (
    _worker("model", str, "The same as MODEL.", "PATH|ID"),
    _worker(
        "served-model-name",
        list[str],
        "Name that clients use; several, or one with commas: the first is the model's name, the rest are aliases.",
        "NAME",
    ),
    _worker("dtype", Literal["auto", "float32", "float", "float16", "half", "bfloat16"], "Precision of the weights."),
    _worker("quantization", Literal["none", "int8", "int4"], "Quantize the weights as they are loaded, on a CPU."),
    _worker("max-model-len", str, "Context length limit, like 32768 or 32K (default: the model's own).", "TOKENS"),
    _worker("tokenizer", str, "Directory or id to take the tokenizer from.", "PATH|ID"),
    _worker("revision", str, "Branch, tag or commit of a Hugging Face id.", "NAME"),
    _worker("tokenizer-revision", str, "Branch, tag or commit to take the tokenizer from.", "NAME"),
    _worker("trust-remote-code", bool, "Run Python code that a model repository brings along."),
    _worker("code-revision", str, "Branch, tag or commit of that code.", "NAME"),
    _worker("download-dir", str, "Folder that Hugging Face ids are downloaded to.", "FOLDER"),
    _worker(
        "load-format",
        Literal["auto", "safetensors", "pt", "gguf", "dummy"],
        "Kind of weight files; dummy makes up random weights.",
    ),
    _worker("use-tqdm-on-load", bool, "Show a progress bar while the weights are loaded (default on)."),
    _worker("hf-config-path", str, "Directory or id to take the model's configuration from.", "PATH|ID"),
    _worker("hf-overrides", str, "What the model's configuration is to say instead, as a JSON object.", "JSON"),
    _worker("rope-scaling", str, "Rotary embedding's scaling, as a JSON object.", "JSON"),
    _worker("rope-theta", float, "Rotary embedding's base.", "NUMBER"),
    _worker(
        "generation-config",
        str,
        "Where sampling defaults come from: auto (the model), none or vllm (fixed ones), or a directory.",
        "PATH",
    ),
    _worker(
        "override-generation-config",
        str,
        'Sampling defaults that go before those, as a JSON object: {"temperature": 0.5}.',
        "JSON",
    ),
    _worker("chat-template", str, "Jinja chat template: a file, or the template itself.", "FILE|TEXT"),
    _worker(
        "chat-template-content-format", Literal["auto", "string", "openai"], "How the template wants message contents."
    ),
    _worker("trust-request-chat-template", bool, "Accept a chat_template from clients."),
    _worker(
        "default-chat-template-kwargs",
        str,
        'Template variables for what requests leave out, as a JSON object: {"enable_thinking": false}.',
        "JSON",
    ),
    _worker(
        "tool-call-parser",
        str,
        "How the model writes calls of tools, like hermes or llama3_json (default auto: as its template suggests).",
        "NAME",
    ),
    _worker(
        "enable-auto-tool-choice",
        bool,
        "Let the model decide whether to call tools (default: where its calls can be read).",
    ),
    _worker(
        "exclude-tools-when-tool-choice-none",
        bool,
        "Leave tools out of the prompt while tool_choice is none (default on).",
    ),
    _worker(
        "reasoning-parser",
        str,
        "How the model marks its thoughts, like deepseek_r1 or qwen3 (default auto: as its template suggests).",
        "NAME",
    ),
    _worker("enable-reasoning", bool, "Tell thoughts apart from answers (default: where they can be read)."),
    _worker(
        "reasoning-effort-map",
        str,
        'What the template is told instead of a reasoning_effort, as a JSON object: {"xhigh": "high"}.',
        "JSON",
    ),
    _worker("response-role", str, "Role of generated messages (default assistant).", "ROLE"),
    _worker(
        "guided-decoding-backend",
        Literal["auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"],
        "What constrains answers to a grammar: xgrammar, guidance, or whichever can (auto, the default); or one of the extras.",
    ),
    _worker(
        "structured-outputs-config",
        str,
        'The same by its newer name, as a JSON object: {"backend": "guidance"}.',
        "JSON",
    ),
    _worker("max-logprobs", int, "Most logprobs that a request may ask for (default 20); -1: all.", "N"),
    _worker(
        "logprobs-mode",
        Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"],
        "What logprobs tell (default raw_logprobs).",
    ),
    _worker(
        "logits-processor-pattern",
        str,
        "Logits processors that requests may name: a regular expression like my_package\\.processors\\.\\w+.",
        "REGEX",
    ),
    _worker(
        "speculative-config",
        str,
        'Guess tokens ahead, as a JSON object: {"method": "ngram", "num_speculative_tokens": 4}; or suffix, draft_model.',
        "JSON",
    ),
    _worker("spec-method", str, "method of --speculative-config: ngram, suffix or draft_model.", "METHOD"),
    _worker("speculative-model", str, "model of --speculative-config: the draft model.", "PATH|ID", "spec-model"),
    _worker("num-speculative-tokens", int, "Most tokens guessed at once.", "N", "spec-tokens"),
    _worker("ngram-prompt-lookup-max", int, "prompt_lookup_max of --speculative-config.", "TOKENS"),
    _worker("ngram-prompt-lookup-min", int, "prompt_lookup_min of --speculative-config.", "TOKENS"),
    _worker(
        "speculative-disable-by-batch-size",
        int,
        "So many sequences in a step and more are computed without guesses (default: as far as they pay).",
        "N",
    ),
    _worker("speculative-max-model-len", int, "Longer sequences get no guesses of the draft model.", "TOKENS"),
    _worker("device", str, "auto, cpu, cuda or cuda:N.", "DEVICE"),
    _worker(
        "attention-backend",
        str,
        "Kernels for attention: flashinfer, flash_attn, triton_attn or torch_sdpa (default auto: the first that works).",
        "NAME",
    ),
    _worker("enforce-eager", bool, "Do without CUDA graphs; on a CPU there are none."),
    _worker(
        "cpu-offload-gb", float, "Weights that stay in the host's memory when the device is CUDA (default 0).", "GIB"
    ),
    _worker("threads", int, "Compute threads on a CPU; 0: one per core.", "N"),
    _worker("cpu-affinity", str, "CPUs that the worker runs on, like 0-3,8; auto: those of one NUMA node.", "CPUS"),
    _worker(
        "tensor-parallel-size",
        int,
        "Processes that the model's weights and KV heads are split over (default 1); see docs/parallel.md.",
        "N",
    ),
    _worker("kv-cache-memory", str, "Memory for the KV cache, like 2GiB.", "SIZE"),
    _worker(
        "kv-cache-dtype",
        Literal["auto", "int8", "fp8", "fp8_e4m3"],
        "Precision of the KV cache; int8 and fp8, on a CPU, make room for over three times as many tokens as float32.",
    ),
    _worker(
        "gpu-memory-utilization", float, "Share of the device's memory for weights and KV cache (default 0.9).", "SHARE"
    ),
    _worker("block-size", int, "Tokens per KV block (default 16).", "TOKENS"),
    _worker("max-num-seqs", int, "Sequences computed at once (default 64).", "N"),
    _worker("max-num-batched-tokens", int, "Tokens computed in one step (default 512).", "TOKENS"),
    _worker(
        "target-step-ms",
        float,
        "Longest step in which prompts are computed beside sequences that decode; 0: any (default).",
        "MS",
    ),
    _worker(
        "interactive-itl-slack",
        float,
        "How much longer a step may take with batch requests in it than without them (default 1.5).",
        "FACTOR",
    ),
    _worker("max-num-partial-prefills", int, "Prompts that share a step's tokens evenly (default 1).", "N"),
    _worker("max-long-partial-prefills", int, "How many long prompts are computed in one step (default 1).", "N"),
    _worker(
        "long-prefill-token-threshold",
        int,
        "More tokens than these make a prompt long (default: 4 % of the context when prompts share steps).",
        "TOKENS",
    ),
    _worker("num-gpu-blocks-override", int, "KV blocks instead of what fits into the device's memory.", "N"),
    _worker(
        "preemption-mode",
        Literal["recompute", "swap"],
        "Compute a sequence that had to make room again, or copy its KV blocks to --swap-space and back (default: with one, swap).",
    ),
    _worker("swap-space", float, "Memory of the host for that, GiB (default 0); see docs/scheduling.md.", "GIB"),
    _worker("enable-prefix-caching", bool, "Share the KV blocks of equal prompt beginnings (default on)."),
    _worker(
        "engine",
        Literal["torch", "simulated"],
        "simulated needs no model and no torch: it answers with made-up tokens at a set pace.",
    ),
    _worker("simulated-step-ms", float, "Duration of one step of the simulated engine (default 5).", "MS"),
    _worker(
        "lease-ms", int, "Silence after which other workers take over this worker's requests (default 3000).", "MS"
    ),
    _worker(
        "drain",
        Literal["handover", "finish"],
        "What a signal to stop does with running requests: hand them to other workers (default), or finish them.",
    ),
    _worker(
        "drain-timeout-s", float, "How long finishing may take before the rest is handed over (default 300).", "SECONDS"
    ),
    _worker(
        "orphan-grace-s",
        float,
        "A request that nobody has listened to for that long is ended (default 10).",
        "SECONDS",
    ),
)


WORKER_METRICS_FLAGS = (
    _worker("metrics-host", str, "Address that /metrics and /health listen on (default 127.0.0.1).", "ADDRESS"),
    _worker("metrics-port", int, "Port of /metrics and /health; 0 picks a free one (default), -1 opens none.", "PORT"),
    _worker(
        "collect-detailed-traces",
        list[str],
        "Times of modules to put into traces: model, worker or all; wants --otlp-traces-endpoint.",
        "MODULE",
    ),
)
