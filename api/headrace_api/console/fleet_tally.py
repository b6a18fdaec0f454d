"""FleetTally: what all API processes measured lately, so that a console shows the same whichever of them it asks."""

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from headrace_shared.errors import UnavailableError
from headrace_shared.queue.nodes import Nodes

_EVERY_S = 2.0
_KEEP_MS = 6000


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """One process, over the last ten seconds."""

    first_token: list[tuple[float, float]]
    """Edges, and the observations up to each."""
    between_tokens: list[tuple[float, float]]
    ended_per_s: float
    in_flight: int


class FleetTally:
    """``own`` is set by whoever measures; the others' is at most some seconds old."""

    def __init__(self, nodes: Nodes, node: str) -> None:
        self._nodes = nodes
        self._node = node
        self._others: Sequence[Tally] = ()
        self.own = Tally([], [], 0.0, 0)

    async def run(self) -> None:
        """Until cancelled. While Redis is away only this process is known."""
        while True:
            await self.exchange()
            await asyncio.sleep(_EVERY_S)

    async def exchange(self) -> None:
        """Tell and learn once."""
        try:
            told = await self._nodes.tell(self._node, msgspec.msgpack.encode(self.own), _KEEP_MS)
        except UnavailableError:
            self._others = ()
            return
        self._others = [tally for data in told.values() if (tally := _decoded(data)) is not None]

    def all(self) -> list[Tally]:
        """This process's first."""
        return [self.own, *self._others]


def added_up(parts: Iterable[Sequence[tuple[float, float]]]) -> dict[float, float]:
    """The buckets of several histograms that have the same edges."""
    total: dict[float, float] = {}
    for part in parts:
        for edge, count in part:
            total[edge] = total.get(edge, 0.0) + count
    return total


def _decoded(data: bytes) -> Tally | None:
    try:
        return msgspec.msgpack.decode(data, type=Tally)
    except msgspec.DecodeError:
        return None  # of another version
