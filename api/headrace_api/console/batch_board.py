"""BatchBoard: batches as consoles show them, with how fast they go and when they will be done."""

import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from headrace_api.schemas.console import BatchRow
from headrace_shared.clock import mono_s, wall_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.batch_book import OVER, BatchBook, BatchState, BatchStatus

_EVERY_S = 2.0
_MOST = 30
"""Of the newest, and of those that are not done."""
_WINDOW_S = 30.0
"""That a rate is taken over."""
_SHORTEST_S = 5.0
"""Results come in segments: a rate over less would jump."""


@dataclass(slots=True)
class _Progress:
    """How many items had a result when, of late."""

    readings: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, at_s: float, ended: int) -> None:
        self.readings.append((at_s, ended))
        while at_s - self.readings[0][0] > _WINDOW_S:
            self.readings.popleft()

    def per_s(self) -> float | None:
        """None: it was not watched for long enough."""
        (begun_s, before), (now_s, ended) = self.readings[0], self.readings[-1]
        return (ended - before) / (now_s - begun_s) if now_s - begun_s >= _SHORTEST_S else None


class BatchBoard:
    """Read from Redis only while somebody looks, and for those with the same key together."""

    def __init__(self, book: BatchBook) -> None:
        self._book = book
        self._rows: dict[str | None, Sequence[BatchRow]] = {}
        self._read_s: dict[str | None, float] = {}
        self._progress: dict[str, _Progress] = {}

    def rows(self, owner: str | None) -> list[BatchRow]:
        """As they were read last; ``owner`` None: everybody's."""
        return list(self._rows.get(owner, ()))

    async def refresh(self, owner: str | None) -> None:
        """Read them, unless that was done a moment ago. While Redis is away those that are known stay."""
        now_s = mono_s()
        if now_s - self._read_s.get(owner, -_EVERY_S) < _EVERY_S:
            return
        self._read_s[owner] = now_s
        with contextlib.suppress(UnavailableError):
            states = await self._book.overview(owner, _MOST)
            self._rows[owner] = [self._row(state, now_s) for state in states]

    def keep_only(self, owners: Iterable[str | None]) -> None:
        """Forget what nobody looks at any more."""
        kept = set(owners)
        for owner in self._rows.keys() - kept:
            del self._rows[owner], self._read_s[owner]
        shown = {row.id for rows in self._rows.values() for row in rows}
        for batch_id in self._progress.keys() - shown:
            del self._progress[batch_id]

    def _row(self, state: BatchState, now_s: float) -> BatchRow:
        spec, ended = state.spec, state.completed + state.failed
        rate = self._rate(state, now_s)
        working = state.status is BatchStatus.IN_PROGRESS
        return BatchRow(
            id=spec.id,
            status=state.status,
            model=state.model,
            endpoint=spec.endpoint,
            tenant=spec.tenant,
            created_at=spec.created_at,
            expires_at=spec.expires_at,
            ended_at=state.times[state.status] if state.status in OVER else None,
            total=state.total,
            completed=state.completed,
            failed=state.failed,
            items_per_s=None if rate is None else round(rate, 3),
            left_s=round((state.total - ended) / rate, 1) if working and rate else None,
            problem=_told(state),
        )

    def _rate(self, state: BatchState, now_s: float) -> float | None:
        """Of late while it is worked on, else over all; None before it begins."""
        begun_s, ended = state.times.get(BatchStatus.IN_PROGRESS), state.completed + state.failed
        if begun_s is None:
            return None
        until_s = wall_s()
        if state.status is BatchStatus.IN_PROGRESS:
            progress = self._progress.setdefault(state.spec.id, _Progress())
            progress.note(now_s, ended)
            if (lately := progress.per_s()) is not None:
                return lately
        else:
            if (state.ending or state.status) is not BatchStatus.COMPLETED:
                ended = state.completed  # what was never answered failed too
            stops = (BatchStatus.FINALIZING, BatchStatus.CANCELLING, state.status)
            until_s = next((state.times[each] for each in stops if each in state.times), until_s)
        return ended / max(until_s - begun_s, 1)


def _told(state: BatchState) -> str | None:
    """The first thing that is wrong with it."""
    if not state.problems:
        return None
    first = state.problems[0]
    where = f"line {first.line}: " if first.line else ""
    more = f" (and {len(state.problems) - 1} more)" if len(state.problems) > 1 else ""
    return f"{where}{first.message}{more}"
