"""The options that become settings of a server process: one table, from which the commands' signatures are made.

The servers' own settings classes are the truth about defaults and ranges; the command line only hands on what was
given, as environment variables, so that a flag and its variable can never mean different things.
"""

from typing import Any, Literal

from headrace_cli.flag import Flag

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


def _worker(name: str, kind: Any, text: str, metavar: str | None = None) -> Flag:
    variable = f"HEADRACE_WORKER_{name.replace('-', '_').upper()}"
    return Flag(name, kind, text, (variable,), metavar, is_json=metavar == "JSON")


def _api(name: str, kind: Any, text: str, metavar: str | None = None, off: str | None = None) -> Flag:
    return Flag(name, kind, text, (f"HEADRACE_API_{name.replace('-', '_').upper()}",), metavar, off=off)


def _queue(name: str, setting: str, kind: Any, text: str, metavar: str, *also: str) -> Flag:
    return Flag(name, kind, text, (f"HEADRACE_QUEUE_{setting}",), metavar, also, is_json=metavar == "JSON")


CONFIG_FLAG = Flag(
    "config",
    str,
    "YAML file of options by their long names; command line and environment go before it. [env: HEADRACE_CONFIG]",
    ("HEADRACE_CONFIG",),
    "FILE",
)

STATE_DIR_FLAG = Flag("state-dir", str, "Folder for the embedded queue's data.", ("HEADRACE_STATE_DIR",), "FOLDER")

REDIS_FLAG = Flag(
    "redis",
    str,
    "Redis or Valkey that joins API nodes and workers: redis://, rediss:// or unix://, with user, password and database. [env: HEADRACE_REDIS_URL]",
    ("HEADRACE_REDIS_URL",),
    "URL",
)

REDIS_FLAGS = (
    REDIS_FLAG,
    Flag(
        "redis-max-connections",
        int,
        "Most connections that one process opens to each Redis server for commands (default 16).",
        ("HEADRACE_REDIS_MAX_CONNECTIONS",),
        "N",
    ),
)

API_FLAGS = (
    _api("host", str, "Address to listen on (default 127.0.0.1).", "ADDRESS"),
    _api("port", int, "Port to listen on; 0 picks a free one (default 8000).", "PORT"),
    Flag(
        "api-key",
        list[str],
        "Accepted bearer token; may be given several times. Without one, everybody may enter.",
        ("HEADRACE_API_KEYS",),
        "KEY",
        exact=True,
        fallback="VLLM_API_KEY",
    ),
    Flag(
        "api-keys-file",
        str,
        "JSON file of further tokens, with a name and limits for each.",
        ("HEADRACE_API_KEYS_FILE",),
        "FILE",
    ),
    _api("requests-per-minute", int, "Requests that each client may send per minute (default: any number).", "N"),
    _api(
        "tokens-per-minute",
        int,
        "Tokens, prompt and longest answer, that each client may ask for per minute (default: any number).",
        "N",
    ),
    _api("priority-min", int, "Most urgent priority that clients may ask for; lower goes first (default: any).", "N"),
    _api("priority-max", int, "Highest number that clients may ask for as a priority (default: any).", "N"),
    _api("root-path", str, "Prefix under which a reverse proxy publishes this server.", "PATH"),
    _api("uds", str, "Unix socket to listen on, instead of host and port.", "PATH"),
    _api("ssl-certfile", str, "PEM file of the certificate and its chain; with it, HTTPS alone is spoken.", "FILE"),
    _api("ssl-keyfile", str, "PEM file of the certificate's key, when it is not in the same file.", "FILE"),
    _api("ssl-ca-certs", str, "PEM file of the authorities whose certificates clients may show.", "FILE"),
    _api(
        "ssl-cert-reqs",
        int,
        "Whether clients have to show a certificate: 0 no (default), 1 a valid one or none, 2 yes.",
        "LEVEL",
    ),
    _api("ssl-ciphers", str, "Ciphers of TLS 1.2, in OpenSSL's notation (default: Python's choice).", "LIST"),
    _api("enable-ssl-refresh", bool, "Take over certificate files that are replaced, without a restart."),
    _api(
        "allowed-origins",
        str,
        "Origins whose web pages may call this server (CORS), as a JSON list; '[\"*\"]': all (default none).",
        "LIST",
    ),
    _api("allowed-methods", str, "Methods that such pages may use, as a JSON list (default all).", "LIST"),
    _api("allowed-headers", str, "Headers that such pages may send, as a JSON list (default all).", "LIST"),
    _api("allow-credentials", bool, "Let such pages send cookies along."),
    _api(
        "middleware",
        list[str],
        "Import path of own middleware, an ASGI class or an async function; may be given several times.",
        "NAME",
    ),
    _api(
        "uvicorn-log-level",
        Literal["debug", "info", "warning", "error", "critical", "trace"],
        "Lowest level of the HTTP server's own lines (default: as the rest of the log).",
    ),
    _api(
        "access-log",
        bool,
        "A log line for every HTTP request that is answered (default on).",
        off="disable-uvicorn-access-log",
    ),
    _api("disable-access-log-for-endpoints", str, "Paths without such a line, as a JSON list or with commas.", "LIST"),
    _api(
        "enable-log-requests",
        bool,
        "A log line for every prompt, with its text (default off).",
        off="disable-log-requests",
    ),
    _api("max-log-len", int, "Most characters of a prompt that are logged (default: all).", "N"),
    _api(
        "enable-request-id-headers",
        bool,
        "Show each request's id in the header X-Request-Id of its answer (default on).",
    ),
    _api(
        "fastapi-docs",
        bool,
        "Show the API's description: /openapi.json, /docs and /redoc (default on).",
        off="disable-fastapi-docs",
    ),
    _api(
        "return-tokens-as-token-ids",
        bool,
        "Write tokens as token_id:7 in logprobs, where a request does not say (default off).",
    ),
    _api(
        "enable-per-request-metrics",
        bool,
        "Let requests ask with include_metrics for their own timings in the answer (default off).",
    ),
    _api("enable-force-include-usage", bool, "Tell the usage at the end of every stream, asked or not (default off)."),
    _api("first-served-name", bool, "Answer with the model's first name, whatever name was asked for (default off)."),
    _api(
        "strict-max-tokens",
        bool,
        "Refuse a request whose prompt and max_tokens do not fit into the context together, instead of cutting the answer (default off).",
    ),
    _api(
        "scheduling-policy",
        Literal["priority", "fcfs"],
        "Who is served first: the most urgent (default), or who came first; then priorities are refused.",
    ),
    _api("enable-prompt-tokens-details", bool, "Tell in the usage how many prompt tokens were cached (default off)."),
    _api(
        "enable-tokenizer-info-endpoint",
        bool,
        "Answer GET /tokenizer_info with the special tokens and the chat template of a model (default off).",
    ),
    Flag(
        "response-store-ttl",
        int,
        "How long Redis keeps a stored response after its end; 0: none is stored (default 3600).",
        ("HEADRACE_API_RESPONSE_STORE_TTL_S",),
        "SECONDS",
    ),
    _api("enable-server-load-tracking", bool, "Answer GET /load with the number of requests in hand (default on)."),
    _api(
        "stream-interval",
        int,
        "Tokens per event of completions' streams, where a request does not say (default 1).",
        "TOKENS",
    ),
    _api("max-body-bytes", int, "Largest request body; a larger one gets 413 (default 10485760).", "BYTES"),
    _api("tokenizer-threads", int, "Threads that render templates and tokenize prompts (default 2).", "N"),
    _api("max-stop-strings", int, "Stop strings that one request may have (default 64).", "N"),
    _api(
        "max-grammar-bytes",
        int,
        "Largest schema or grammar that an answer may have to follow (default 262144).",
        "BYTES",
    ),
    _api("grammar-timeout-s", float, "How long such a grammar may take to be checked (default 5).", "SECONDS"),
    _api("request-timeout-s", float, "A request that is not finished by then is ended (default 3600).", "SECONDS"),
    _api(
        "first-event-wait-s",
        float,
        "How long a stream's headers wait for the first token, so that an early failure gets its own status (default 1).",
        "SECONDS",
    ),
    _api(
        "no-worker-grace-s",
        float,
        "A running request whose model has had no live worker for that long is ended (default 30).",
        "SECONDS",
    ),
    Flag(
        "keep-alive-s",
        float,
        "A silent stream gets an SSE comment that often (default 10); 0: never.",
        ("HEADRACE_API_KEEP_ALIVE_S",),
        "SECONDS",
        also=("sse-keep-alive-interval",),
    ),
    _api(
        "disconnect-linger-s",
        float,
        "How long a stream whose client has gone waits for it before it is cancelled (default 2).",
        "SECONDS",
    ),
    Flag(
        "drain-delay",
        float,
        "How long new requests are still taken after a signal to stop, while /ready already says no (default 0).",
        ("HEADRACE_API_DRAIN_DELAY_S",),
        "SECONDS",
        also=("drain-delay-s",),
    ),
    Flag(
        "grace",
        int,
        "How long running requests may go on after that (default 30).",
        ("HEADRACE_API_SHUTDOWN_GRACE_S",),
        "SECONDS",
        also=("shutdown-grace-s", "shutdown-timeout"),
    ),
)

QUEUE_FLAGS = (
    _queue(
        "max-queue-requests",
        "MAX_REQUESTS",
        int,
        "Most requests that may wait per model (default 10000).",
        "N",
        "max-num-queued-reqs",
    ),
    _queue(
        "max-queue-tokens",
        "MAX_TOKENS",
        int,
        "Most context tokens that a model's waiting requests may need (default 100000000).",
        "N",
        "max-num-queued-tokens",
    ),
    _queue(
        "priority-aging",
        "AGING_MS",
        int,
        "What has waited longer than this many milliseconds gets every eighth turn, whatever its priority (default: never).",
        "MS",
    ),
    _queue(
        "tenant-weights",
        "TENANT_WEIGHTS",
        str,
        'Shares of tenants among those of one priority, like {"ann": 2}; others have 1.',
        "JSON",
    ),
    _queue("max-attempts", "MAX_ATTEMPTS", int, "Workers that may be lost with a request (default 4).", "N"),
    _queue(
        "tenant-max-requests",
        "TENANT_MAX_REQUESTS",
        int,
        "Most requests that may wait per tenant (default: any number).",
        "N",
    ),
    _queue(
        "tenant-max-tokens",
        "TENANT_MAX_TOKENS",
        int,
        "Most context tokens that a tenant's waiting requests may need (default: any number).",
        "N",
    ),
    _queue(
        "affinity-hold-ms",
        "AFFINITY_HOLD_MS",
        int,
        "How long a request is kept for a worker that has its prompt's beginning cached (default 25).",
        "MS",
    ),
    _queue(
        "replay-ttl", "REPLAY_TTL_S", int, "How long a finished answer can be fetched again (default 600).", "SECONDS"
    ),
)

WORKER_FLAGS = (
    _worker("model", str, "The same as MODEL.", "PATH|ID"),
    _worker(
        "served-model-name",
        list[str],
        "Name that clients use; several, or one with commas: the first is the model's name, the rest are aliases.",
        "NAME",
    ),
    _worker("dtype", Literal["auto", "float32", "float", "float16", "half", "bfloat16"], "Precision of the weights."),
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
        Literal["auto", "xgrammar", "guidance"],
        "What constrains answers to a grammar: xgrammar, guidance, or whichever can (auto, the default).",
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
    _worker("device", str, "auto, cpu, cuda or cuda:N.", "DEVICE"),
    _worker("threads", int, "Compute threads on a CPU; 0: one per core.", "N"),
    _worker("kv-cache-memory", str, "Memory for the KV cache, like 2GiB.", "SIZE"),
    _worker(
        "gpu-memory-utilization", float, "Share of the device's memory for weights and KV cache (default 0.9).", "SHARE"
    ),
    _worker("block-size", int, "Tokens per KV block (default 16).", "TOKENS"),
    _worker("max-num-seqs", int, "Sequences computed at once (default 64).", "N"),
    _worker("max-num-batched-tokens", int, "Tokens computed in one step (default 512).", "TOKENS"),
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
        "A request whose tokens nobody has listened to for that long is ended (default 10).",
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

TRACES_FLAG = Flag(
    "otlp-traces-endpoint",
    str,
    "OpenTelemetry collector that traces are sent to: http://HOST:4317 (gRPC) or http://HOST:4318/v1/traces. [env: OTEL_EXPORTER_OTLP_TRACES_ENDPOINT]",
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",),
    "URL",
)


def logging_flags(*servers: str) -> tuple[Flag, ...]:
    """``--log-level`` and ``--log-format`` for the named servers (``API``, ``WORKER``)."""
    return (
        Flag(
            "log-level",
            LogLevel,
            "Lowest level of the log (default info).",
            tuple(f"HEADRACE_{s}_LOG_LEVEL" for s in servers),
        ),
        Flag(
            "log-format",
            LogFormat,
            "Log lines for people or for machines (default console).",
            tuple(f"HEADRACE_{s}_LOG_FORMAT" for s in servers),
        ),
        Flag(
            "log-stats",
            bool,
            "Log statistics every 10 seconds, and show vLLM's series at /metrics (default on).",
            tuple(f"HEADRACE_{s}_LOG_STATS" for s in servers),
            off="disable-log-stats",
        ),
        TRACES_FLAG,
    )


def plugin_flags(*servers: str) -> tuple[Flag, ...]:
    """``--tool-parser-plugin`` for the named servers."""
    return (
        Flag(
            "tool-parser-plugin",
            str,
            "Python file of own tool parsers; workers and API nodes both need it.",
            tuple(f"HEADRACE_{s}_TOOL_PARSER_PLUGIN" for s in servers),
            "FILE",
        ),
    )


ALL_FLAGS = (
    *API_FLAGS,
    *QUEUE_FLAGS,
    *WORKER_FLAGS,
    *WORKER_METRICS_FLAGS,
    *plugin_flags("API", "WORKER"),
    *logging_flags("API", "WORKER"),
    *REDIS_FLAGS,
)
"""What becomes a setting of a server, and the reference page lists."""
SERVE_FLAGS = (*ALL_FLAGS, STATE_DIR_FLAG, CONFIG_FLAG)
"""What ``headrace serve`` takes."""
