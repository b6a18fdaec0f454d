"""Settings that more than one kind of process reads."""

from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_GRPC_PORT = 4317
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")


class RedisSettings(BaseSettings):
    """Where Redis (or Valkey) is."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_REDIS_", frozen=True, extra="forbid")

    url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="redis://, rediss:// (TLS) or unix:// address, with user, password and database where needed; "
        "redis+sentinel://s1:26379,s2:26379/name/0 for the primary that the sentinels know by that name, "
        "redis+cluster://h1:6379,h2:6379 for a cluster; rediss+ for these with TLS.",
    )
    max_connections: int = Field(
        default=16, ge=2, description="Most connections that one process opens for commands, to each server."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in _SCHEMES:
            raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
        if parts.scheme == "unix" and not parts.path:
            raise ValueError("must name the socket: unix:///path/to/socket")
        if parts.scheme.endswith("+sentinel") and not parts.path.strip("/"):
            raise ValueError("must name the service: redis+sentinel://host:26379/name")
        if parts.scheme.endswith("+cluster") and parts.path not in ("", "/", "/0"):
            raise ValueError("must not name a database: a cluster has only one")
        encryption = [name for name in parse_qs(parts.query, keep_blank_values=True) if name.startswith("ssl_")]
        if encryption and not parts.scheme.startswith("rediss"):
            raise ValueError(f"{encryption[0]} is for TLS: the address must begin with rediss")
        return value


class QueueSettings(BaseSettings):
    """How much may wait, and how long results are kept. Read where requests are put into the queue."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_QUEUE_", frozen=True, extra="forbid")

    max_requests: int = Field(default=10_000, ge=1, description="Most requests that may wait per model.")
    max_tokens: int = Field(
        default=100_000_000, ge=1, description="Most context tokens that the waiting requests of a model may need."
    )
    replay_ttl_s: int = Field(
        default=600, ge=1, description="How long a finished request's token log can be replayed, seconds."
    )
    max_attempts: int = Field(
        default=4,
        ge=1,
        description="Workers that may be lost while running a request before it is given up; not counted are those "
        "that had got on well with it, up to 64.",
    )
    tenant_max_requests: int | None = Field(default=None, ge=1, description="Most requests that may wait per tenant.")
    tenant_max_tokens: int | None = Field(
        default=None, ge=1, description="Most context tokens that the waiting requests of one tenant may need."
    )
    tenant_weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default={},
        description='Share of a tenant among those of one priority, as JSON: {"ann": 2}; others have 1.',
    )
    aging_ms: int = Field(
        default=0,
        ge=0,
        description="What has waited longer than this gets every eighth turn, whatever its priority; 0: never.",
    )
    affinity_hold_ms: int = Field(
        default=25,
        ge=0,
        description="How long the next request is kept for a worker that has its prompt's beginning cached; 0: not.",
    )


class TracingSettings(BaseSettings):
    """Whether and where traces go: the part of OpenTelemetry's own variables that is not left to its SDK."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", frozen=True, extra="forbid", env_ignore_empty=True)

    exporter_otlp_endpoint: str | None = Field(default=None, description="Base URL of a collector; none: no traces.")
    exporter_otlp_traces_endpoint: str | None = Field(
        default=None, description="The same, for traces alone, in full; over gRPC just http://host:4317."
    )
    exporter_otlp_protocol: str | None = Field(
        default=None, description="`grpc` or `http/protobuf`; default: grpc for port 4317, else http/protobuf."
    )
    exporter_otlp_traces_protocol: str | None = Field(default=None, description="The same, for traces alone.")
    traces_exporter: str = Field(default="otlp", description="`otlp`, or `none` for no traces.")
    sdk_disabled: bool = Field(default=False, description="Neither traces nor metrics over OTLP, whatever else is set.")
    instrumentation_genai_capture_message_content: bool = Field(
        default=False, description="Put prompts and answers into the traces."
    )

    @property
    def endpoint(self) -> str | None:
        return self.exporter_otlp_traces_endpoint or self.exporter_otlp_endpoint

    @property
    def enabled(self) -> bool:
        return bool(self.endpoint) and "otlp" in self.traces_exporter.split(",") and not self.sdk_disabled

    @property
    def protocol(self) -> str:
        asked = self.exporter_otlp_traces_protocol or self.exporter_otlp_protocol
        return asked or protocol_of(self.endpoint or "")


class OtlpMetricsSettings(BaseSettings):
    """Whether metrics are pushed to a collector, besides being shown at /metrics."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", frozen=True, extra="forbid", env_ignore_empty=True)

    metrics_exporter: str = Field(default="none", description="`otlp` pushes all metrics to a collector as well.")
    exporter_otlp_metrics_endpoint: str | None = Field(
        default=None, description="Collector for metrics alone, in full; default: as for traces."
    )
    exporter_otlp_metrics_protocol: str | None = Field(
        default=None, description="The same as for traces, for metrics alone."
    )
    exporter_otlp_endpoint: str | None = Field(default=None, description="As for traces.")
    exporter_otlp_protocol: str | None = Field(default=None, description="As for traces.")
    metric_export_interval: int = Field(default=60_000, ge=100, description="How often, milliseconds.")
    sdk_disabled: bool = Field(default=False, description="As for traces.")

    @property
    def enabled(self) -> bool:
        return "otlp" in self.metrics_exporter.split(",") and not self.sdk_disabled

    @property
    def protocol(self) -> str:
        asked = self.exporter_otlp_metrics_protocol or self.exporter_otlp_protocol
        return asked or protocol_of(self.exporter_otlp_metrics_endpoint or self.exporter_otlp_endpoint or "")


class MetricsSettings(BaseSettings):
    """How several processes on one port count; ``headrace api --api-server-count`` sets both."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_ignore_empty=True, populate_by_name=True)

    multiproc_dir: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("PROMETHEUS_MULTIPROC_DIR"),
        description="Folder in which several processes on one port add up what they count.",
    )
    process: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,39}$",
        validation_alias=AliasChoices("HEADRACE_METRICS_PROCESS"),
        description="Which of them this is: a name that stays when it is started again (default: the process id).",
    )


def protocol_of(endpoint: str) -> str:
    """The protocol that a collector's address lets one expect."""
    parts = urlsplit(endpoint)
    return "grpc" if parts.scheme in ("grpc", "grpcs") or parts.port == _GRPC_PORT else "http/protobuf"
