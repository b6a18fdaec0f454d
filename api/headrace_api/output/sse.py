"""The response that carries server-sent events.

A response of our own and not sse-starlette's: frames come here already encoded, and one send
carries all that are ready. Measured side by side, an event costs 10 microseconds this way and 26
through EventSourceResponse.
"""

import asyncio
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headrace_shared.clock import mono_s

KEEP_ALIVE = b": keep-alive\n"
"""No empty line: once it has seen an event id, the OpenAI SDK takes comment and empty line for an event without data."""


class FrameSource(Protocol):
    """Where a response gets its bytes from."""

    async def next_frames(self) -> bytes:
        """All frames that are ready, at least one; b"" at the end."""

    def farewell(self) -> bytes:
        """The last frames when the server stops: an error, so that the client does not take the part for the whole."""

    async def aclose(self) -> None:
        """Called once in any case: the end, an error, a client that went away."""


class EventStream(Response):
    """Sends what ``source`` yields; comments while it is silent; closes it when the client goes away.

    ``keep_alive_s`` 0: no comments.
    """

    def __init__(self, source: FrameSource, *, keep_alive_s: float) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._source = source
        self._keep_alive_s = keep_alive_s
        self._sent_s = mono_s()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.create_task(self._pump(send))
        watch = asyncio.create_task(self._watch(receive, send))
        try:
            await asyncio.wait({pump, watch}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._break_off(pump, send)
            raise
        finally:
            watch.cancel()
            pump.cancel()
            await asyncio.gather(pump, watch, return_exceptions=True)
            await self._source.aclose()
        if not pump.cancelled():
            pump.result()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        while frames := await self._source.next_frames():
            self._sent_s = mono_s()
            await send({"type": "http.response.body", "body": frames, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Ends when the client has gone."""
        while True:
            try:
                async with asyncio.timeout(self._keep_alive_s or None):
                    message = await receive()
            except TimeoutError:
                if mono_s() - self._sent_s >= self._keep_alive_s / 2:
                    await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                continue
            if message["type"] == "http.disconnect":
                return

    async def _break_off(self, pump: "asyncio.Task[None]", send: Send) -> None:
        """The server is stopping: the client must see an error and not a neat but short answer."""
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)
        await send({"type": "http.response.body", "body": self._source.farewell(), "more_body": False})
