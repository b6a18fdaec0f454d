"""The options that become settings of a server process: one table, from which the commands' signatures are made.

The servers' own settings classes are the truth about defaults and ranges; the command line only hands on what was
given, as environment variables, so that a flag and its variable can never mean different things.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import typer

Command = TypeVar("Command", bound=Callable[..., None])
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]


@dataclass(frozen=True)
class Flag:
    """``--name`` on the command line and the environment variables that carry it to the servers."""

    name: str
    kind: Any
    help: str
    variables: tuple[str, ...]
    metavar: str | None = None
    also: str | None = None
    """A second spelling: the setting's own name, where the option's is shorter."""

    @property
    def keyword(self) -> str:
        """The command function's parameter."""
        return self.name.replace("-", "_")

    def parameter(self) -> inspect.Parameter:
        option = typer.Option(*self._spellings(), help=self.help, metavar=self.metavar, show_default=False)
        return inspect.Parameter(
            self.keyword, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[self.kind | None, option]
        )

    def _spellings(self) -> tuple[str, ...]:
        if self.kind is not bool:
            return (f"--{self.name}", f"--{self.also}") if self.also else (f"--{self.name}",)
        # "--enable-x" is switched off by "--no-enable-x", the spelling that other servers use.
        return (f"--{self.name}/--no-{self.name}",)


def _worker(name: str, kind: Any, text: str, metavar: str | None = None) -> Flag:
    return Flag(name, kind, text, (f"HEADRACE_WORKER_{name.replace('-', '_').upper()}",), metavar)


def _api(name: str, kind: Any, text: str, metavar: str | None = None) -> Flag:
    return Flag(name, kind, text, (f"HEADRACE_API_{name.replace('-', '_').upper()}",), metavar)


def _queue(name: str, setting: str, kind: Any, text: str, metavar: str) -> Flag:
    return Flag(name, kind, text, (f"HEADRACE_QUEUE_{setting}",), metavar)


REDIS_FLAG = Flag(
    "redis",
    str,
    "Redis or Valkey that joins API nodes and workers: redis://, rediss:// or unix://, with user, password and database. [env: HEADRACE_REDIS_URL]",
    ("HEADRACE_REDIS_URL",),
    "URL",
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
    ),
    _api("api-keys-file", str, "JSON file of further tokens, with a name and limits for each.", "FILE"),
    _api("requests-per-minute", int, "Requests that each client may send per minute (default: any number).", "N"),
    _api(
        "tokens-per-minute",
        int,
        "Tokens, prompt and longest answer, that each client may ask for per minute (default: any number).",
        "N",
    ),
    _api("root-path", str, "Prefix under which a reverse proxy publishes this server.", "PATH"),
    Flag(
        "drain-delay",
        float,
        "How long new requests are still taken after a signal to stop, while /ready already says no (default 0).",
        ("HEADRACE_API_DRAIN_DELAY_S",),
        "SECONDS",
        also="drain-delay-s",
    ),
    Flag(
        "grace",
        int,
        "How long running requests may go on after that (default 30).",
        ("HEADRACE_API_SHUTDOWN_GRACE_S",),
        "SECONDS",
        also="shutdown-grace-s",
    ),
)

QUEUE_FLAGS = (
    _queue("max-queue-requests", "MAX_REQUESTS", int, "Most requests that may wait per model (default 10000).", "N"),
    _queue(
        "max-queue-tokens",
        "MAX_TOKENS",
        int,
        "Most context tokens that a model's waiting requests may need (default 100000000).",
        "N",
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
    _queue(
        "replay-ttl", "REPLAY_TTL_S", int, "How long a finished answer can be fetched again (default 600).", "SECONDS"
    ),
)

WORKER_FLAGS = (
    _worker(
        "served-model-name",
        str,
        "Names that clients use, comma separated: the first is the model's name, the rest are aliases.",
        "NAMES",
    ),
    _worker("dtype", Literal["auto", "float32", "float16", "bfloat16"], "Precision of the weights."),
    _worker("max-model-len", int, "Context length limit; default: the model's own.", "TOKENS"),
    _worker("tokenizer", str, "Directory or id to take the tokenizer from.", "PATH|ID"),
    _worker("revision", str, "Branch, tag or commit of a Hugging Face id.", "NAME"),
    _worker("trust-remote-code", bool, "Run Python code that a model repository brings along."),
    _worker(
        "generation-config", str, "Where sampling defaults come from: auto (the model), none, or a directory.", "PATH"
    ),
    _worker("chat-template", str, "Jinja chat template: a file, or the template itself.", "FILE|TEXT"),
    _worker(
        "chat-template-content-format", Literal["auto", "string", "openai"], "How the template wants message contents."
    ),
    _worker("trust-request-chat-template", bool, "Accept a chat_template from clients."),
    _worker("response-role", str, "Role of generated messages (default assistant).", "ROLE"),
    _worker("max-logprobs", int, "Most logprobs that a request may ask for (default 20).", "N"),
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
    )


ALL_FLAGS = (*API_FLAGS, *QUEUE_FLAGS, *WORKER_FLAGS, *logging_flags("API", "WORKER"), REDIS_FLAG)
"""What ``headrace serve`` takes, and the reference page lists."""


def accepts(*flags: Flag) -> Callable[[Command], Command]:
    """Give a command taking ``**given`` the options in ``flags``; those not given arrive as None."""

    def decorate(command: Command) -> Command:
        own = inspect.signature(command)
        named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        command.__signature__ = own.replace(parameters=[*named, *(flag.parameter() for flag in flags)])  # type: ignore[attr-defined]
        return command

    return decorate


def variables(flags: Iterable[Flag], given: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables for the options in ``given``, a command's keyword arguments."""
    found = {}
    for flag in flags:
        value = given.get(flag.keyword)
        if value is None or value == []:
            continue
        for variable in flag.variables:
            found[variable] = _as_text(value)
    return found


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, list) else str(value)
