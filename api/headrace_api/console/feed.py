"""ConsoleFeed: once a second one picture of the fleet for all who look at a console or at ``headrace top``.

It is made from what the process knows anyway, so that viewers cost Redis nothing; only dead letters and batches are
read for them, once in a while, however many look.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import msgspec

from headrace_api.console.batch_board import BatchBoard
from headrace_api.console.fleet_tally import FleetTally
from headrace_api.console.recorder import Recorder
from headrace_api.console.rows import dead_letter_row, model_row, request_row
from headrace_api.directory import ModelDirectory
from headrace_api.drain import Drain
from headrace_api.fleet_view import FleetView
from headrace_api.metrics import Metrics
from headrace_api.schemas.console import DeadLetterRow, Own, Point, Shared
from headrace_api.timeline import Timelines
from headrace_shared.clock import mono_s, wall_ms
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.batch_book import BatchBook
from headrace_shared.queue.dead_letters import DeadLetters
from headrace_shared.queue.nodes import Nodes

log = logging.getLogger(__name__)

_TICK_S = 1.0
_LETTERS_S = 5.0
_MOST_LETTERS = 50
"""Of each queue."""
_MOST_REQUESTS = 60

_encode = msgspec.json.Encoder().encode
_VERSION = version("headrace")


@dataclass(frozen=True, slots=True)
class Audience:
    """Viewers that see the same. ``owner`` as in ``Caller``."""

    owner: str
    admin: bool

    @property
    def sees(self) -> str | None:
        """Whose requests and batches; None: everybody's."""
        return None if self.admin else self.owner


@dataclass(frozen=True, slots=True)
class Sources:
    """What the picture is made from."""

    fleet: FleetView
    timelines: Timelines
    metrics: Metrics
    directory: ModelDirectory
    dead_letters: DeadLetters
    nodes: Nodes
    batches: BatchBook


class ConsoleFeed:
    """Records always, draws only while somebody looks."""

    def __init__(self, sources: Sources, drain: Drain) -> None:
        self._sources = sources
        self._drain = drain
        self._node = f"{socket.gethostname()}:{os.getpid()}"
        self.tally = FleetTally(sources.nodes, f"{self._node}:{secrets.token_hex(4)}")
        self._recorder = Recorder(sources.metrics, self.tally)
        self._batches = BatchBoard(sources.batches)
        self._viewers: dict[Audience, int] = {}
        self._letters: Sequence[DeadLetterRow] = ()
        self._letters_read_s = -_LETTERS_S
        self._frames: dict[Audience, bytes] = {}
        self._shared = b""
        self._ticked = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._tick()
            except Exception:
                log.exception("the console cannot be drawn")
            await asyncio.sleep(_TICK_S)

    def watch(self, audience: Audience) -> "Viewer":
        """Whoever looks; to be closed."""
        self._viewers[audience] = self._viewers.get(audience, 0) + 1
        return Viewer(self, audience)

    def leave(self, audience: Audience) -> None:
        self._viewers[audience] -= 1
        if not self._viewers[audience]:
            del self._viewers[audience]

    async def look_at_letters(self) -> None:
        """Read the dead letters now: somebody has changed them. Raises UnavailableError."""
        queues = await self._sources.directory.queues()
        letters = self._sources.dead_letters
        rows = [dead_letter_row(queue, each) for queue in queues for each in await letters.list(queue, _MOST_LETTERS)]
        self._letters = sorted(rows, key=lambda row: -row.died_ms)
        self._letters_read_s = mono_s()
        self._frames.clear()

    async def refresh(self, audience: Audience) -> None:
        """Read what is read for viewers, where that was not done a moment ago."""
        if self._sources.fleet.snapshot.redis:
            await self._batches.refresh(audience.sees)
        if audience.admin:
            await self._refresh_letters()

    async def _refresh_letters(self) -> None:
        """Not again within five seconds. While Redis is away those that are known stay."""
        if mono_s() - self._letters_read_s < _LETTERS_S:
            return
        self._letters_read_s = mono_s()
        with contextlib.suppress(UnavailableError):
            await self.look_at_letters()

    def history(self) -> bytes:
        """The charts so far, as an event."""
        return _event(b"history", _encode(list(self._recorder.points)))

    def frame(self, audience: Audience) -> bytes:
        """The picture of this second, as an event."""
        if audience not in self._frames:
            self._shared = self._shared or _encode(self._draw())
            own = _encode(self._own(audience))
            # Two objects made into one: what all see is encoded once.
            self._frames[audience] = _event(b"snapshot", self._shared[:-1] + b"," + own[1:])
        return self._frames[audience]

    async def next_tick(self) -> bool:
        """Wait for the next second; False when the process is about to stop."""
        await self._ticked.wait()
        return not self._drain.begun

    async def _tick(self) -> None:
        models = self._sources.fleet.snapshot.models
        self._recorder.record(wall_ms(), sum(worker.tokens_per_s for model in models for worker in model.workers))
        self._frames.clear()
        self._shared = b""
        for audience in list(self._viewers):
            await self.refresh(audience)
        self._batches.keep_only(audience.sees for audience in self._viewers)
        ticked, self._ticked = self._ticked, asyncio.Event()
        ticked.set()

    def _draw(self) -> Shared:
        snapshot = self._sources.fleet.snapshot
        return Shared(
            node=self._node,
            version=_VERSION,
            now_ms=wall_ms(),
            taken_ms=snapshot.taken_ms,
            redis=snapshot.redis,
            point=self._recorder.points[-1] if self._recorder.points else _NOTHING,
            models=[model_row(model) for model in snapshot.models],
        )

    def _own(self, audience: Audience) -> Own:
        recent = self._sources.timelines.recent()
        mine = [past for past in recent if audience.sees in (None, past.owner)]
        return Own(
            admin=audience.admin,
            requests=[request_row(past) for past in mine[:_MOST_REQUESTS]],
            batches=self._batches.rows(audience.sees),
            dead_letters=list(self._letters) if audience.admin else [],
        )


class Viewer:
    """A source of frames for one connection: a slow one misses pictures, and gets the newest."""

    def __init__(self, feed: ConsoleFeed, audience: Audience) -> None:
        self._feed = feed
        self._audience = audience
        self._begun = False

    async def next_frames(self) -> bytes:
        """A second's picture, the first with the history before it; b"" when the process is about to stop."""
        if not self._begun:
            self._begun = True
            await self._feed.refresh(self._audience)
            return self._feed.history() + self._feed.frame(self._audience)
        return self._feed.frame(self._audience) if await self._feed.next_tick() else b""

    def farewell(self) -> bytes:
        """Nothing: a viewer comes back."""
        return b""

    async def aclose(self) -> None:
        self._feed.leave(self._audience)


_NOTHING = Point(
    at_ms=0,
    tokens_per_s=0,
    requests_per_s=0,
    in_flight=0,
    ttft_p50_ms=None,
    ttft_p95_ms=None,
    itl_p50_ms=None,
    itl_p95_ms=None,
)


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"
