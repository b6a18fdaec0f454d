"""A real API process (in a thread, on a socket) and the ways to reach it."""

import asyncio
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

import httpx
import openai

from headrace_api.__main__ import Server
from headrace_api.operations.services import Services
from headrace_api.settings import ApiSettings
from headrace_shared.settings import QueueSettings, RedisSettings


class Api:
    """A running API process and the ways to reach it."""

    def __init__(self, base_url: str, stop: Callable[[], None], services: Callable[[], Services]) -> None:
        self.base_url = base_url
        self._stop = stop
        self.services = services
        """What the process is made of, for tests that look for what it has forgotten to let go of."""
        self.sdk = openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0)
        self.http = httpx.AsyncClient(base_url=base_url, timeout=20)

    async def stop(self) -> None:
        """As SIGTERM does; returns when the process would have ended."""
        await asyncio.to_thread(self._stop)

    async def close(self) -> None:
        await self.sdk.close()
        await self.http.aclose()


class ApiThread:
    """uvicorn as in production, on a loop and thread of its own."""

    def __init__(self, settings: ApiSettings, redis: RedisSettings, queue: QueueSettings) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.base_url = f"http{'s' if settings.tls else ''}://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = Server(settings, redis, queue)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> "ApiThread":
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the API did not start")
            threading.Event().wait(0.005)
        return self

    def services(self) -> Services:
        services: Services = self._server.config.app.state.services  # type: ignore[union-attr]
        return services

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@asynccontextmanager
async def running_api(url: str, queue: QueueSettings | None = None, **settings: object) -> AsyncIterator[Api]:
    """An API process on the Redis at ``url``; stopped at the end."""
    with tempfile.TemporaryDirectory() as folder:
        files = str(settings.pop("files", folder))
        async with _running(url, queue, {"shutdown_grace_s": 1, "files": files} | settings) as api:
            yield api


@asynccontextmanager
async def _running(url: str, queue: QueueSettings | None, options: Mapping[str, object]) -> AsyncIterator[Api]:
    thread = ApiThread(ApiSettings(**options), RedisSettings(url=url), queue or QueueSettings())  # type: ignore[arg-type]
    await asyncio.to_thread(thread.__enter__)
    api = Api(thread.base_url, thread.stop, thread.services)
    try:
        yield api
    finally:
        await api.close()
        await asyncio.to_thread(thread.stop)


def data_lines(text: str) -> Iterator[str]:
    """The payloads of an SSE body."""
    for line in text.split("\n"):
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def sse_events(text: str) -> list[tuple[str, str]]:
    """The id and the data of each event of an SSE body; comments are left out."""
    found = []
    for block in text.split("\n\n")[:-1]:
        if block.startswith(":"):
            continue
        head, data = block.split("\n")
        found.append((head.removeprefix("id: "), data.removeprefix("data: ")))
    return found
