"""ApiSettings: everything that can be set on an API process, from ``HEADRACE_API_*`` or from code."""

import json
import ssl
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from headrace_api.key_file import Amount, KeyFile, Priority, Rate
from headrace_api.own_middleware import MiddlewarePath
from headrace_api.tls import TlsFiles
from headrace_api.webhooks import WebhookHost, WebhookSecret, WebhookUrl


def _list_from_text(value: object) -> object:
    """A JSON list, or values separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


_Listed = (NoDecode, BeforeValidator(_list_from_text))
Words = Annotated[tuple[str, ...], *_Listed]
LogLevel = Literal["debug", "info", "warning", "error"]


class ApiSettings(BaseSettings):
    """The environment's name of each is ``HEADRACE_API_`` and the field's name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_API_", populate_by_name=True, extra="forbid", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    server_count: Annotated[int, Field(ge=1, le=256)] = 1
    """API processes on one port. ``headrace api`` and ``headrace serve`` start so many; with more than one, a process
    leaves room on its port for the others."""
    uds: str | None = None
    """Path of a unix socket to listen on, instead of host and port."""
    root_path: str = ""
    """Prefix under which a reverse proxy publishes this server."""
    ssl_certfile: Path | None = None
    """PEM file of the certificate and its chain; with it, HTTPS alone is spoken."""
    ssl_keyfile: Path | None = None
    """PEM file of the certificate's key, when it is not in the same file."""
    ssl_ca_certs: Path | None = None
    """PEM file of the authorities whose certificates clients may show."""
    ssl_cert_reqs: Annotated[int, Field(ge=0, le=2)] = 0
    """Whether clients have to show a certificate: 0 no, 1 a valid one or none, 2 yes."""
    ssl_ciphers: str | None = None
    """Ciphers of TLS 1.2, in OpenSSL's notation; default: Python's choice."""
    enable_ssl_refresh: bool = False
    """Take over certificate files that are replaced, without a restart."""
    allowed_origins: Words = ()
    """Origins whose web pages may call this server (CORS), as a JSON list; `["*"]`: all."""
    allowed_methods: Words = ("*",)
    """Methods that such pages may use."""
    allowed_headers: Words = ("*",)
    """Headers that such pages may send."""
    allow_credentials: bool = False
    """Whether such pages may send cookies along."""
    middleware: Annotated[tuple[MiddlewarePath, ...], *_Listed] = ()
    """Own middleware by its import path, the outermost last: an ASGI class, or `async def name(request, call_next)`."""
    api_keys: Annotated[
        tuple[SecretStr, ...], *_Listed, Field(validation_alias=AliasChoices("HEADRACE_API_KEYS", "api_keys"))
    ] = ()
    """Accepted bearer tokens, in the environment separated by commas; none: everybody may enter."""
    api_keys_file: Annotated[
        KeyFile | None,
        NoDecode,
        Field(validation_alias=AliasChoices("HEADRACE_API_KEYS_FILE", "api_keys_file")),
    ] = None
    """JSON file of further tokens, with a name and limits for each: {"ann": {"key": "...", "requests_per_minute": 60}}; `"admin": true` marks an administrator's."""
    requests_per_minute: Rate = None
    """Requests that each client may send per minute, unless the keys file says otherwise."""
    tokens_per_minute: Rate = None
    """Tokens, prompt and longest answer, that each client may ask for per minute, unless the keys file says otherwise."""
    priority_min: Priority = None
    """Lowest number, so the most urgent priority, that clients may ask for, unless the keys file says otherwise."""
    priority_max: Priority = None
    """Highest number that clients may ask for as a priority, unless the keys file says otherwise."""
    log_level: LogLevel = "info"
    """Lowest level of the log."""
    log_format: Literal["console", "json"] = "console"
    """Log lines for people or for machines."""
    uvicorn_log_level: Literal[LogLevel, "critical", "trace"] | None = None
    """Lowest level of the HTTP server's own lines; default: as the rest of the log."""
    access_log: bool = True
    """A log line for every HTTP request that is answered."""
    disable_access_log_for_endpoints: Words = ()
    """Paths whose requests get no such line."""
    log_stats: bool = True
    """A log line of statistics every 10 seconds while there is something to tell; without it vLLM's series are left out of /metrics too."""
    enable_per_request_metrics: bool = False
    """Let requests ask with `include_metrics` for their own timings in the answer."""
    enable_log_requests: bool = False
    """A log line for every prompt, with its text."""
    enable_log_outputs: bool = False
    """A log line for every answer, with its text as the model writes it."""
    enable_log_deltas: bool = True
    """With enable_log_outputs: a line for every part of a streamed answer as well."""
    max_log_len: Annotated[int | None, Field(ge=0)] = None
    """Most characters of a prompt, an answer or a part of one that are logged; default: all."""
    enable_request_id_headers: bool = True
    """Show each request's id in the header X-Request-Id of its answer."""
    fastapi_docs: bool = True
    """Show the API's description: /openapi.json, /docs and /redoc."""
    return_tokens_as_token_ids: bool = False
    """Write tokens as `token_id:7` in logprobs, where a request does not say."""
    enable_force_include_usage: bool = False
    """Tell the usage at the end of every stream, whether or not the request asks for it."""
    first_served_name: bool = False
    """Call the model by its first served name in every answer, whatever name was asked for."""
    strict_max_tokens: bool = False
    """Refuse a request whose prompt and max_tokens do not fit into the context together, instead of cutting the answer."""
    scheduling_policy: Literal["priority", "fcfs"] = "priority"
    """Who is served first: the most urgent, or who came first; then a priority other than 0 is refused."""
    enable_prompt_tokens_details: bool = False
    """Tell in the usage how many prompt tokens were cached."""
    enable_server_load_tracking: bool = True
    """Answer GET /load with the number of generation requests that this process has in hand."""
    enable_tokenizer_info_endpoint: bool = False
    """Answer GET /tokenizer_info with the special tokens and the chat template of a model."""
    stream_interval: Annotated[int, Field(ge=1)] = 1
    """Tokens per event of a chat's or text completion's stream, where a request does not say; a choice's first and last event come at once."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 10 * 1024 * 1024
    """Largest request body; a larger one gets 413."""
    tokenizer_threads: Annotated[int, Field(ge=1)] = 2
    """Threads that render templates and tokenize prompts."""
    tool_parser_plugin: Path | None = None
    """Python file of own tool parsers, for models whose workers name one of them."""
    max_grammar_bytes: Annotated[int, Field(ge=1)] = 256 * 1024
    """Largest JSON schema, regular expression or grammar that an answer may have to follow."""
    grammar_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """How long such a grammar may take to be checked."""
    max_stop_strings: Annotated[int, Field(ge=1)] = 64
    """Stop strings that one request may have."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    """A request that is not finished by then is ended."""
    first_event_wait_s: Annotated[float, Field(ge=0)] = 1.0
    """How long a stream's headers wait for the first token, so that an early failure gets its own status."""
    no_worker_grace_s: Annotated[float, Field(gt=0)] = 30.0
    """A running request whose model has had no live worker for that long is ended."""
    keep_alive_s: Annotated[float, Field(ge=0)] = 10.0
    """A silent stream gets an SSE comment that often; 0: never."""
    disconnect_linger_s: Annotated[float, Field(ge=0)] = 2.0
    """How long a stream whose client has gone waits for it to come back before it is cancelled."""
    response_store_ttl_s: Annotated[int, Field(ge=0)] = 3600
    """How long a stored response can be fetched and gone on from after its end; Redis holds it. 0: none is stored."""
    files: Annotated[str, Field(min_length=1)] = "~/.local/state/headrace/files"
    """Where the bytes of files are: a folder that all API nodes and batch workers share, or `s3://bucket/prefix`."""
    max_file_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024 * 1024
    """Largest file that can be uploaded; a larger one gets 413."""
    file_ttl_s: Annotated[int, Field(ge=60)] = 30 * 86_400
    """How long a file is kept that does not say so itself."""
    file_bytes: Amount = None
    """Bytes of files that each client may store, unless the keys file says otherwise."""
    batch_items: Amount = None
    """Items that each client's batches may have together while they are not done, unless the keys file says otherwise."""
    batch_tokens: Amount = None
    """Tokens, prompt and longest answer, that those items may need together, unless the keys file says otherwise."""
    max_batch_items: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    """Most items of one batch."""
    batch_priority: Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)] = 100
    """Priority of the items of batches; it falls to 1 while the end of a batch's time comes near."""
    batch_window: Annotated[int, Field(ge=1)] = 256
    """Items that one batch worker has in the queue at once, of all its batches together."""
    batch_lease_s: Annotated[float, Field(ge=0.5)] = 10.0
    """Silence after which another batch worker takes over a batch."""
    batch_metrics_host: str = "127.0.0.1"
    """Address that a batch worker's /metrics and /health listen on."""
    batch_metrics_port: Annotated[int, Field(ge=-1, le=65535)] = -1
    """Port of a batch worker's /metrics and /health; 0 picks a free one, -1 opens none."""
    batch_ttl_s: Annotated[int, Field(ge=60)] = 30 * 86_400
    """How long a batch is shown after its end."""
    webhook_secret: WebhookSecret | None = None
    """`whsec_` and base64: what webhooks are signed with; without it none are sent."""
    webhook_hosts: Annotated[tuple[WebhookHost, ...], *_Listed] = ()
    """Hosts that clients may name as receivers of webhooks: `hooks.example.com`, `*.example.com`, `http://10.0.0.7:8080`."""
    webhook_url: WebhookUrl | None = None
    """Who is told the end of batches that name no receiver; its host need not be listed."""
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """How long new requests are still taken after a signal to stop, while /ready already says no."""
    shutdown_grace_s: Annotated[int, Field(ge=0)] = 30
    """How long running requests may go on after that."""

    @field_validator("priority_max")
    @classmethod
    def _is_a_range(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("priority_min")
        if value is not None and least is not None and value < least:
            raise ValueError("must not be below priority_min")
        return value

    @field_validator("root_path")
    @classmethod
    def _is_a_prefix(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("must begin with a slash")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _listens_in_one_place(self) -> "ApiSettings":
        if self.uds is not None and self.model_fields_set & {"host", "port"}:
            raise ValueError("uds is a place to listen of its own; leave out host and port")
        if self.server_count > 1 and self.uds is not None:
            raise ValueError("server_count: a unix socket is listened on by one process; leave it out, or uds")
        if self.server_count > 1 and self.port == 0:
            raise ValueError("server_count: several processes need a port that they know")
        return self

    @model_validator(mode="after")
    def _has_what_tls_needs(self) -> "ApiSettings":
        names = ("ssl_keyfile", "ssl_ca_certs", "ssl_cert_reqs", "ssl_ciphers", "enable_ssl_refresh")
        if self.ssl_certfile is None and (idle := [name for name in names if getattr(self, name)]):
            raise ValueError(f"{', '.join(idle)}: without ssl_certfile there is no TLS")
        if bool(self.ssl_cert_reqs) != (self.ssl_ca_certs is not None):
            raise ValueError("ssl_ca_certs and ssl_cert_reqs (1 or 2) need each other to check clients' certificates")
        if self.tls is not None:
            self.tls.context()
        return self

    @model_validator(mode="after")
    def _can_sign_webhooks(self) -> "ApiSettings":
        if self.webhook_secret is None and (self.webhook_hosts or self.webhook_url):
            raise ValueError("webhook_hosts and webhook_url: without webhook_secret no webhook can be signed")
        return self

    @model_validator(mode="after")
    def _has_origins_for_cors(self) -> "ApiSettings":
        idle = self.model_fields_set & {"allowed_methods", "allowed_headers", "allow_credentials"}
        if idle and not self.allowed_origins:
            raise ValueError(f"{', '.join(sorted(idle))}: without allowed_origins no web page may call this server")
        return self

    @property
    def wants_key(self) -> bool:
        """Whether who enters needs one."""
        return bool(self.api_keys or self.api_keys_file)

    @property
    def secrets(self) -> list[str]:
        """What no log line may show."""
        named = [entry.key for entry in (self.api_keys_file or {}).values()]
        signing = [] if self.webhook_secret is None else [self.webhook_secret]
        return [secret.get_secret_value() for secret in (*self.api_keys, *named, *signing)]

    @property
    def tls(self) -> TlsFiles | None:
        """None: plain HTTP."""
        if self.ssl_certfile is None:
            return None
        level = ssl.VerifyMode(self.ssl_cert_reqs)
        return TlsFiles(self.ssl_certfile, self.ssl_keyfile, self.ssl_ca_certs, level, self.ssl_ciphers)
