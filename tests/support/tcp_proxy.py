"""TcpProxy: a network that can be told to misbehave, between a client and a server."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Coroutine
from typing import Any

from redis.asyncio.connection import parse_url

TLS_HANDSHAKE = b"\x16"


class TcpProxy:
    """Listens on ``port`` and passes bytes to the server of ``target_url``, both ways.

    ``replies``: cleared, the server's bytes are swallowed while the client's still get through. ``cut()`` resets every
    connection. With ``tls`` the client's side is encrypted; with ``plain_too`` only that of clients that begin so, as
    servers speak plainly to each other through the same port.
    """

    def __init__(self, target_url: str, *, tls: ssl.SSLContext | None = None, plain_too: bool = False) -> None:
        self._target = parse_url(target_url)
        self._tls = tls
        self._plain_too = plain_too
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.replies = True
        self.port = 0

    @property
    def url(self) -> str:
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://:{self._target.get('password', '')}@127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> "TcpProxy":
        await self.listen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def listen(self) -> None:
        if self._plain_too:
            listening = socket.create_server(("127.0.0.1", self.port))
            listening.setblocking(False)
            self.port = listening.getsockname()[1]
            self._follow(self._accept_either(listening))
            return
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Refuse new connections and reset those there are."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(
            self._target.get("host", "127.0.0.1"), self._target.get("port", 6379)
        )
        self._writers |= {writer, up_writer}
        self._follow(self._pump(reader, up_writer, False))
        self._follow(self._pump(up_reader, writer, True))

    async def _accept_either(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                accepted, _ = await loop.sock_accept(listening)
                self._follow(self._look_at(accepted))

    async def _look_at(self, accepted: socket.socket) -> None:
        """Who speaks TLS begins with one certain byte. It is left in the socket, for whoever reads it then."""
        while True:
            try:
                first = accepted.recv(1, socket.MSG_PEEK)
                break
            except BlockingIOError:
                await asyncio.sleep(0.002)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader, self._accept)
        tls = self._tls if first == TLS_HANDSHAKE else None
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, accepted, ssl=tls)

    def _follow(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.replies or not from_server:
                    writer.write(data)
                    await writer.drain()
        self._writers.discard(writer)
        writer.transport.abort()
