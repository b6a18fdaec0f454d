"""The options of ``headrace bench`` and ``headrace bench compare``."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from headrace_cli.arguments import Command, Group
from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_cli.terminal import Terminal

app = typer.Typer(rich_markup_mode=None)

LOADS = {"A": (128, 64), "B": (16, 128)}
"""Prompt and output tokens of the loads that have names."""

_Mode = Annotated[
    Literal["tokens", "text", "chat"],
    typer.Option(help="Prompts as token ids, as text, or as chat messages for servers that have no completions."),
]
_Seed = Annotated[int, typer.Option(help="Equal seeds give equal prompts.")]
_JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Also write the figures to this file.", metavar="FILE", show_default=False)
]


@app.callback(cls=Group, invoke_without_command=True)
def bench(  # noqa: PLR0913 - one parameter per option of the command
    context: typer.Context,
    url: Annotated[
        str, typer.Option("--url", help="Base URL of an OpenAI-compatible server.")
    ] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None, typer.Option("--model", help="Model to ask; default: the first that it lists.", show_default=False)
    ] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", help="Bearer token for it.", show_default=False)] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Requests running at once.")] = 8,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Send so many requests per second at random times, instead of --concurrency at once.",
            show_default=False,
        ),
    ] = None,
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="Requests in all.")] = 64,
    input_tokens: Annotated[int, typer.Option(min=1, help="Length of each prompt.")] = 128,
    output_tokens: Annotated[int, typer.Option(min=1, help="Length of each answer.")] = 64,
    mode: _Mode = "tokens",
    warmup: Annotated[int, typer.Option(min=0, help="Requests before the measured ones.")] = 1,
    seed: _Seed = 0,
    json_file: _JsonFile = None,
) -> None:
    """Measure a server: time to first token, time between tokens, throughput, and how they are spread.

    \b
    Examples:
      headrace bench -c 32 -n 128
      headrace bench --rate 4 --input-tokens 16 --output-tokens 128 --json load-b.json
      headrace bench --url http://other:8080 --mode chat
      headrace bench compare http://127.0.0.1:8000 http://other:8080
    """
    if context.invoked_subcommand is not None:
        _refuse_misplaced(context)
        return
    from headrace_cli.bench import command
    from headrace_cli.bench.workload import Workload

    workload = Workload(model or "", mode, requests, input_tokens, output_tokens, seed)
    settings = command.BenchSettings(url, api_key, workload, concurrency, rate, warmup, json_file)
    raise typer.Exit(command.run(settings, Terminal()))


@app.command(cls=Command)
def compare(  # noqa: PLR0913 - one parameter per option of the command
    url_a: Annotated[str, typer.Argument(help="Base URL of the server that is compared with.", metavar="URL_A")],
    url_b: Annotated[str, typer.Argument(help="Base URL of the other one.", metavar="URL_B")],
    load: Annotated[
        list[str] | None,
        typer.Option(
            help="A: prompts of 128 tokens and 64 new ones; B: 16 and 128; or IN:OUT. May be given several times (default A and B).",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(
            "--concurrency",
            "-c",
            min=1,
            help="Requests running at once; may be given several times (default 8).",
            show_default=False,
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of runs for each load.")] = 5,
    requests: Annotated[
        int | None,
        typer.Option(
            "--requests",
            "-n",
            min=1,
            help="Requests of each run (default: twice as many as run at once, at least 4).",
            show_default=False,
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None, typer.Option(help="Bearer token for both; given twice: for A and for B.", metavar="KEY")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model to ask of both; given twice: of A and of B (default: the first listed).", metavar="NAME"
        ),
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="What to call A, and given again B (default: their URLs).", metavar="NAME")
    ] = None,
    mode: _Mode = "tokens",
    seed: _Seed = 0,
    json_file: _JsonFile = None,
    svg_file: Annotated[
        Path | None,
        typer.Option("--svg", help="Draw the ratios into this file.", metavar="FILE", show_default=False),
    ] = None,
) -> None:
    """Measure two servers in turns, so that what happens to the machine meanwhile happens to both, and tell how they differ.

    \b
    Examples:
      headrace bench compare http://127.0.0.1:8000 http://127.0.0.1:8080
      headrace bench compare old:8000 new:8000 --load A -c 1 -c 8 -c 32 --pairs 7 --svg ratios.svg
      headrace bench compare a:8000 b:8000 --api-key key-a --api-key key-b --load 2000:16 --json figures.json
    """
    from headrace_cli.bench import compare_command
    from headrace_cli.bench.compare import Cell

    loads = [(each, *_load(each)) for each in load or LOADS]
    keys, models = _two(api_key, "--api-key"), _two(model, "--model")
    if name is not None and len(name) != 2:
        raise CliError("--name is given twice: for A and for B", exit_code=EXIT_CONFIGURATION)
    names = name or [url_a, url_b]
    settings = compare_command.CompareSettings(
        peers=(
            compare_command.Peer(url_a, names[0], keys[0], models[0]),
            compare_command.Peer(url_b, names[1], keys[1], models[1]),
        ),
        cells=tuple(
            Cell(title, input_tokens, output_tokens, at_once, requests or max(2 * at_once, 4), mode)
            for title, input_tokens, output_tokens in loads
            for at_once in concurrency or [8]
        ),
        pairs=pairs,
        seed=seed,
        json_file=json_file,
        svg_file=svg_file,
    )
    raise typer.Exit(compare_command.run(settings, Terminal()))


def _load(text: str) -> tuple[int, int]:
    if text.upper() in LOADS:
        return LOADS[text.upper()]
    lengths = re.fullmatch(r"([1-9]\d{0,6}):([1-9]\d{0,6})", text, re.ASCII)
    if lengths is None:
        raise CliError(f"--load {text}: is A, B or IN:OUT, like 2000:16", exit_code=EXIT_CONFIGURATION)
    return int(lengths[1]), int(lengths[2])


def _two(given: list[str] | None, option: str) -> tuple[str | None, str | None]:
    if not given:
        return None, None
    if len(given) > 2:
        raise CliError(f"{option} is given once or twice: for A and for B", exit_code=EXIT_CONFIGURATION)
    return given[0], given[-1]


def _refuse_misplaced(context: typer.Context) -> None:
    given = [
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if given:
        option = f"--{given[0].replace('_', '-').removesuffix('-file')}"
        raise CliError(f"{option} goes behind {context.invoked_subcommand}", exit_code=EXIT_CONFIGURATION)
