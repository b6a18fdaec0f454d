"""One HTTP/1.1 connection that streams server-sent events, with as little work per event as Python allows.

The load generator shares its machine with the server it measures; a general HTTP client would cost a noticeable share
of what is to be measured.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import urlsplit

from headrace_cli.errors import CliError
from headrace_shared.clock import mono_s

OnEvent = Callable[[bytes, float], None]
"""Gets the data of one event, and the monotonic second at which it arrived."""


@dataclass(frozen=True)
class Target:
    """Where requests go: a server's base URL, taken apart once."""

    host: str
    port: int
    tls: bool
    path: str
    headers: str

    @classmethod
    def parse(cls, url: str, api_key: str | None) -> Self:
        """Raises CliError for anything but an http or https URL. A trailing ``/v1`` may be given or left out."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        except (KeyError, ValueError):
            raise CliError(f"not an http:// or https:// address: {url}") from None
        if not parts.hostname:
            raise CliError(f"no host in {url}")
        path = parts.path.rstrip("/").removesuffix("/v1")
        headers = f"Host: {parts.netloc.rpartition('@')[2]}\r\nContent-Type: application/json\r\n"
        if api_key:
            headers += f"Authorization: Bearer {api_key}\r\n"
        return cls(parts.hostname, port, parts.scheme == "https", path, headers)


class BrokenResponseError(Exception):
    """The connection ended, or what came is not HTTP; the message says which."""


@dataclass(frozen=True)
class Response:
    """Status and, for anything but an event stream, the body."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """Carries one request at a time; is kept for the next one as long as the server keeps it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._transport: asyncio.Transport | None = None
        self._parser: ResponseParser | None = None
        self._answered: asyncio.Future[Response] | None = None
        self._heard = False
        """Whether anything came back for the request that was sent last."""

    async def request(self, method: str, path: str, body: bytes = b"", on_event: OnEvent | None = None) -> Response:
        """Send one request and wait for the end of its answer. Raises BrokenResponseError or OSError.

        A server may give up a kept connection just when we use it again: then the request goes out on a new one.
        """
        kept = self._transport is not None and not self._transport.is_closing()
        if not kept:
            await self._connect()
        try:
            return await self._exchange(method, path, body, on_event)
        except BrokenResponseError:
            if not kept or self._heard:
                raise
        await self._connect()
        return await self._exchange(method, path, body, on_event)

    async def _exchange(self, method: str, path: str, body: bytes, on_event: OnEvent | None) -> Response:
        assert self._transport is not None  # noqa: S101 - _connect made it
        self._heard = False
        self._parser = ResponseParser(on_event)
        self._answered = asyncio.get_running_loop().create_future()
        head = (
            f"{method} {self._target.path}{path} HTTP/1.1\r\n{self._target.headers}Content-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        try:
            return await self._answered
        except BaseException:
            self.close()  # half an answer may still be on its way
            raise

    async def _connect(self) -> None:
        context = ssl.create_default_context() if self._target.tls else None
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self._target.host, self._target.port, ssl=context)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports keep the interface without the base class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._answered is None or self._answered.done():
            return
        self._heard = True
        try:
            response = self._parser.feed(data, mono_s())
        except ValueError as error:
            self._answered.set_exception(BrokenResponseError(f"not an HTTP answer: {error}"))
            return
        if response is not None:
            self._answered.set_result(response)
            if not self._parser.keep_alive:
                self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(BrokenResponseError("the server closed the connection"))


class ResponseParser:
    """Feed it what arrives; it calls ``on_event`` per event, and returns the Response when that is complete."""

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self._on_event = on_event
        self._head = b""
        self._status = 0
        self._body: _Chunked | _Sized | None = None
        self._events = False
        self._rest = b""
        self.keep_alive = True

    def feed(self, data: bytes, now_s: float) -> Response | None:
        """Raises ValueError for what is not HTTP/1.1."""
        if self._body is None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return None
            self._read_head(head.decode("latin-1"))
        assert self._body is not None  # noqa: S101 - _read_head made it
        self._rest += self._body.feed(data)
        if self._events:
            self._emit_events(now_s)
        return Response(self._status, self._rest) if self._body.done else None

    def _read_head(self, head: str) -> None:
        status_line, *lines = head.split("\r\n")
        version, status = status_line.split(" ", 2)[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(status_line[:80])
        self._status = int(status)
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self.keep_alive = fields.get("connection", "").lower() != "close"
        self._events = self._on_event is not None and fields.get("content-type", "").startswith("text/event-stream")
        chunked = "chunked" in fields.get("transfer-encoding", "").lower()
        self._body = _Chunked() if chunked else _Sized(int(fields.get("content-length", "0")))

    def _emit_events(self, now_s: float) -> None:
        assert self._on_event is not None  # noqa: S101 - the condition for _events
        *events, self._rest = self._rest.replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            for line in event.split(b"\n"):
                if line.startswith(b"data:"):
                    self._on_event(line[5:].strip(), now_s)


class _Sized:
    def __init__(self, length_bytes: int) -> None:
        self._missing_bytes = length_bytes

    @property
    def done(self) -> bool:
        return self._missing_bytes <= 0

    def feed(self, data: bytes) -> bytes:
        self._missing_bytes -= len(data)
        return data


class _Chunked:
    def __init__(self) -> None:
        self._buffer = b""
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """The content of all chunks that are complete."""
        self._buffer += data
        content = []
        while not self.done:
            size_line, end, rest = self._buffer.partition(b"\r\n")
            if not end:
                break
            size = int(size_line.partition(b";")[0], 16)
            if len(rest) < size + 2:
                break
            content.append(rest[:size])
            self._buffer = rest[size + 2 :]
            self.done = size == 0
        return b"".join(content)
