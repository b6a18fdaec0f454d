"""FairPool: connections to one server, for commands."""

import asyncio
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.connection import HiredisRespSerializer


class FairPool(ConnectionPool):
    """First come, first served. In redis-py's own blocking pool newcomers overtake those who wait, for seconds."""

    def __init__(self, max_connections: int, **kwargs: Any) -> None:
        super().__init__(max_connections=max_connections, **kwargs)
        self._places = asyncio.Semaphore(max_connections)

    def make_connection(self) -> Any:
        connection = super().make_connection()  # type: ignore[no-untyped-call]
        # In C; the asyncio connections of redis-py pack in Python, which shows with hundreds of frames per call.
        connection.pack_command = HiredisRespSerializer().pack
        return connection

    async def get_connection(self, command_name: object = None, *keys: object, **options: object) -> Any:
        await self._places.acquire()
        try:
            connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        except BaseException:
            self._places.release()
            raise
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Only connects. redis-py also polls the socket, which doubles the latency of a call.

        It is not needed: an interrupted call has closed its connection, and a connection that the server has closed
        fails at once and is tried again.
        """
        await connection.connect()  # type: ignore[no-untyped-call]

    async def release(self, connection: AbstractConnection) -> None:
        try:
            await super().release(connection)
        finally:
            self._places.release()
