"""Every process is replaced while clients stream: they notice nothing."""

import asyncio
import itertools
import random
import ssl
from dataclasses import dataclass, field

import httpx
import pytest
from eventually import eventually
from fleet import ApiProcess, Fleet, fleet_on
from openai import AsyncOpenAI
from worker_process import WorkerProcess

MODEL = "simulated"
WORKERS, NODES, USERS, SEEDS = 2, 2, 24, 40
DRAIN_DELAY_S = 4.0
"""Several times what the health check below takes to notice on a busy machine."""
Answer = tuple[str, tuple[tuple[str, str | None], ...]]
"""Usage, and each choice's text and finish reason."""


@dataclass
class Balancer:
    """Sends each request, on a connection of its own, to the next node that is in rotation."""

    nodes: list[ApiProcess]
    _tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)  # unused, but made for each client else
    _turns: "itertools.count[int]" = field(default_factory=itertools.count)

    async def ask(self, seed: int) -> Answer:
        """How it is asked for depends on the seed alone."""
        node = self.nodes[next(self._turns) % len(self.nodes)]
        plain = httpx.AsyncClient(verify=self._tls, timeout=60)
        async with node.async_client(http_client=plain) as client:
            return await _whole(client, seed) if seed % 4 == 0 else await _streamed(client, seed)


async def _streamed(client: AsyncOpenAI, seed: int) -> Answer:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "go"}],
        seed=seed,
        n=1 + seed % 2,
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=100,
    )
    texts: dict[int, tuple[str, str | None]] = {}
    usage = None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text, _ = texts.get(choice.index, ("", None))
            texts[choice.index] = (text + (choice.delta.content or ""), choice.finish_reason)
    assert usage is not None
    return f"{usage.prompt_tokens}+{usage.completion_tokens}", tuple(texts[index] for index in sorted(texts))


async def _whole(client: AsyncOpenAI, seed: int) -> Answer:
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "go"}], seed=seed, max_tokens=100
    )
    assert answer.usage is not None
    choices = tuple((choice.message.content or "", str(choice.finish_reason)) for choice in answer.choices)
    return f"{answer.usage.prompt_tokens}+{answer.usage.completion_tokens}", choices


async def _replace_workers(fleet: Fleet, workers: list[WorkerProcess], watch: ApiProcess) -> None:
    for index, old in enumerate(workers):
        assert await asyncio.to_thread(old.terminate) == 0
        workers[index] = fleet.worker(simulated_step_ms=5)
        await asyncio.to_thread(watch.wait_until_ready, 1, WORKERS)


async def _until_out_of_rotation(node: ApiProcess) -> None:
    """What a balancer's health check does; meanwhile requests still come."""
    async with httpx.AsyncClient(base_url=node.url) as checks:

        async def met() -> bool:
            try:
                return (await checks.get("/ready")).status_code == 503
            except httpx.TransportError:
                return True

        await eventually(met)


async def _replace_nodes(fleet: Fleet, balancer: Balancer) -> None:
    for old in list(balancer.nodes):
        old.process.terminate()
        await _until_out_of_rotation(old)
        balancer.nodes.remove(old)
        assert await asyncio.to_thread(old.process.wait, 30) in (0, -15)
        new = fleet.api(drain_delay_s=DRAIN_DELAY_S)
        await asyncio.to_thread(new.wait_until_ready, 1, WORKERS)
        balancer.nodes.append(new)


@pytest.mark.slow
def test_a_rolling_restart_of_everything_loses_and_changes_nothing(valkey_url: str) -> None:
    with fleet_on(valkey_url) as fleet:
        workers = [fleet.worker(simulated_step_ms=5) for _ in range(WORKERS)]
        balancer = Balancer([fleet.api(drain_delay_s=DRAIN_DELAY_S) for _ in range(NODES)])
        for node in balancer.nodes:
            node.wait_until_ready(workers=WORKERS)

        async def restart_under_load() -> int:
            undisturbed = await asyncio.gather(*(balancer.ask(seed) for seed in range(SEEDS)))
            over = asyncio.Event()

            async def user(number: int) -> int:
                seeds = random.Random(number)
                for asked in itertools.count():
                    if over.is_set():
                        return asked
                    seed = seeds.randrange(SEEDS)
                    assert await balancer.ask(seed) == undisturbed[seed]
                raise AssertionError

            users = [asyncio.create_task(user(number)) for number in range(USERS)]
            try:
                await _replace_workers(fleet, workers, balancer.nodes[0])
                await _replace_nodes(fleet, balancer)
            finally:
                over.set()
            return sum(await asyncio.gather(*users))

        answered = asyncio.run(restart_under_load())
    print(f"{answered} answers while {WORKERS} workers and {NODES} API nodes were replaced")
    assert answered > USERS
