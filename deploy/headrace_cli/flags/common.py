"""Options that several kinds of servers share."""

from typing import Literal

from headrace_cli.flag import Flag

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]

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
