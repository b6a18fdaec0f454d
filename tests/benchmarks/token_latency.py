"""What the way of a token costs: from the end of its engine step to the bytes at the client.

    python tests/benchmarks/token_latency.py [--step-ms 50] [--tokens 200] [--concurrency 1 8 32 64]

A real worker with the simulated engine (this file again, which notes when each step ends), Valkey, an API node, and
clients on sockets of their own, all on one machine, whose monotonic clock all processes share. Prints milliseconds;
gates nothing.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import cast

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from fleet import fleet_on

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_worker.__main__ import main as run_worker
from headrace_worker.engine.generate import GenerateEngine
from headrace_worker.schedule.plan import SequenceOutput

Times = dict[str, list[float]]
"""Per request, when each of its tokens was there: seconds of the monotonic clock."""


def work(notes: Path) -> None:
    """A worker that keeps in mind when the engine has made which token, and writes it down at its end."""
    step = GenerateEngine.step
    kept: list[tuple[float, list[SequenceOutput]]] = []

    def noted(engine: GenerateEngine) -> list[SequenceOutput]:
        outputs = step(engine)
        kept.append((time.monotonic(), outputs))
        return outputs

    GenerateEngine.step = noted  # type: ignore[method-assign]
    run_worker()
    with notes.open("w") as file:
        for now_s, outputs in kept:
            file.writelines(f"{o.request_id.split('/')[0]} {len(o.token_ids)} {now_s}\n" for o in outputs)


def made(notes: Path) -> Times:
    times: Times = defaultdict(list)
    for line in notes.read_text().splitlines():
        request_id, tokens, now_s = line.split()
        times[request_id] += [float(now_s)] * int(tokens)
    return times


class Client(asyncio.Protocol):
    """Notes when which bytes came and reads them only when the stream is over: it must not be what is measured."""

    def __init__(self, seed: int, tokens: int) -> None:
        options = {"max_tokens": tokens, "seed": seed, "stream": True, "ignore_eos": True, "return_token_ids": True}
        body = json.dumps({"model": "simulated", "prompt": [300, 301, 302], **options}).encode()
        lines = ("POST /v1/completions HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json")
        self._request = "\r\n".join([*lines, f"Content-Length: {len(body)}\r\n\r\n"]).encode() + body
        self._parts: list[tuple[float, bytes]] = []
        self._over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parts.append((time.monotonic(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set_result(None)

    async def answer(self) -> tuple[str, list[float]]:
        """The request's id, and when each token was there, with the last byte of its event."""
        await self._over
        came: list[float] = []
        request_id, rest = "", b""
        for now_s, data in self._parts:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.lower().startswith(b"x-headrace-request-id:"):
                    request_id = line.split(b":")[1].strip().decode()
                elif line.startswith(b"data: {"):
                    came += [now_s] * sum(len(c.get("token_ids") or []) for c in json.loads(line[6:])["choices"])
        return request_id, came


def measure(step_ms: float, tokens: int, concurrency: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "valkey") as server:
        notes = Path(folder) / "made"
        asked = {"MODEL": "simulated", "ENGINE": "simulated", "SIMULATED_STEP_MS": step_ms}
        environment = os.environ | {f"HEADRACE_WORKER_{name}": str(value) for name, value in asked.items()}
        environment["HEADRACE_REDIS_URL"] = server.url
        worker = subprocess.Popen([sys.executable, __file__, "--notes", str(notes)], env=environment)
        try:
            with fleet_on(server.url) as fleet:
                api = fleet.api()
                api.wait_until_ready()
                came = [uvloop.run(once(api.port, streams, tokens)) for streams in concurrency]
        finally:
            worker.terminate()
            worker.wait()
        for streams, times in zip(concurrency, came, strict=True):
            show(step_ms, streams, made(notes), times)


async def once(port: int, streams: int, tokens: int) -> Times:
    connect = asyncio.get_running_loop().create_connection
    clients = [(await connect(partial(Client, seed, tokens), "127.0.0.1", port))[1] for seed in range(streams)]
    return dict([await client.answer() for client in clients])


def show(step_ms: float, streams: int, made_s: Times, came_s: Times) -> None:
    delays = sorted(
        (came - made) * 1000
        for request_id, times in came_s.items()
        for made, came in zip(made_s[request_id], times, strict=True)
    )
    p95 = delays[int(len(delays) * 0.95)]
    print(
        f"{streams:4} streams, a step each {step_ms:g} ms: {len(delays)} tokens, "
        f"added per token: median {statistics.median(delays):.2f} ms, p95 {p95:.2f} ms, most {delays[-1]:.2f} ms"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what the way from the engine to the client costs a token.")
    parser.add_argument("--step-ms", type=float, default=50.0)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--notes", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.notes:
        work(given.notes)
    else:
        measure(given.step_ms, given.tokens, given.concurrency)
