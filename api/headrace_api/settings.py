"""ApiSettings: everything that can be set on an API process, from ``HEADRACE_API_*`` or from code."""

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from headrace_api.key_file import KeyFile, Priority, Rate


class ApiSettings(BaseSettings):
    """The environment's name of each is ``HEADRACE_API_`` and the field's name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_API_", populate_by_name=True, extra="forbid", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 picks a free one."""
    uds: str | None = None
    """Path of a unix socket to listen on, instead of host and port."""
    root_path: str = ""
    """Prefix under which a reverse proxy publishes this server."""
    api_keys: Annotated[
        tuple[SecretStr, ...], NoDecode, Field(validation_alias=AliasChoices("HEADRACE_API_KEYS", "api_keys"))
    ] = ()
    """Accepted bearer tokens, in the environment separated by commas; none: everybody may enter."""
    api_keys_file: Annotated[
        KeyFile | None,
        NoDecode,
        Field(validation_alias=AliasChoices("HEADRACE_API_KEYS_FILE", "api_keys_file")),
    ] = None
    """JSON file of further tokens, with a name and limits for each: {"ann": {"key": "...", "requests_per_minute": 60}}."""
    requests_per_minute: Rate = None
    """Requests that each client may send per minute, unless the keys file says otherwise."""
    tokens_per_minute: Rate = None
    """Tokens, prompt and longest answer, that each client may ask for per minute, unless the keys file says otherwise."""
    priority_min: Priority = None
    """Lowest number, so the most urgent priority, that clients may ask for, unless the keys file says otherwise."""
    priority_max: Priority = None
    """Highest number that clients may ask for as a priority, unless the keys file says otherwise."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of the log."""
    log_format: Literal["console", "json"] = "console"
    """Log lines for people or for machines."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 10 * 1024 * 1024
    """Largest request body; a larger one gets 413."""
    tokenizer_threads: Annotated[int, Field(ge=1)] = 2
    """Threads that render templates and tokenize prompts."""
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
    keep_alive_s: Annotated[float, Field(gt=0)] = 10.0
    """A silent stream gets an SSE comment that often."""
    disconnect_linger_s: Annotated[float, Field(ge=0)] = 2.0
    """How long a stream whose client has gone waits for it to come back before it is cancelled."""
    drain_delay_s: Annotated[float, Field(ge=0)] = 0.0
    """How long new requests are still taken after a signal to stop, while /ready already says no."""
    shutdown_grace_s: Annotated[int, Field(ge=0)] = 30
    """How long running requests may go on after that."""

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        return tuple(key.strip() for key in value.split(",") if key.strip()) if isinstance(value, str) else value

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
