"""Many streams, and many workers, on one machine: does it hold, and what does it cost?

    python tests/benchmarks/fleet_scale.py streams [--streams 2000] [--tokens 40] [--step-ms 500]
    python tests/benchmarks/fleet_scale.py workers [--workers 1000] [--rate 400]

``streams``: clients on sockets of their own, 2 API nodes, 2 workers with the simulated engine, Valkey; each client must
get exactly its tokens. ``workers``: the whole protocol of so many workers (announcements, leases, doorbell and control
channels on a connection each, claims, appends), without engines, first idle and then under requests at a given rate.
Both print figures and gate nothing.
"""

import argparse
import asyncio
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import redis
import uvloop
from fleet import fleet_on, wait_until
from many_workers import Identity, card, deltas
from timed_stream import TimedAnswer, TimedStream

from headrace_cli.embedded_redis import EmbeddedRedis
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import StoppingSpec
from headrace_shared.queue.client import connect
from headrace_shared.queue.hub import StreamHub
from headrace_shared.queue.requests import QueueLimits, RequestQueue
from headrace_shared.settings import RedisSettings
from headrace_worker.engine.simulate import simulated_id

NODES = WORKERS = PROCESSES = 2
IDLE_S = LOADED_S = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Run many streams, or many workers, and print what it costs.")
    parser.add_argument("what", choices=["streams", "workers", "identities"])
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--step-ms", type=float, default=500.0)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=400.0, help="requests per second")
    parser.add_argument("--url", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if asked.what == "identities":
        uvloop.run(be_workers(asked.url, asked.workers))
        return
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "valkey") as server:
        if asked.what == "streams":
            run_streams(server.url, asked.streams, asked.tokens, asked.step_ms)
        else:
            run_workers(server.url, asked.workers, asked.rate)


# Streams.


def run_streams(url: str, streams: int, tokens: int, step_ms: float) -> None:
    with fleet_on(url) as fleet:
        size = {"max_num_seqs": streams // WORKERS, "max_num_batched_tokens": 4096}
        for _ in range(WORKERS):
            fleet.worker(simulated_step_ms=step_ms, lease_ms=3000, log_level="warning", **size)
        nodes = [fleet.api(log_level="warning") for _ in range(NODES)]
        for node in nodes:
            node.wait_until_ready(workers=WORKERS)
        began_s = time.monotonic()
        answers = uvloop.run(ask_all([node.port for node in nodes], streams, tokens))
        wrong = sum(
            answer.token_ids != [simulated_id(seed, 0, position) for position in range(tokens)]
            for seed, answer in enumerate(answers)
        )
        show_streams(answers, wrong, began_s)


async def ask_all(ports: Sequence[int], streams: int, tokens: int) -> list[TimedAnswer]:
    asked = [await TimedStream.open(ports[seed % len(ports)], seed, tokens) for seed in range(streams)]
    return [await stream.answer() for stream in asked]


def show_streams(answers: Sequence[TimedAnswer], wrong: int, began_s: float) -> None:
    firsts = [answer.came_s[0] for answer in answers if answer.came_s]
    lasts = [answer.came_s[-1] for answer in answers if answer.came_s]
    gaps = sorted(
        (after - before) * 1000 for a in answers for before, after in zip(a.came_s, a.came_s[1:], strict=False)
    )
    tokens = sum(len(answer.token_ids) for answer in answers)
    print(f"{len(answers)} streams, {wrong} of them not exactly as they must be")
    print(f"all have begun after {max(firsts) - began_s:.1f} s, before the first had ended: {max(firsts) < min(lasts)}")
    print(f"{tokens:,} tokens in {max(lasts) - began_s:.1f} s: {tokens / (max(lasts) - began_s):,.0f} tokens/s")
    print(
        f"between two tokens of a stream: median {statistics.median(gaps):.0f} ms, p99 {gaps[len(gaps) * 99 // 100]:.0f} ms"
    )


# Workers.


def run_workers(url: str, workers: int, rate: float) -> None:
    arguments = [sys.executable, __file__, "identities", "--url", url, "--workers", str(workers // PROCESSES)]
    children = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    client = redis.Redis.from_url(url)
    try:
        wait_until(lambda: client.zcard("hr:{fleet}:leases") == workers // PROCESSES * PROCESSES, "all are there", 120)
        time.sleep(2)
        print(f"{workers} workers, {client.info('clients')['connected_clients']:,} connections")
        with measured(client, f"idle, {IDLE_S:g} s", IDLE_S):
            time.sleep(IDLE_S)
        with measured(client, f"{rate:g} requests of 8 tokens a second", LOADED_S):
            tokens, seconds = uvloop.run(load(url, rate))
    finally:
        for child in children:
            child.send_signal(signal.SIGTERM)
        told = [json.loads(child.communicate()[0]) for child in children]
    waits = sorted(wait for each in told for wait in each["waits_ms"])
    appended = sorted(ms for each in told for ms in each["appends_ms"])
    print(
        f"{len(waits):,} requests, {tokens:,} tokens heard in order by one reader process, {tokens / seconds:,.0f} tokens/s"
    )
    print(
        f"from enqueue to claim, Redis' clock: median {statistics.median(waits):.0f} ms, p99 {waits[len(waits) * 99 // 100]:.0f} ms"
    )
    print(
        f"one append of a frame: median {statistics.median(appended):.1f} ms, p99 {appended[len(appended) * 99 // 100]:.1f} ms"
    )


class measured:  # noqa: N801 - a context manager reads as a verb
    """What Redis does meanwhile."""

    def __init__(self, client: "redis.Redis", what: str, seconds: float) -> None:
        self._client, self._what = client, what

    def __enter__(self) -> None:
        self._client.config_resetstat()
        self._cpu_s, self._began_s = self._cpu(), time.monotonic()

    def __exit__(self, *exc: object) -> None:
        seconds = time.monotonic() - self._began_s
        calls = self._client.info("commandstats")["cmdstat_evalsha"]
        share = (self._cpu() - self._cpu_s) / seconds
        print(
            f"{self._what}: {calls['calls'] / seconds:,.0f} script calls/s of {calls['usec_per_call']:.0f} us, "
            f"{share:.0%} of a core"
        )

    def _cpu(self) -> float:
        used = self._client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])


async def load(url: str, rate: float) -> tuple[int, float]:
    """Enqueue at that rate and hear every answer: the tokens, and how long it took."""
    client = connect(RedisSettings(url=url))
    hub = StreamHub(client)
    await hub.start()
    requests = RequestQueue(client, QueueLimits())
    began_s = time.monotonic()

    async def one(number: int) -> int:
        await asyncio.sleep(max(0.0, began_s + number / rate - time.monotonic()))
        job = GenerateJob(
            JobHeader(f"r{number}", card().queue, cost_tokens=8), b"", stopping=StoppingSpec(max_tokens=8)
        )
        stream = await hub.open(card().queue, f"r{number}")
        await requests.enqueue(job)
        events = [event async for frame in stream for event in frame]
        assert deltas(events) == list(range(8)), "a token was lost, doubled or changed"
        return 8

    tokens = sum(await asyncio.gather(*(one(number) for number in range(int(rate * LOADED_S)))))
    seconds = time.monotonic() - began_s
    await hub.close()
    await client.aclose()
    return tokens, seconds


async def be_workers(url: str, count: int) -> None:
    """So many of them in this process, until SIGTERM; then one line of JSON with what they have measured."""
    client = connect(RedisSettings(url=url, max_connections=64))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    identities = [Identity(client) for _ in range(count)]
    tasks = [asyncio.create_task(identity.run()) for identity in identities]
    gone = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([gone, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if gone not in done:
        raise RuntimeError("a worker ended by itself") from next(iter(done)).exception()
    waits = [wait for identity in identities for wait in identity.waits_ms]
    appends = [ms for identity in identities for ms in identity.appends_ms]
    print(json.dumps({"waits_ms": waits, "appends_ms": appends}))


if __name__ == "__main__":
    main()
