"""Subscriber: one pub/sub connection that outlives the TCP connections it is made of.

Speaks RESP2 itself over an asyncio protocol: a message costs less than a tenth of what redis-py's PubSub needs.
What was published while no connection stood is lost; ``on_subscribed`` says from when on a channel is heard again.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import cast

import hiredis

from headrace_shared.clock import mono_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.client import Endpoint

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 1.0
_SUBSCRIBE_TIMEOUT_S = 1.5
_PING_EVERY_S = 3.0
_UNSUBSCRIBE_DELAY_S = 0.05
_BACKOFF_S = (0.05, 1.0)


class _Link(asyncio.Protocol):
    """One connection: bytes in, replies out."""

    def __init__(self, on_reply: Callable[[object], None]) -> None:
        self._on_reply = on_reply
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self.lost = asyncio.get_running_loop().create_future()
        self.heard_s = mono_s()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_s = mono_s()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._on_reply(reply)
        except hiredis.ProtocolError:
            log.warning("redis sent something that is not RESP")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, *command: bytes | str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(hiredis.pack_command(command))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Subscriber:
    """Both callbacks run on the event loop and must not block.

    ``on_message(channel, payload)`` for each message; ``on_subscribed(channel)`` whenever the server has confirmed a
    channel, for the first time or again after a lost connection.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
    ) -> None:
        self._endpoint = endpoint
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._wanted: set[bytes] = set()
        self._confirmed: set[bytes] = set()
        self._to_subscribe: dict[bytes, None] = {}
        self._to_unsubscribe: dict[bytes, None] = {}
        self._waiters: dict[bytes, asyncio.Future[None]] = {}
        self._link: _Link | None = None
        self._hello: asyncio.Future[None] | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._flush_due_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and stay connected, in the background."""
        self._task = asyncio.create_task(self._stay_connected(), name="redis-subscriber")

    async def close(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def subscribe(self, channel: bytes) -> None:
        """Return once the server has confirmed the channel.

        Raises UnavailableError when it does not in time; the channel stays wanted until ``unsubscribe``.
        """
        self._wanted.add(channel)
        self._to_unsubscribe.pop(channel, None)
        if channel in self._confirmed:
            return
        waiter = self._waiters.get(channel)
        if waiter is None:
            waiter = self._waiters[channel] = asyncio.get_running_loop().create_future()
            self._to_subscribe[channel] = None
            self._flush_after(0)
        try:
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_S):
                await asyncio.shield(waiter)
        except TimeoutError:
            raise UnavailableError("Redis cannot be reached") from None

    def want(self, *channels: bytes) -> None:
        """Subscribe to these as soon as there is a connection, without waiting for it. To be called before ``start``."""
        self._wanted.update(channels)

    def unsubscribe(self, channel: bytes) -> None:
        """Forget the channel; the server learns of it a little later, together with others."""
        self._wanted.discard(channel)
        self._confirmed.discard(channel)
        self._to_subscribe.pop(channel, None)
        if (waiter := self._waiters.pop(channel, None)) is not None:
            waiter.cancel()
        self._to_unsubscribe[channel] = None
        self._flush_after(_UNSUBSCRIBE_DELAY_S)

    # One flush serves all that was asked for in the same turn of the event loop.

    def _flush_after(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + delay_s
        if self._flush_handle is not None:
            # Kept beside the handle: uvloop's has no ``when`` for a delay of zero.
            if self._flush_due_s <= due_s:
                return
            self._flush_handle.cancel()
        self._flush_handle, self._flush_due_s = loop.call_later(delay_s, self._flush), due_s

    def _flush(self) -> None:
        self._flush_handle = None
        subscribe, self._to_subscribe = self._to_subscribe, {}
        unsubscribe, self._to_unsubscribe = self._to_unsubscribe, {}
        # Without a link nothing is lost: the next one subscribes to all that is wanted.
        if self._link is not None:
            self._send(b"SUNSUBSCRIBE", unsubscribe)
            self._send(b"SSUBSCRIBE", subscribe)

    def _send(self, command: bytes, channels: Iterable[bytes]) -> None:
        names = list(channels)
        for start in range(0, len(names), 1000):
            if self._link is not None:
                self._link.send(command, *names[start : start + 1000])

    async def _stay_connected(self) -> None:
        delay_s = _BACKOFF_S[0]
        while True:
            try:
                link = await self._connect()
            except (OSError, TimeoutError, hiredis.ReplyError) as error:
                log.warning("cannot subscribe to redis, trying again", extra={"error": str(error)})
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, guards nothing
                delay_s = min(delay_s * 2, _BACKOFF_S[1])
                continue
            delay_s = _BACKOFF_S[0]
            self._link = link
            try:
                self._to_subscribe.clear()
                self._send(b"SSUBSCRIBE", self._wanted)
                await self._watch(link)
                log.warning("lost the subscription to redis, connecting again")
            finally:
                self._link = None
                self._confirmed.clear()
                link.abort()

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = _Link(self._on_reply)
        end = self._endpoint
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            if end.path is not None:
                await loop.create_unix_connection(lambda: link, end.path)
            else:
                await loop.create_connection(lambda: link, end.host, end.port, ssl=end.tls)
            try:
                await self._introduce(link)
            except BaseException:
                link.abort()
                raise
        return link

    async def _introduce(self, link: _Link) -> None:
        self._hello = asyncio.get_running_loop().create_future()
        if self._endpoint.password is not None:
            user = [self._endpoint.username] if self._endpoint.username else []
            link.send("AUTH", *user, self._endpoint.password)
        else:
            link.send("PING")
        done, _ = await asyncio.wait({self._hello, link.lost}, return_when=asyncio.FIRST_COMPLETED)
        if self._hello not in done:
            raise ConnectionResetError("connection closed")
        await self._hello

    async def _watch(self, link: _Link) -> None:
        """Return when the connection is lost, or has been silent in spite of a ping."""
        while not link.lost.done():
            await asyncio.wait({link.lost}, timeout=_PING_EVERY_S)
            silent_s = mono_s() - link.heard_s
            if silent_s > 2.5 * _PING_EVERY_S:
                return
            if silent_s > _PING_EVERY_S / 2:
                link.send("PING")

    def _on_reply(self, reply: object) -> None:
        if isinstance(reply, list):
            kind, channel = reply[0], reply[1]
            if kind == b"smessage":
                self._on_message(channel, reply[2])
            elif kind == b"ssubscribe" and channel in self._wanted:
                self._confirm(channel)
        elif self._hello is not None and not self._hello.done():
            if isinstance(reply, Exception):
                self._hello.set_exception(reply)
            else:
                self._hello.set_result(None)
        elif isinstance(reply, Exception):
            log.error("redis refuses a subscription", extra={"error": str(reply)})

    def _confirm(self, channel: bytes) -> None:
        self._confirmed.add(channel)
        self._on_subscribed(channel)
        if (waiter := self._waiters.pop(channel, None)) is not None and not waiter.done():
            waiter.set_result(None)
