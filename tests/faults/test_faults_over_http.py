"""Processes that die while clients stream over HTTP."""

import asyncio
import re

import httpx
import openai
import pytest
from fleet import ApiProcess, fleet_on, wait_until

from headrace_cli.embedded_redis import EmbeddedRedis

MODEL = "simulated"


async def _texts(api: ApiProcess, count: int) -> list[str]:
    async with api.async_client(timeout=60) as client:

        async def one(seed: int) -> str:
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "go"}], seed=seed, stream=True, max_tokens=150
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        return list(await asyncio.gather(*(one(seed) for seed in range(count))))


def test_a_killed_worker_changes_no_stream(valkey_url: str) -> None:
    with fleet_on(valkey_url) as fleet:
        victim, _ = fleet.worker(simulated_step_ms=5), fleet.worker(simulated_step_ms=5)
        api = fleet.api()
        api.wait_until_ready(workers=2)
        undisturbed = asyncio.run(_texts(api, 30))

        async def disturbed() -> list[str]:
            running = asyncio.create_task(_texts(api, 30))
            await asyncio.sleep(0.4)
            await asyncio.to_thread(victim.kill)
            return await running

        assert asyncio.run(disturbed()) == undisturbed
        counted = re.search(
            r'headrace_continuations_total\{model="simulated"\} (\S+)', httpx.get(f"{api.url}/metrics").text
        )
        assert counted is not None
        assert 0 < float(counted[1]) <= 30


def test_a_restarted_redis_changes_no_stream(own_valkey: EmbeddedRedis) -> None:
    with fleet_on(own_valkey.url) as fleet:
        fleet.worker(simulated_step_ms=15)
        api = fleet.api()
        api.wait_until_ready()
        undisturbed = asyncio.run(_texts(api, 20))

        async def disturbed() -> list[str]:
            running = asyncio.create_task(_texts(api, 20))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(_restart, own_valkey)
            return await running

        assert asyncio.run(disturbed()) == undisturbed


def test_without_redis_requests_get_503_at_once_and_work_again_when_it_is_back(own_valkey: EmbeddedRedis) -> None:
    with fleet_on(own_valkey.url) as fleet:
        fleet.worker()
        api = fleet.api()
        api.wait_until_ready()
        client = api.client(timeout=10)
        own_valkey.stop()
        wait_until(lambda: httpx.get(f"{api.url}/ready").status_code == 503, "the API node is not ready")
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model=MODEL, prompt="x", max_tokens=1)
        assert caught.value.status_code == 503
        assert "retry-after" in caught.value.response.headers
        assert httpx.get(f"{api.url}/health").status_code == 200
        own_valkey.start()
        api.wait_until_ready()
        assert client.completions.create(model=MODEL, prompt="x", max_tokens=1).usage is not None


def _restart(server: EmbeddedRedis) -> None:
    server.stop()
    server.start()
