"""``headrace serve``: queue, worker and API node on this machine, as processes under one supervisor."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from headrace_cli import servers
from headrace_cli.api_processes import FOLDER, STOP_MARGIN_S, ApiProcesses
from headrace_cli.banner import Ready
from headrace_cli.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from headrace_cli.errors import CliError
from headrace_cli.foreground import Foreground
from headrace_cli.front_door import FrontDoor
from headrace_cli.processes import ProcessSpec, RestartPolicy, Supervisor
from headrace_cli.terminal import Terminal
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.client import connect
from headrace_shared.queue.presence import Presence
from headrace_shared.settings import RedisSettings

_POLL_S = 0.2
_QUEUE_CHECK_S = 0.5
Work = Callable[[Ready], Awaitable[None]]
"""What a local stack is wanted for, given what is ready."""


@dataclass(frozen=True)
class LocalSettings:
    """``environment``: the servers', their settings included. ``redis_url`` None: a queue below ``state_dir``."""

    door: FrontDoor
    state_dir: Path
    redis_url: str | None
    environment: Mapping[str, str]
    batch_worker: bool = True
    """Whether somebody works on batches."""


class LocalStack:
    """Queue, worker and API node, from the first start to the last stop. Made inside a running loop."""

    def __init__(self, settings: LocalSettings, terminal: Terminal) -> None:
        self._settings = settings
        self._terminal = terminal
        self._supervisor = Supervisor(terminal.log)
        self._redis = None if settings.redis_url else EmbeddedRedis(settings.state_dir / "queue")
        self._api: ApiProcesses | None = None

    async def run(self, work: Work) -> int:
        """Do ``work`` until it is done, a signal comes or something cannot be kept running.

        As ``Foreground.run``; raises what ``work`` raises as well.
        """
        return await Foreground(self._supervisor).run(self._serve(work), self._stop)

    async def _serve(self, work: Work) -> None:
        """Start everything, and look after the queue while the work is done."""
        with self._terminal.busy("Starting"):
            redis_url = self._start_queue()
            environment = {
                "HEADRACE_API_FILES": str(self._settings.state_dir / "files"),
                **self._settings.environment,
                "HEADRACE_REDIS_URL": redis_url,
            }
            self._api = ApiProcesses(environment)
            self._supervisor.start(_spec("worker", servers.WORKER, environment))
            if self._settings.batch_worker:
                self._supervisor.start(_spec("batch-worker", servers.BATCH_WORKER, environment))
            self._supervisor.start(*self._api.specs())
            ready = await self._wait_ready(redis_url)
        self._supervisor.settle()
        keeper = asyncio.create_task(self._keep_queue())
        try:
            await work(ready)
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])

    def _start_queue(self) -> str:
        # Not in a thread: the kernel ties the server's life to the thread that starts it.
        if self._redis is None:
            assert self._settings.redis_url is not None  # noqa: S101 - the constructor's condition
            return self._settings.redis_url
        try:
            self._redis.start()
        except EmbeddedRedisError as error:
            raise CliError(f"queue: {error}") from None
        return self._redis.url

    async def _keep_queue(self) -> None:
        """Start the embedded queue again whenever it ends; its URL stays, so workers and API find it."""
        policy, crashes = RestartPolicy(), 0
        if self._redis is None:
            return
        while True:
            await asyncio.sleep(_QUEUE_CHECK_S if crashes == 0 else policy.delay_s(crashes))
            if self._redis.running:
                continue
            self._terminal.log("queue", "has ended; starting it again")
            try:
                self._redis.start()
                crashes = 0
            except EmbeddedRedisError as error:
                crashes += 1
                self._terminal.log("queue", f"{error}; next try in {policy.delay_s(crashes):g} s")

    async def _wait_ready(self, redis_url: str) -> Ready:
        """Poll until our worker announces its model and our API hands it out."""
        redis = connect(RedisSettings(url=redis_url))
        presence = Presence(redis)
        try:
            async with self._settings.door.client(timeout=5.0) as api:
                while True:
                    if (ready := await self._readiness(presence, api)) is not None:
                        return ready
                    await asyncio.sleep(_POLL_S)
        finally:
            await redis.aclose()

    async def _readiness(self, presence: Presence, api: httpx.AsyncClient) -> Ready | None:
        pid = self._supervisor.pids().get("worker")
        with contextlib.suppress(httpx.TransportError, UnavailableError):
            for model in (await presence.fleet()).models:
                for worker in model.workers:
                    if worker.pid == pid and worker.state == "ready" and await _hands_out(api, model.card.name):
                        return Ready(
                            door=self._settings.door,
                            model=model.card.name,
                            context_tokens=model.card.max_model_len,
                            kv_blocks=worker.kv_blocks_total,
                            guarded=bool(self._settings.environment.get("HEADRACE_API_KEYS")),
                        )
        return None

    async def _stop(self) -> None:
        """The API stops accepting and finishes what runs, then the worker, then the queue they needed for it."""
        await self._supervisor.stop()
        if self._api is not None:
            self._api.close()
        if self._redis is not None:
            self._redis.stop()


def _spec(name: str, package: str, environment: Mapping[str, str]) -> ProcessSpec:
    # What the API processes count together is no matter of others.
    own = {variable: value for variable, value in environment.items() if variable != FOLDER}
    return ProcessSpec(name, servers.command(package), own, servers.stop_s(package, own) + STOP_MARGIN_S)


async def _hands_out(api: httpx.AsyncClient, model: str) -> bool:
    answer = await api.get("/ready")
    return answer.status_code == httpx.codes.OK and any(listed["id"] == model for listed in answer.json()["models"])


async def serve(settings: LocalSettings, terminal: Terminal) -> int:
    """Serve until a signal comes; returns and raises as ``LocalStack.run``."""

    async def until_stopped(ready: Ready) -> None:
        terminal.show(*ready.forms())
        try:
            await asyncio.Event().wait()
        finally:
            terminal.line("Stopping; running requests are finished first (Ctrl-C again: stop now)")

    return await LocalStack(settings, terminal).run(until_stopped)
