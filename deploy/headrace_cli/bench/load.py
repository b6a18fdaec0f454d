"""Runs a workload against a server: so many at once, or so many per second."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from headrace_cli.bench.connection import BrokenResponseError, Connection, Response, Target
from headrace_cli.bench.measures import Measurement
from headrace_cli.bench.workload import Workload
from headrace_cli.errors import CliError
from headrace_shared.clock import mono_s

OnDone = Callable[[Measurement], None]


async def first_model(target: Target) -> str:
    """The model that the server lists first. Raises CliError when it cannot be asked or has none."""
    connection = Connection(target)
    try:
        response = await connection.request("GET", "/v1/models")
    except (OSError, BrokenResponseError) as error:
        raise CliError(f"cannot reach {target.host}:{target.port}: {_reason(error)}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise CliError(f"cannot list the models: {_refusal(response)}")
    try:
        models: list[dict[str, Any]] = msgspec.json.decode(response.body)["data"]
        return str(models[0]["id"])
    except (msgspec.DecodeError, KeyError, TypeError):
        raise CliError("what answers GET /v1/models there is not an OpenAI-compatible server") from None
    except IndexError:
        raise CliError("the server has no model") from None


class Load:
    """One run of ``workload``. Connections are reused, as a client library's pool would."""

    def __init__(self, target: Target, workload: Workload, on_done: OnDone) -> None:
        self._target = target
        self._workload = workload
        self._on_done = on_done
        self._idle: list[Connection] = []

    async def closed_loop(self, concurrency: int) -> list[Measurement]:
        """Keep ``concurrency`` requests running: each that ends makes room for the next."""
        bodies = self._workload.bodies()
        measurements: list[Measurement] = []

        async def client() -> None:
            for body in bodies:
                measurements.append(await self._measure(body))

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(concurrency, self._workload.requests)):
                    tasks.create_task(client())
        finally:
            self._close()
        return measurements

    async def open_loop(self, rate_per_s: float) -> list[Measurement]:
        """Send at random (Poisson) times, ``rate_per_s`` on average, however many are still running."""
        try:
            async with asyncio.TaskGroup() as tasks:
                running = []
                for body, at_s in zip(self._workload.bodies(), self._arrivals_s(rate_per_s), strict=False):
                    await asyncio.sleep(at_s - mono_s())
                    running.append(tasks.create_task(self._measure(body)))
        finally:
            self._close()
        return [task.result() for task in running]

    def _arrivals_s(self, rate_per_s: float) -> Iterator[float]:
        source = random.Random(self._workload.seed)  # noqa: S311 - repeatable, not secret
        at_s = mono_s()
        while True:
            yield at_s
            at_s += source.expovariate(rate_per_s)

    async def _measure(self, body: bytes) -> Measurement:
        connection = self._idle.pop() if self._idle else Connection(self._target)
        measurement = Measurement(mono_s())
        try:
            response = await connection.request("POST", self._workload.path, body, measurement.on_event)
            if response.status != 200:
                measurement.error = _refusal(response)
            self._idle.append(connection)
        except (OSError, BrokenResponseError) as error:
            measurement.error = _reason(error)
        except BaseException:
            connection.close()
            raise
        measurement.end(mono_s())
        self._on_done(measurement)
        return measurement

    def _close(self) -> None:
        for connection in self._idle:
            connection.close()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _refusal(response: Response) -> str:
    """The message of an OpenAI-shaped error body, or the beginning of any other."""
    try:
        text = str(msgspec.json.decode(response.body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        text = response.body[:200].decode("utf-8", "replace")
    return f"HTTP {response.status}: {text}"
