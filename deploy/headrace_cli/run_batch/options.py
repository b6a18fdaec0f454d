"""The options of ``headrace run-batch``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace_cli import configuration, flags
from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.flag import accepts
from headrace_cli.terminal import Terminal

_OF_API = ("enable-prompt-tokens-details", "return-tokens-as-token-ids", "max-body-bytes", "request-timeout-s")
_OFFLINE_FLAGS = (
    *(
        replace(flag, help="Answer on this machine with that model; 'demo' is a small one.")
        if flag.name == "model"
        else flag
        for flag in flags.WORKER_FLAGS
    ),
    *(flag for flag in flags.API_FLAGS if flag.name in _OF_API),
    *flags.plugin_flags("API", "WORKER"),
    *flags.logging_flags("API", "WORKER"),
    flags.CONFIG_FLAG,
)
"""Those of the stack that answers offline."""
_PRIORITY = 100


@accepts(*_OFFLINE_FLAGS)
def run_batch(  # noqa: PLR0913 - one parameter per option of the command
    input_file: Annotated[
        str,
        typer.Option(
            "--input-file", "-i", help="JSON lines to answer: a file, a URL, or - for stdin.", metavar="PLACE"
        ),
    ],
    output_file: Annotated[
        str,
        typer.Option("--output-file", "-o", help="Where answers go: a file, a URL, or - for stdout.", metavar="PLACE"),
    ],
    url: Annotated[
        str | None,
        typer.Option("--url", help="Ask this running server, instead of --model on this machine.", show_default=False),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="Bearer token for that server.", show_default=False)
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Requests running at once.")] = 64,
    priority: Annotated[
        int | None,
        typer.Option(
            help=f"Priority of lines that have none, on a running server; lower goes first (default {_PRIORITY}).",
            show_default=False,
        ),
    ] = None,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(help="Host that URLs may name, as NAME or NAME:PORT; may be given several times.", metavar="HOST"),
    ] = None,
    max_input_bytes: Annotated[
        int, typer.Option(min=1, help="Largest input that is taken from a URL or a stream.", metavar="BYTES")
    ] = 512 * 1024 * 1024,
    output_tmp_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the answers that are to be sent to a URL.", metavar="FOLDER", show_default=False),
    ] = None,
    **given: Any,
) -> None:
    """Answer a file of requests, one JSON object a line, each with custom_id, method, url and body.

    With --model on this machine, which needs no running server; with --url by a server that runs, behind the requests of
    those who wait for theirs. Each line's answer is appended when it is there. A run that was stopped or killed is gone
    on with by the same command: what has its answer is not asked again. The exit status is 0 when all lines have theirs,
    refusals among them.

    \b
    Examples:
      headrace run-batch -i in.jsonl -o out.jsonl --model Qwen/Qwen3-0.6B
      headrace run-batch -i in.jsonl -o out.jsonl --url http://api-1:8000 --api-key secret -c 256
      headrace run-batch -i https://bucket.example/in.jsonl -o out.jsonl --allowed-hosts bucket.example --model demo
    """
    from headrace_cli.run_batch import command  # httpx and asyncio take time that --help should not

    if url is not None:
        _refuse_offline_flags(given)
        variables: dict[str, str] = {}
        priority = _PRIORITY if priority is None else priority
    else:
        if api_key is not None or priority is not None:
            name = "--api-key" if api_key is not None else "--priority"
            raise CliError(f"{name} is for a running server; name it with --url", exit_code=EXIT_CONFIGURATION)
        variables = configuration.texts(configuration.configured(_OFFLINE_FLAGS, given))
        if "HEADRACE_WORKER_MODEL" not in variables:
            raise CliError(
                "who is to answer? --model MODEL on this machine ('demo' is a small one), or --url of a running server",
                exit_code=EXIT_CONFIGURATION,
            )
    settings = command.RunBatchSettings(
        input_file=input_file,
        output_file=output_file,
        url=url,
        api_key=api_key,
        concurrency=concurrency,
        priority=priority,
        allowed_hosts=tuple(host for each in allowed_hosts or () for host in each.split(",")),
        max_input_bytes=max_input_bytes,
        result_folder=output_tmp_dir,
        variables=variables,
    )
    raise typer.Exit(command.run(settings, Terminal(stderr=True)))


def _refuse_offline_flags(given: dict[str, Any]) -> None:
    named = [f"--{flag.name}" for flag in _OFFLINE_FLAGS if given.get(flag.keyword) not in (None, [])]
    if named:
        raise CliError(
            f"{', '.join(named)}: is for a model on this machine, and --url asks a running server",
            exit_code=EXIT_CONFIGURATION,
        )
