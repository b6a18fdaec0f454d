"""Subscriber: sharded channels, heard wherever they live; it follows them when they move.

What was published while a channel was not heard is lost; ``on_subscribed`` says from when on it is heard again.
"""

import asyncio
import logging
import random
from collections.abc import Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace_shared.errors import UnavailableError
from headrace_shared.queue.client import topology_of
from headrace_shared.queue.server_subscription import Listener, ServerSubscription
from headrace_shared.queue.topology import Endpoint

log = logging.getLogger(__name__)

_SUBSCRIBE_TIMEOUT_S = 1.5
_LOOK_EVERY_S = 3.0
"""A primary that has become a replica in an orderly way keeps its connections: nothing tells of it."""
_PAUSE_S = (0.05, 1.0)


class Subscriber:
    """Both callbacks run on the event loop and must not block.

    ``on_message(channel, payload)`` for each message; ``on_subscribed(channel)`` whenever a server has confirmed a
    channel, for the first time or again after it was not heard.
    """

    def __init__(
        self,
        redis: Redis,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
    ) -> None:
        self._topology = topology_of(redis)
        self._on_subscribed = on_subscribed
        self._trouble = asyncio.Event()
        self._listener = Listener(on_message, self._confirm, self._trouble.set)
        self._homes: dict[bytes, ServerSubscription | None] = {}  # every wanted channel
        self._servers: dict[Endpoint, ServerSubscription] = {}
        self._waiters: dict[bytes, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and stay connected, in the background."""
        self._task = asyncio.create_task(self._follow(), name="redis-subscriber")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for server in self._servers.values():
            await server.close()

    async def subscribe(self, channel: bytes) -> None:
        """Return once the server has confirmed the channel.

        Raises UnavailableError when it does not in time; the channel stays wanted until ``unsubscribe``.
        """
        home = self._homes.get(channel)
        if home is not None and channel in home.confirmed:
            return
        waiter = self._waiters.get(channel)
        if waiter is None:
            waiter = self._waiters[channel] = asyncio.get_running_loop().create_future()
        if channel not in self._homes:
            self._homes[channel] = None
            self._place(channel)
        try:
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_S):
                await asyncio.shield(waiter)
        except TimeoutError:
            raise UnavailableError("Redis cannot be reached") from None

    def want(self, *channels: bytes) -> None:
        """Subscribe to these as soon as possible, without waiting for it. To be called before ``start``."""
        self._homes.update(dict.fromkeys(channels))

    def unsubscribe(self, channel: bytes) -> None:
        """Forget the channel; the server learns of it a little later, together with others."""
        if (home := self._homes.pop(channel, None)) is not None:
            home.drop(channel)
        if (waiter := self._waiters.pop(channel, None)) is not None:
            waiter.cancel()

    def _confirm(self, channel: bytes) -> None:
        self._on_subscribed(channel)
        if (waiter := self._waiters.pop(channel, None)) is not None and not waiter.done():
            waiter.set_result(None)

    def _place(self, channel: bytes) -> None:
        """Hear the channel where it lives now."""
        old = self._homes[channel]
        endpoint = self._topology.home(channel)
        if endpoint is None:
            self._trouble.set()
            return
        new = self._servers.get(endpoint)
        if new is None:
            new = self._servers[endpoint] = ServerSubscription(endpoint, self._topology, self._listener)
        if new is old:
            return
        if old is not None:
            old.drop(channel)
        self._homes[channel] = new
        new.add(channel)

    async def _follow(self) -> None:
        """Keep every channel where it lives: look again after any trouble, and now and then without."""
        stop_watching = self._topology.watch(self._trouble.set)
        pause_s = _PAUSE_S[0]
        try:
            while True:
                await self._look()
                try:
                    async with asyncio.timeout(_LOOK_EVERY_S):
                        await self._trouble.wait()
                except TimeoutError:
                    pause_s = _PAUSE_S[0]
                else:
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, guards nothing
                    pause_s = min(pause_s * 2, _PAUSE_S[1])
        finally:
            stop_watching()

    async def _look(self) -> None:
        self._trouble.clear()
        try:
            await self._topology.refresh()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("cannot ask where the channels are, trying again", extra={"error": str(error)})
            self._trouble.set()
            return
        for channel in list(self._homes):
            self._place(channel)
        for endpoint in self._servers.keys() - self._topology.endpoints():
            await self._servers.pop(endpoint).close()
        for server in self._servers.values():
            server.retry()
