"""The ``headrace`` command. It starts servers as processes and talks to them over HTTP; it imports neither of them."""

import asyncio
import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace_cli import api_processes, configuration, flags, folders, models, servers
from headrace_cli.arguments import Command, ServerCommand
from headrace_cli.batches import commands as batches
from headrace_cli.bench import options as bench
from headrace_cli.config_command import app as config_app
from headrace_cli.dlq import commands as dlq
from headrace_cli.errors import EXIT_CONFIGURATION, EXIT_INTERRUPTED, CliError
from headrace_cli.flag import Flag, accepts
from headrace_cli.run_batch.options import run_batch
from headrace_cli.terminal import Terminal

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(batches.app, name="batches")
app.add_typer(bench.app, name="bench")
app.add_typer(dlq.app, name="dlq")
app.add_typer(config_app, name="config")

_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORT = 8000
_API_FLAGS = (
    *flags.API_FLAGS,
    *flags.BATCH_FLAGS,
    *flags.QUEUE_FLAGS,
    *flags.plugin_flags("API"),
    *flags.logging_flags("API"),
    *flags.REDIS_FLAGS,
    flags.CONFIG_FLAG,
)
_BATCH_WORKER_FLAGS = (
    *flags.BATCH_FLAGS,
    *flags.ANSWER_FLAGS,
    *flags.QUEUE_FLAGS,
    *flags.plugin_flags("API"),
    *flags.logging_flags("API"),
    *flags.REDIS_FLAGS,
    flags.CONFIG_FLAG,
)
_WORKER_FLAGS = (
    *flags.WORKER_FLAGS,
    *flags.WORKER_METRICS_FLAGS,
    *flags.plugin_flags("WORKER"),
    *flags.logging_flags("WORKER"),
    *flags.REDIS_FLAGS,
    flags.CONFIG_FLAG,
)
_SERVE_FLAGS = flags.SERVE_FLAGS


def main() -> None:
    """The entry point: what is wrong is said in one line, and the exit status tells what kind of wrong it was."""
    try:
        app()
    except CliError as error:
        print(f"headrace: error: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"headrace {importlib.metadata.version('headrace')}")
        raise typer.Exit


@app.callback()
def headrace(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Serve language models behind an OpenAI-compatible API, over a Redis queue."""


_Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Model directory, GGUF file or Hugging Face id; without it a small demo model.",
        show_default=False,
    ),
]


@app.command(cls=ServerCommand)
@accepts(*_SERVE_FLAGS)
def serve(served: _Model = None, **given: Any) -> None:
    """Serve MODEL on this machine: queue, worker and API node in one command.

    \b
    Examples:
      headrace serve
      headrace serve Qwen/Qwen3-0.6B --port 9000 --api-key secret
      headrace serve ./model.gguf --kv-cache-memory 2GiB
      headrace serve --config headrace.yaml
    """
    # httpx and asyncio take time that --help should not.
    from headrace_cli import local
    from headrace_cli.front_door import front_door

    terminal = Terminal()
    # What was exported counts as if it had been given, so that a server and this command cannot disagree about it.
    known = servers.environment(_settings(_SERVE_FLAGS, given, served))
    simulated = known.get("HEADRACE_WORKER_ENGINE") == "simulated"
    servers.require(servers.API)
    if not simulated:
        servers.require(servers.WORKER)
    door = front_door(known, _DEFAULT_HOST, _DEFAULT_PORT)
    asked = known.get("HEADRACE_WORKER_MODEL")
    found = (asked or "simulated") if simulated else models.resolve(asked, terminal)
    place = f"serve-{door.port}" if door.uds is None else f"serve-{door.uds.name}"
    state_dir = Path(known.get("HEADRACE_STATE_DIR") or folders.state_dir() / place)
    listening = {"HEADRACE_API_HOST": door.host, "HEADRACE_API_PORT": str(door.port)} if door.uds is None else {}
    settings = local.LocalSettings(
        door=door,
        state_dir=state_dir.expanduser().absolute(),
        redis_url=known.get("HEADRACE_REDIS_URL"),
        environment={**known, **listening, "HEADRACE_WORKER_MODEL": found},
    )
    raise typer.Exit(asyncio.run(local.serve(settings, terminal)))


@app.command(cls=ServerCommand)
@accepts(*_API_FLAGS)
def api(**given: Any) -> None:
    """Run one API node: HTTP in front, the queue behind. It needs no model and no torch.

    \b
    Examples:
      headrace api --redis redis://queue:6379/0 --host 0.0.0.0 --api-key secret
      headrace api --redis redis://queue:6379/0 --api-server-count 4
    """
    servers.require(servers.API)
    settings = _settings(_API_FLAGS, given)
    if api_processes.count_of(settings) == 1:
        servers.become(servers.API, settings)
        return
    from headrace_cli.front_door import free_port  # as above

    host = settings.get("HEADRACE_API_HOST", _DEFAULT_HOST)
    port = free_port(host, settings.get("HEADRACE_API_PORT", str(_DEFAULT_PORT)))
    known = servers.environment({**settings, "HEADRACE_API_HOST": host, "HEADRACE_API_PORT": str(port)})
    raise typer.Exit(asyncio.run(api_processes.serve(known, host, port, Terminal())))


@app.command(cls=ServerCommand, name="batch-worker")
@accepts(*_BATCH_WORKER_FLAGS)
def batch_worker(**given: Any) -> None:
    """Run one batch worker: it feeds what /v1/batches is given into the queue, and writes the results.

    It answers as API nodes do, so it takes their options, without those of HTTP. Any number may run.

    \b
    Example:
      headrace batch-worker --redis redis://queue:6379/0 --files s3://bucket/headrace
    """
    servers.require(servers.BATCH_WORKER)
    servers.become(servers.BATCH_WORKER, _settings(_BATCH_WORKER_FLAGS, given))


@app.command(cls=ServerCommand)
@accepts(*_WORKER_FLAGS)
def worker(
    served: Annotated[
        str | None,
        typer.Argument(
            help="Model directory, GGUF file or Hugging Face id; 'demo' is the demo model.", metavar="MODEL"
        ),
    ] = None,
    **given: Any,
) -> None:
    """Run one worker that serves MODEL from the queue.

    \b
    Example:
      headrace worker Qwen/Qwen3-0.6B --redis redis://queue:6379/0 --max-num-seqs 128
    """
    settings = _settings(_WORKER_FLAGS, given, served)
    asked = settings.get("HEADRACE_WORKER_MODEL")
    if not asked:
        raise CliError("a worker needs a MODEL: headrace worker MODEL", exit_code=EXIT_CONFIGURATION)
    if settings.get("HEADRACE_WORKER_ENGINE") != "simulated":
        servers.require(servers.WORKER)
        settings["HEADRACE_WORKER_MODEL"] = models.resolve(asked, Terminal())
    servers.become(servers.WORKER, settings)


def _settings(known: tuple[Flag, ...], given: dict[str, Any], served: str | None = None) -> dict[str, str]:
    """What was set, as environment variables. ``served``: the command's MODEL."""
    return configuration.texts(configuration.configured(known, given, served))


app.command(name="run-batch", cls=ServerCommand)(run_batch)


_Url = Annotated[str, typer.Option("--url", help="Base URL of an OpenAI-compatible server.")]
_ClientKey = Annotated[str | None, typer.Option("--api-key", help="Bearer token for it.", show_default=False)]
_ClientModel = Annotated[
    str | None, typer.Option("--model", help="Model to ask; default: the first that it lists.", show_default=False)
]
_LOCAL_URL = f"http://{_DEFAULT_HOST}:{_DEFAULT_PORT}"


@app.command(cls=Command)
def chat(
    url: _Url = _LOCAL_URL,
    model: _ClientModel = None,
    api_key: _ClientKey = None,
    system: Annotated[str | None, typer.Option(help="System message.", show_default=False)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.", show_default=False)] = None,
) -> None:
    """Talk to a model in the terminal.

    \b
    Examples:
      headrace chat
      headrace chat --url http://other:8080 --system 'Answer in one sentence.'
    """
    from headrace_cli import chat as chat_in_terminal

    chat_in_terminal.run(url, api_key, model, system, max_tokens)


@app.command(cls=Command)
def top(
    url: Annotated[str, typer.Option("--url", help="Base URL of an API node.")] = _LOCAL_URL,
    api_key: _ClientKey = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and leave.")] = False,
) -> None:
    """Watch the fleet in the terminal: models, workers, lanes, throughput, recent requests. q leaves.

    \b
    Examples:
      headrace top
      headrace top --url http://api-1:8000 --api-key secret
      headrace top --once
    """
    from headrace_cli.top import command
    from headrace_cli.top.feed import Feed

    feed = Feed(url, api_key)
    if once:
        command.once(feed)
    else:
        command.follow(feed)
