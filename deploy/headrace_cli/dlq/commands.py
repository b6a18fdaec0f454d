"""``headrace dlq``: requests that were given up because every worker that ran them was lost."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from headrace_cli.arguments import Command
from headrace_cli.errors import CliError
from headrace_cli.terminal import Terminal

if TYPE_CHECKING:
    from headrace_cli.dlq.post import Post

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at, repeat or delete requests that were given up because every worker that ran them was lost.",
)

# Each command imports what talks to Redis only when it runs: that takes time which --help should not.

_Redis = Annotated[
    str | None,
    typer.Option("--redis", help="The queue's Redis. [env: HEADRACE_REDIS_URL]", metavar="URL", show_default=False),
]
_Queue = Annotated[
    str | None, typer.Option("--queue", help="Only this queue; default: all.", metavar="NAME", show_default=False)
]
_Model = Annotated[
    str | None, typer.Option("--model", help="Only this model's queues.", metavar="NAME", show_default=False)
]


@app.command(name="list", cls=Command)
def list_letters(
    redis: _Redis = None,
    queue: _Queue = None,
    model: _Model = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Most to show of each queue.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what was given up, the newest first.

    \b
    Examples:
      headrace dlq list --redis redis://queue:6379/0
      headrace dlq list --model Qwen/Qwen3-0.6B --json
    """
    from headrace_cli.dlq.post import Choice, reach, summary, table

    found = reach(Choice(redis, queue, model), lambda post: post.list(count))
    if as_json:
        print(json.dumps([summary(each) for each in found], indent=2))
    elif found:
        Terminal().show(*table(found))
    else:
        print("There are no dead letters.")


@app.command(cls=Command)
def show(
    entry: Annotated[str, typer.Argument(help="Entry as listed.")],
    redis: _Redis = None,
    queue: _Queue = None,
    model: _Model = None,
) -> None:
    """Print all that is known of one as JSON, its prompt as token ids.

    \b
    Example:
      headrace dlq show 1764000000000-0
    """
    from headrace_cli.dlq.post import Choice, details, reach

    print(json.dumps(details(reach(Choice(redis, queue, model), lambda post: post.find(entry))), indent=2))


@app.command(cls=Command)
def retry(
    entries: Annotated[list[str], typer.Argument(help="Entries as listed.", metavar="ENTRY...")],
    redis: _Redis = None,
    queue: _Queue = None,
    model: _Model = None,
) -> None:
    """Put requests into the queue again, with new ids and all their attempts.

    \b
    Example:
      headrace dlq retry 1764000000000-0
    """
    from headrace_cli.dlq.post import Choice, reach

    async def work(post: "Post") -> None:
        for entry in entries:
            found = await post.find(entry)
            print(f"{entry} is queued again as {await post.letters.retry(found.queue, entry)}")

    reach(Choice(redis, queue, model), work)


@app.command(cls=Command)
def purge(
    entries: Annotated[
        list[str] | None, typer.Argument(help="Entries as listed; default: all.", metavar="[ENTRY...]")
    ] = None,
    redis: _Redis = None,
    queue: _Queue = None,
    model: _Model = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters for good.

    \b
    Examples:
      headrace dlq purge 1764000000000-0
      headrace dlq purge --model Qwen/Qwen3-0.6B --yes
    """
    from headrace_cli.dlq.post import Choice, reach

    choice = Choice(redis, queue, model)
    queues = reach(choice, lambda post: post.queues())
    what = ", ".join(entries) if entries else f"all dead letters of {', '.join(queues) or 'no queue'}"
    if not yes and not typer.confirm(f"Delete {what}?"):
        raise CliError("nothing was deleted")

    async def work(post: "Post") -> int:
        return sum([await post.letters.purge(each, entries or None) for each in queues])

    print(f"Deleted: {reach(choice, work)}")
