"""What one API process carries, its worker scripted: PYTHONPATH=tests/support python tests/benchmarks/api_process.py"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
from eventually import eventually
from scripted_worker import ScriptedWorker

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, Started
from headrace_shared.queue.claims import FrameOut

TOKEN = " token"


class LockstepWorker(ScriptedWorker):
    """Answers everything it holds at once, a token per step, as one engine's batch; no pause between steps."""

    def __init__(self, url: str, tokens: int, together: int) -> None:
        super().__init__(url, "tiny")
        self.tokens = tokens
        self.together = together

    async def _serve(self) -> None:
        while True:
            claims = await self._queue.claim(256, 10**9)
            while 0 < len(claims) < self.together:
                claims += await self._queue.claim(256, 10**9)
                await asyncio.sleep(0.001)
            for step in range(self.tokens if claims else 0):
                events, last = self._step(step)
                await self._queue.append([FrameOut(c.request_id, c.epoch, step + 1, events, last) for c in claims])
            if not claims:
                await asyncio.sleep(0.002)

    def _step(self, step: int) -> tuple[list[Event], bool]:
        last = step == self.tokens - 1
        delta = Delta(0, [65], TOKEN, None, FinishReason.STOP if last else None)
        first: list[Event] = [Started("scripted")] if step == 0 else []
        return [*first, delta, *([Finished(5, self.tokens)] if last else [])], last


async def ask(port: int, times: int, *, stream: bool) -> int:
    """Bytes in, bytes out, on one connection: the client must cost less than the server. Returns the tokens seen."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    body = json.dumps({"messages": [{"role": "user", "content": "hi there, how are you?"}], "stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    seen = 0
    for _ in range(times):
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if stream:
            answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            answer = await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        seen += answer.count(TOKEN.encode())
    writer.close()
    return seen


def client(port: int, clients: int, times: int, stream: bool) -> None:
    """A process of its own, started by ``measure``: prints the tokens it saw and the seconds it took."""

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(ask(port, times, stream=stream) for _ in range(clients))))

    started = time.perf_counter()
    print(asyncio.run(all_of_them()), time.perf_counter() - started)


async def measure(url: str, label: str, *, clients: int, times: int, tokens: int, stream: bool) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {"HEADRACE_REDIS_URL": url, "HEADRACE_API_PORT": str(port), "HEADRACE_API_LOG_LEVEL": "warning"}
    worker = LockstepWorker(url, tokens, together=clients if tokens > 1 else 1)
    await worker.start()
    with start_api(environment) as api:
        try:
            await eventually(lambda: serves(port), 30)
            process = psutil.Process(api.pid)
            cpu_s = sum(process.cpu_times()[:2])
            arguments = [sys.executable, __file__, "client", *map(str, (port, clients, times, int(stream)))]
            told = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, check=True)
            cpu_s = sum(process.cpu_times()[:2]) - cpu_s
            seen, seconds = map(float, told.stdout.split())
            unit, count = ("tokens", clients * times * tokens) if tokens > 1 else ("requests", clients * times)
            assert seen == clients * times * tokens, "tokens were lost"
            rss = process.memory_info().rss / 2**20
            print(f"{label:<44}{count / seconds:>8,.0f} {unit}/s {count / cpu_s:>9,.0f} per CPU second {rss:>6.0f} MiB")
        finally:
            api.send_signal(signal.SIGTERM)
            await asyncio.to_thread(api.wait)
    await worker.stop()


def start_api(environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-P", "-m", "headrace_api"], env={**os.environ, **environment})


async def serves(port: int) -> bool:
    try:
        async with httpx.AsyncClient() as http:
            return (await http.get(f"http://127.0.0.1:{port}/ready")).status_code == 200
    except httpx.ConnectError:
        return False


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder), listen="tcp") as redis:
        await measure(redis.url, "short answers, whole, 32 at once", clients=32, times=60, tokens=1, stream=False)
        await measure(redis.url, "short answers, streamed, 32 at once", clients=32, times=60, tokens=1, stream=True)
        await measure(redis.url, "64 streams of 1000 tokens", clients=64, times=1, tokens=1000, stream=True)
        await measure(redis.url, "200 streams of 300 tokens", clients=200, times=1, tokens=300, stream=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        port, clients, times, stream = map(int, sys.argv[2:])
        client(port, clients, times, bool(stream))
    else:
        asyncio.run(main())
