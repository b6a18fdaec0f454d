"""StreamHub: one subscription per process, fanned out to a ResultStream per reader."""

import asyncio
import contextlib

from redis.asyncio import Redis

from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue import keys
from headrace_shared.queue.stream import ResultStream
from headrace_shared.queue.subscriber import Subscriber
from headrace_shared.queue.token_log import TokenLog

_SILENCE_S = 2.0
"""A stream that has heard nothing for so long is compared with its log."""
_SWEEP_EVERY_S = 0.5
_SWEEP_CHUNK = 256


class StreamHub:
    """The API end of every token channel. Reading from Redis never waits for a reader of a stream."""

    def __init__(self, redis: Redis) -> None:
        self._log = TokenLog(redis)
        self._subscriber = Subscriber(redis, self._on_message, self._on_subscribed)
        self._streams: dict[bytes, list[ResultStream]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to connect. Does not fail when Redis is away: ``open`` does, until it is back."""
        await self._subscriber.start()
        self._sweeper = asyncio.create_task(self._sweep(), name="stream-hub-sweeper")

    async def close(self) -> None:
        """End every stream and the connection."""
        for stream in [stream for streams in self._streams.values() for stream in streams]:
            stream.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        await self._subscriber.close()

    async def open(self, queue: str, request_id: str) -> ResultStream:
        """Listen to a request that is about to be enqueued; begins with its first frame.

        For one that may have begun already, call ``replay_from`` next. Raises UnavailableError when Redis does not confirm the subscription in time.
        """
        channel = keys.token_channel(queue, request_id)
        stream = ResultStream(queue, request_id, self._log, self._forget)
        self._streams.setdefault(channel, []).append(stream)
        try:
            await self._subscriber.subscribe(channel)
        except BaseException:
            stream.close()
            raise
        stream.listening = True
        return stream

    def _forget(self, stream: ResultStream) -> None:
        channel = keys.token_channel(stream.queue, stream.request_id)
        streams = self._streams.get(channel, [])
        if stream in streams:
            streams.remove(stream)
        if not streams and self._streams.pop(channel, None) is not None:
            self._subscriber.unsubscribe(channel)

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        seq, _, frame = payload.partition(b"|")
        for stream in self._streams.get(channel, ()):
            stream.offer(int(seq), frame)

    def _on_subscribed(self, channel: bytes) -> None:
        for stream in self._streams.get(channel, ()):
            if stream.listening:  # so this is a new connection, and there was a time without one
                stream.fall_behind()

    async def _sweep(self) -> None:
        """Lost messages leave no trace on the channel; compare silent streams with their logs."""
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            now_s = mono_s()
            silent = [s for streams in self._streams.values() for s in streams if s.silent(now_s, _SILENCE_S)]
            for start in range(0, len(silent), _SWEEP_CHUNK):
                chunk = silent[start : start + _SWEEP_CHUNK]
                with contextlib.suppress(UnavailableError):
                    heads = await self._log.heads([(stream.queue, stream.request_id) for stream in chunk])
                    for stream, head in zip(chunk, heads, strict=True):
                        stream.compare(head)
