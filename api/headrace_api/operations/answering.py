"""Telling an answer: the events of a request's jobs into a stream's frames, or into one body."""

import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing

import msgspec

from headrace_api.dispatch import Generation, merge
from headrace_api.errors import report
from headrace_api.operations.endpoint import Prepared
from headrace_api.operations.services import Services
from headrace_api.output.event_ids import EventIds
from headrace_shared.errors import HeadraceError, InternalError, UnavailableError

log = logging.getLogger(__name__)


async def collect(prepared: Prepared, generations: Sequence[Generation]) -> msgspec.Struct:
    """Everything to its end. Raises HeadraceError."""
    collector = prepared.collector()
    try:
        async with aclosing(merge(generations)) as merged:
            async for prompt, events in merged:
                collector.feed(prompt, events)
    except HeadraceError:
        _give_up(generations)
        raise
    return collector.finish()


class GenerationStream:
    """A FrameSource: the answer's frames as they can be told."""

    def __init__(
        self,
        prepared: Prepared,
        generations: Sequence[Generation],
        services: Services,
        *,
        after: Sequence[int] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        """``after``: the position from which the client goes on; None: from the beginning."""
        request_id = prepared.ask.request_id
        self._generations = generations
        self._merged = merge(generations)
        self._ids = EventIds(request_id, len(prepared.jobs), after)
        self._renderer = prepared.renderer(self._ids)
        self._resume = f"{services.settings.root_path}/v1/requests/{request_id}/stream"
        self._clients = services.metrics.sse_clients
        self._clients.inc()
        self._on_close = on_close
        self._opened = False
        self._over = False

    async def next_frames(self) -> bytes:
        """As FrameSource. A failure comes out as an event, and ends the stream."""
        self._ids.sent()
        if self._over:
            return b""
        if not self._opened:
            self._opened = True
            if frames := self._renderer.open():
                return frames
        try:
            async for prompt, events in self._merged:
                if frames := self._renderer.feed(prompt, events):
                    return frames
            self._over = True
            return self._renderer.finish()
        except HeadraceError as error:
            self._over = True
            _give_up(self._generations)
            report(error)
            if any(generation.failed for generation in self._generations):
                return self._renderer.fail(error)
            return self._renderer.break_off(error)
        except Exception:
            log.exception("stream failed")
            self._over = True
            return self._renderer.break_off(InternalError("stream failed"))

    def farewell(self) -> bytes:
        """As FrameSource. The request itself goes on, for the client to fetch the rest from another node."""
        for generation in self._generations:
            generation.keep()
        error = UnavailableError("The server is shutting down; the rest can be had from another one.")
        return self._renderer.break_off(error, self._resume)

    async def aclose(self) -> None:
        """Whatever is not finished is cancelled, unless the client comes back soon."""
        self._clients.dec()
        await self._merged.aclose()
        for generation in self._generations:
            await generation.aclose()
        if self._on_close is not None:
            self._on_close()


def _give_up(generations: Sequence[Generation]) -> None:
    """When one fails, the others are not worth finishing."""
    for generation in generations:
        generation.give_up()
