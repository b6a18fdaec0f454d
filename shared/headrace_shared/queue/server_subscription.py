"""ServerSubscription: the channels heard at one server, over a connection that is made again whenever it is lost.

Speaks RESP2 itself over an asyncio protocol: a message costs less than a tenth of what redis-py's PubSub needs.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import hiredis
from redis.crc import key_slot

from headrace_shared.clock import mono_s
from headrace_shared.queue.topology import Endpoint, Topology

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 1.0
_PING_EVERY_S = 3.0
_UNSUBSCRIBE_DELAY_S = 0.05
_BACKOFF_S = (0.05, 1.0)
_CHANNELS_PER_CALL = 1000


@dataclass(frozen=True, slots=True)
class Listener:
    """What is called, on the event loop; none of it may block."""

    message: Callable[[bytes, bytes], None]
    """Channel and payload."""
    confirmed: Callable[[bytes], None]
    """The channel is heard from now on; again after each time without it."""
    trouble: Callable[[], None]
    """This may not be the server to ask any more."""


class _Link(asyncio.Protocol):
    """One connection: bytes in, replies out."""

    def __init__(self, on_reply: Callable[[object], None]) -> None:
        self._on_reply = on_reply
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._asked: deque[asyncio.Future[Any]] = deque()
        self.lost = asyncio.get_running_loop().create_future()
        self.heard_s = mono_s()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_s = mono_s()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError:
            log.warning("redis sent something that is not RESP")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, *command: bytes | str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(hiredis.pack_command(command))

    async def ask(self, *command: bytes | str) -> Any:
        """The reply to a command; only before the first subscription. Raises ReplyError or OSError."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.send(*command)
        done, _ = await asyncio.wait({answer, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        if answer not in done:
            raise ConnectionResetError("connection closed")
        return await answer

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _take(self, reply: object) -> None:
        if not self._asked:
            self._on_reply(reply)
        elif not (answer := self._asked.popleft()).done():
            if isinstance(reply, Exception):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)


class ServerSubscription:
    """Connects at once, and stays connected until it is closed."""

    def __init__(self, endpoint: Endpoint, topology: Topology, listener: Listener) -> None:
        self.endpoint = endpoint
        self.confirmed: set[bytes] = set()
        """The channels that are heard now."""
        self._topology = topology
        self._listener = listener
        self._wanted: set[bytes] = set()
        self._refused = False
        self._to_subscribe: dict[bytes, None] = {}
        self._to_unsubscribe: dict[bytes, None] = {}
        self._link: _Link | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._flush_due_s = 0.0
        self._task = asyncio.create_task(self._stay_connected(), name="redis-subscription")

    async def close(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def add(self, channel: bytes) -> None:
        """Hear this channel as soon as possible, and until it is dropped."""
        self._wanted.add(channel)
        self._to_unsubscribe.pop(channel, None)
        self._to_subscribe[channel] = None
        self._flush_after(0)

    def drop(self, channel: bytes) -> None:
        """Forget the channel; the server learns of it a little later, together with others."""
        self._wanted.discard(channel)
        self.confirmed.discard(channel)
        self._to_subscribe.pop(channel, None)
        self._to_unsubscribe[channel] = None
        self._flush_after(_UNSUBSCRIBE_DELAY_S)

    def retry(self) -> None:
        """Ask again for what the server has refused."""
        if self._refused:
            self._refused = False
            self._to_subscribe.update(dict.fromkeys(self._wanted - self.confirmed))
            self._flush_after(0)

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
        slots: dict[int, list[bytes]] = {}
        for channel in channels:
            slots.setdefault(key_slot(channel) if self._topology.by_slot else 0, []).append(channel)
        for names in slots.values():
            for start in range(0, len(names), _CHANNELS_PER_CALL):
                if self._link is not None:
                    self._link.send(command, *names[start : start + _CHANNELS_PER_CALL])

    async def _stay_connected(self) -> None:
        delay_s = _BACKOFF_S[0]
        while True:
            try:
                link = await self._connect()
            except (OSError, TimeoutError, hiredis.ReplyError) as error:
                log.warning("cannot subscribe to redis, trying again", extra={"error": str(error)})
                self._listener.trouble()
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
                self.confirmed.clear()
                link.abort()
            self._listener.trouble()

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = _Link(self._on_reply)
        end = self.endpoint
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
        if self.endpoint.password is not None:
            user = [self.endpoint.username] if self.endpoint.username else []
            await link.ask("AUTH", *user, self.endpoint.password)
        else:
            await link.ask("PING")
        if self._topology.ask_role and (await link.ask("ROLE"))[0] != b"master":
            raise ConnectionRefusedError("this server is a replica")

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
                self._listener.message(channel, reply[2])
            elif kind == b"ssubscribe" and channel in self._wanted:
                self.confirmed.add(channel)
                self._listener.confirmed(channel)
            elif kind == b"sunsubscribe" and channel in self.confirmed:
                self.confirmed.discard(channel)  # its slot has left this server
                self._on_refusal()
        elif isinstance(reply, Exception):
            log.warning("redis refuses a subscription", extra={"error": str(reply)})
            self._on_refusal()

    def _on_refusal(self) -> None:
        self._refused = True
        self._listener.trouble()
