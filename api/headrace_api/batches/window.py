"""Window: how many items a batch worker has in the queue at once, and whose turn it is."""

import asyncio
from collections import OrderedDict, deque


class Window:
    """Places that are handed out in turn: among tenants first, then among the batches of one."""

    def __init__(self, places: int) -> None:
        self._places = self._free = places
        self._waiting: OrderedDict[str, OrderedDict[str, deque[asyncio.Future[None]]]] = OrderedDict()

    @property
    def free(self) -> int:
        return self._free

    @property
    def used(self) -> int:
        return self._places - self._free

    async def enter(self, tenant: str, batch_id: str) -> None:
        """Wait for a place. To be followed by ``leave``, unless this is cancelled."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, OrderedDict()).setdefault(batch_id, deque()).append(turn)
        self._hand_out_soon()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was given a place at the same moment
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._free += 1
        self._hand_out_soon()

    def _hand_out_soon(self) -> None:
        """Not at once: when several places are free, whoever has got one would come back for the others before its turn."""
        asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        while self._free > 0 and (turn := self._next()) is not None:
            if not turn.done():
                turn.set_result(None)
                self._free -= 1

    def _next(self) -> asyncio.Future[None] | None:
        """Whoever is next; its batch and its tenant go to the end of their lines."""
        if not self._waiting:
            return None
        tenant, batches = self._waiting.popitem(last=False)
        batch_id, turns = batches.popitem(last=False)
        turn = turns.popleft()
        if turns:
            batches[batch_id] = turns
        if batches:
            self._waiting[tenant] = batches
        return turn
