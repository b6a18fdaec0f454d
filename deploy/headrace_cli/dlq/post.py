"""Post: the dead letters of the queues that a command's options choose, and the forms they are shown in."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec
from pydantic import ValidationError
from rich.table import Table

from headrace_cli.errors import EXIT_CONFIGURATION, CliError
from headrace_shared.errors import HeadraceError
from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.queue.client import connect
from headrace_shared.queue.dead_letters import DeadLetter, DeadLetters
from headrace_shared.queue.presence import Presence
from headrace_shared.settings import RedisSettings

T = TypeVar("T")

_COLUMNS = ("entry", "died", "request", "model", "tenant", "lost workers", "last worker", "frames")


@dataclass(frozen=True)
class Choice:
    """What the options say; None: the exported address, every queue, every model."""

    redis_url: str | None
    queue: str | None
    model: str | None


class Found(NamedTuple):
    """A dead letter and the queue that it is kept in."""

    queue: str
    letter: DeadLetter


class Post:
    """Made by ``reach``."""

    def __init__(self, redis: Any, choice: Choice) -> None:
        self._presence = Presence(redis)
        self._choice = choice
        self.letters = DeadLetters(redis)

    async def queues(self) -> list[str]:
        """Raises CliError when the model has none."""
        if self._choice.queue is not None:
            return [self._choice.queue]
        known = await self._presence.queues()
        model = self._choice.model
        if model is None:
            return known
        chosen = [queue for queue in known if await self._serves(queue, model)]
        if not chosen:
            raise CliError(f"no worker has served {model!r} within the last day; name its queue with --queue")
        return chosen

    async def list(self, count: int) -> list[Found]:
        """The newest ``count`` of each queue."""
        return [
            Found(queue, letter) for queue in await self.queues() for letter in await self.letters.list(queue, count)
        ]

    async def find(self, entry: str) -> Found:
        """Raises CliError when there is no such dead letter."""
        for queue in await self.queues():
            if (letter := await self.letters.get(queue, entry)) is not None:
                return Found(queue, letter)
        raise CliError(f"there is no dead letter {entry}")

    async def _serves(self, queue: str, model: str) -> bool:
        card = await self._presence.card(queue.rpartition(".")[2])
        return card is not None and model in card.names


def reach(choice: Choice, work: Callable[[Post], Awaitable[T]]) -> T:
    """Run ``work`` on the Redis that was chosen. Raises CliError for all that can go wrong there."""
    try:
        settings = RedisSettings() if choice.redis_url is None else RedisSettings(url=choice.redis_url)
    except ValidationError as error:
        raise CliError(
            f"--redis: {error.errors()[0]['msg'].removeprefix('Value error, ')}", exit_code=EXIT_CONFIGURATION
        ) from None

    async def within() -> T:
        redis = connect(settings)
        try:
            return await work(Post(redis, choice))
        finally:
            await redis.aclose()

    try:
        return asyncio.run(within())
    except HeadraceError as error:
        raise CliError(error.message) from None


def summary(found: Found) -> dict[str, Any]:
    """What a list shows of one, ready for JSON."""
    letter = found.letter
    header = letter.job.header if letter.job else None
    return {
        "entry": letter.entry_id,
        "queue": found.queue,
        "request_id": letter.request_id,
        "died": datetime.fromtimestamp(letter.died_ms / 1000, UTC).isoformat(timespec="seconds"),
        "lost_workers": letter.lost,
        "last_worker": letter.worker,
        "frames": letter.seq,
        "tenant": header.tenant if header else None,
        "priority": header.priority if header else None,
    }


def details(found: Found) -> dict[str, Any]:
    """All that is known of one, ready for JSON: its job, the prompt as token ids, and the last that was said."""
    letter = found.letter
    job = None
    if letter.job is not None:
        # Digests are of no use here, and not text.
        header = msgspec.structs.replace(letter.job.header, affinity=())
        job = msgspec.to_builtins(msgspec.structs.replace(letter.job, header=header))
        job["prompt"] = unpack_ids(letter.job.prompt)
    return {**summary(found), "job": job, "said_last": msgspec.to_builtins(letter.tail)}


def table(found: list[Found]) -> tuple[Table, str]:
    """For a terminal, and as plain lines."""
    drawn = Table(*_COLUMNS)
    lines = ["\t".join(_COLUMNS)]
    for each in found:
        fields = summary(each)
        model = each.queue.rpartition(".")[0]
        cells = [fields["entry"], fields["died"], fields["request_id"], model, fields["tenant"] or "?"]
        cells += [str(fields["lost_workers"]), fields["last_worker"], str(fields["frames"])]
        drawn.add_row(*cells)
        lines.append("\t".join(cells))
    return drawn, "\n".join(lines)
