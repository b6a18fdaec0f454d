"""``headrace batches``: what /v1/batches works on, seen from the terminal."""

import json
from typing import Annotated

import typer

from headrace_cli.arguments import Command
from headrace_cli.terminal import Terminal

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Look at, follow or cancel the batches of a server."
)

# Each command imports what talks HTTP only when it runs: that takes time which --help should not.

_Url = Annotated[str, typer.Option("--url", help="Base URL of an API node.")]
_Key = Annotated[str | None, typer.Option("--api-key", help="Bearer token for it.", show_default=False)]
_Id = Annotated[str, typer.Argument(help="Id as listed.", metavar="BATCH")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_LOCAL_URL = "http://127.0.0.1:8000"


@app.command(name="list", cls=Command)
def list_batches(
    url: _Url = _LOCAL_URL,
    api_key: _Key = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Most to show.")] = 20,
    as_json: _Json = False,
) -> None:
    """Show one's batches, the newest first.

    \b
    Examples:
      headrace batches list
      headrace batches list --url http://api-1:8000 --api-key secret --json
    """
    from headrace_cli.batches.client import BatchClient
    from headrace_cli.batches.view import table

    found = BatchClient(url, api_key).list(count)
    if as_json:
        print(json.dumps(found, indent=2))
    elif found:
        Terminal().show(*table(found))
    else:
        print("There are no batches.")


@app.command(cls=Command)
def show(batch: _Id, url: _Url = _LOCAL_URL, api_key: _Key = None) -> None:
    """Print all that is known of one as JSON: its state, counts, times, files and, when it is not valid, why.

    \b
    Example:
      headrace batches show batch_0123
    """
    from headrace_cli.batches.client import BatchClient

    print(json.dumps(BatchClient(url, api_key).show(batch), indent=2))


@app.command(cls=Command)
def watch(batch: _Id, url: _Url = _LOCAL_URL, api_key: _Key = None) -> None:
    """Follow one until its end. The exit status is 0 when it was completed, and 1 when it failed, expired or was cancelled.

    \b
    Example:
      headrace batches watch batch_0123 && headrace batches show batch_0123
    """
    from headrace_cli.batches.client import BatchClient
    from headrace_cli.batches.view import follow

    raise typer.Exit(follow(BatchClient(url, api_key), batch, Terminal()))


@app.command(cls=Command)
def cancel(
    batches: Annotated[list[str], typer.Argument(help="Ids as listed.", metavar="BATCH...")],
    url: _Url = _LOCAL_URL,
    api_key: _Key = None,
) -> None:
    """Stop batches; what is done by then can be fetched.

    \b
    Example:
      headrace batches cancel batch_0123
    """
    from headrace_cli.batches.client import BatchClient

    client = BatchClient(url, api_key)
    for batch in batches:
        print(f"{batch} is {client.cancel(batch)['status']}")
