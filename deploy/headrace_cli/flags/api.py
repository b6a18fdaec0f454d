"""Options of API nodes."""

from typing import Any, Literal

from headrace_cli.flag import Flag


def _api(name: str, kind: Any, text: str, metavar: str | None = None, off: str | None = None) -> Flag:
    return Flag(name, kind, text, (f"HEADRACE_API_{name.replace('-', '_').upper()}",), metavar, off=off)


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
