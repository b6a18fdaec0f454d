"""What one API process carries: PYTHONPATH=tests/support python tests/benchmarks/api_process.py [MODEL]

First in front of a scripted worker, which costs next to nothing, then of a real one with the simulated engine. Prompts
go through template and tokenizer: those of MODEL, a local directory, where one is given.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
from eventually import eventually
from ports import free_port
from scripted_worker import ScriptedWorker
from worker_process import workers

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, Started
from headrace_shared.queue.blobs import BlobStore
from headrace_shared.queue.claims import FrameOut
from headrace_shared.queue.client import connect
from headrace_shared.settings import RedisSettings

TOKEN = " token"
ENDED = '"finish_reason":"length"'
ANSWER_TOKENS = 16
CHAT = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant. Answer in one short sentence."},
        {"role": "user", "content": "My train leaves at 9:40 and the way to the station takes 25 minutes on foot. "
         "When should I leave the house, if I want to buy a coffee first?"},
    ],
    "max_tokens": ANSWER_TOKENS, "ignore_eos": True,
}  # fmt: skip


@dataclass
class Load:
    """``clients`` connections at once, each asking ``times``."""

    label: str
    clients: int
    times: int
    tokens: int
    stream: bool
    counted: str = TOKEN
    """What the client counts in the answers: one for each token, or for each answer."""

    @property
    def requests(self) -> int:
        return self.clients * self.times


class LockstepWorker(ScriptedWorker):
    """Answers everything it holds at once, a token per step, as one engine's batch; no pause between steps."""

    def __init__(self, url: str, tokens: int, together: int, **card: object) -> None:
        super().__init__(url, "tiny", **card)
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


async def ask(port: int, load: Load) -> int:
    """Bytes in, bytes out, on one connection: the client must cost less than the server. Returns what it counted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    body = json.dumps(CHAT | {"stream": load.stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    seen = 0
    for _ in range(load.times):
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if load.stream:
            answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            answer = await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        seen += answer.count(load.counted.encode())
    writer.close()
    return seen


def client(port: int, load: Load) -> None:
    """A process of its own, started by ``measure``: prints what it counted and the seconds it took."""

    async def all_of_them() -> int:
        return sum(await asyncio.gather(*(ask(port, load) for _ in range(load.clients))))

    started = time.perf_counter()
    print(asyncio.run(all_of_them()), time.perf_counter() - started)


async def measure(url: str, load: Load) -> None:
    """Once a worker serves the Redis at ``url``."""
    port = free_port()
    environment = {"HEADRACE_REDIS_URL": url, "HEADRACE_API_PORT": str(port), "HEADRACE_API_LOG_LEVEL": "warning"}
    with start_api(environment) as api:
        try:
            await eventually(lambda: serves(port), 30)
            process = psutil.Process(api.pid)
            cpu_s = sum(process.cpu_times()[:2])
            arguments = [sys.executable, __file__, "client", str(port), json.dumps(asdict(load))]
            told = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True, check=True)
            cpu_s = sum(process.cpu_times()[:2]) - cpu_s
            seen, seconds = map(float, told.stdout.split())
            assert seen == load.requests * (load.tokens if load.counted == TOKEN else 1), "something was lost"
            long = load.tokens > ANSWER_TOKENS
            unit, count = ("tokens", load.requests * load.tokens) if long else ("requests", load.requests)
            rss = process.memory_info().rss / 2**20
            print(
                f"{load.label:<48}{count / seconds:>8,.0f} {unit}/s {count / cpu_s:>9,.0f} per CPU second"
                f"{rss:>6.0f} MiB"
            )
        finally:
            api.send_signal(signal.SIGTERM)
            await asyncio.to_thread(api.wait)


async def in_front_of_a_scripted_worker(url: str, load: Load, card: dict[str, object]) -> None:
    worker = LockstepWorker(url, load.tokens, together=load.clients if load.tokens > 1 else 1, **card)
    await worker.start()
    await measure(url, load)
    await worker.stop()


async def texts_of(model: Path, url: str) -> dict[str, object]:
    """A card's part that has the worker's prompts written with the tokenizer and the template of ``model``."""
    redis = connect(RedisSettings(url=url))
    config = json.loads((model / "tokenizer_config.json").read_text())
    own = model / "chat_template.jinja"
    template = own.read_text() if own.exists() else config["chat_template"]
    tokenizer = await BlobStore(redis).put((model / "tokenizer.json").read_bytes())
    digest = await BlobStore(redis).put(template.encode())
    await redis.aclose()
    named = {name: config.get(name) for name in ("bos_token", "eos_token")}
    return {"tokenizer": tokenizer, "chat_template": digest, "vocab_size": 10**6, "add_bos_token": False, **named}


def start_api(environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-P", "-m", "headrace_api"], env={**os.environ, **environment})


async def serves(port: int) -> bool:
    try:
        async with httpx.AsyncClient() as http:
            return (await http.get(f"http://127.0.0.1:{port}/ready")).status_code == 200
    except httpx.ConnectError:
        return False


async def main(model: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder), listen="tcp") as redis:
        card = await texts_of(model, redis.url) if model else {}
        for load in (
            Load("one token, whole, 32 at once", 32, 60, 1, stream=False),
            Load("one token, streamed, 32 at once", 32, 60, 1, stream=True),
            Load("64 streams of 1000 tokens", 64, 1, 1000, stream=True),
            Load("200 streams of 300 tokens", 200, 1, 300, stream=True),
        ):
            await in_front_of_a_scripted_worker(redis.url, load, card)
        with workers(redis.url, 1, simulated_step_ms=2, lease_ms=5000, log_level="warning"):
            for stream in (False, True):
                kind = "streamed" if stream else "whole"
                label = f"simulated engine, 16 tokens, {kind}, 64 at once"
                await measure(redis.url, Load(label, 64, 30, ANSWER_TOKENS, stream, ENDED))


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        client(int(sys.argv[2]), Load(**json.loads(sys.argv[3])))
    else:
        asyncio.run(main(Path(sys.argv[1]) if sys.argv[1:] else None))
