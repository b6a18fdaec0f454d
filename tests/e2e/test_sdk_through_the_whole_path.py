"""The openai SDK against real API nodes, a real queue and real workers (with simulated engines)."""

import asyncio
import time
from collections.abc import Iterator

import httpx
import openai
import psutil
import pytest
from fleet import ApiProcess, Fleet, fleet_on, wait_until

from headrace_cli.embedded_redis import EmbeddedRedis

MODEL = "simulated"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with EmbeddedRedis(tmp_path_factory.mktemp("valkey")) as server, fleet_on(server.url) as fleet:
        fleet.worker()
        fleet.worker()
        yield fleet


@pytest.fixture(scope="module")
def api(system: Fleet) -> ApiProcess:
    node = system.api()
    node.wait_until_ready(workers=2)
    return node


def _text(api: ApiProcess, **options: object) -> str:
    chunks = api.client().chat.completions.create(model=MODEL, messages=HELLO, stream=True, **options)  # type: ignore[call-overload]
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_chat_streams_role_text_ending_and_usage_in_that_order(api: ApiProcess) -> None:
    chunks = list(
        api.client().chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}, seed=1
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_streamed_and_whole_answers_are_the_same(api: ApiProcess) -> None:
    whole = api.client().chat.completions.create(model=MODEL, messages=HELLO, seed=5)
    assert whole.choices[0].finish_reason == "stop"
    assert _text(api, seed=5) == whole.choices[0].message.content


def test_the_same_seed_gives_the_same_answer_on_any_node_and_worker(api: ApiProcess, system: Fleet) -> None:
    other = system.api()
    other.wait_until_ready(workers=2)
    assert _text(api, seed=11) == _text(other, seed=11) != _text(other, seed=12)


async def test_a_hundred_streams_at_once_are_all_complete(api: ApiProcess) -> None:
    client = api.async_client()

    async def one(seed: int) -> int:
        stream = await client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=30, seed=seed, stream=True, extra_body={"ignore_eos": True}
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        return len(text.split())

    async with client:
        assert await asyncio.gather(*(one(seed) for seed in range(100))) == [30] * 100


def test_a_request_id_is_echoed_and_carried_into_the_answer(api: ApiProcess) -> None:
    raw = api.client().chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=2, extra_headers={"X-Request-Id": "ticket-42"}
    )
    assert raw.headers["x-request-id"] == "ticket-42"
    assert "ticket-42" in raw.parse().id


def test_an_abandoned_stream_is_cancelled_in_the_worker(api: ApiProcess, system: Fleet) -> None:
    stream = api.client().completions.create(
        model=MODEL, prompt="x", max_tokens=8000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    wait_until(lambda: _running(api) == 1, "the worker reports the request")
    stream.close()
    wait_until(lambda: _running(api) == 0, "the worker has dropped the request", timeout_s=5)


def test_an_api_process_has_no_torch_and_stays_small(api: ApiProcess) -> None:
    resident = psutil.Process(api.process.pid).memory_info().rss
    assert resident < 200 * 1024 * 1024


def test_models_come_and_go_and_several_are_served_at_once(api: ApiProcess, system: Fleet) -> None:
    second = system.worker(served_model_name="second,alias")
    api.wait_until_ready(models=3)
    assert {model.id for model in api.client().models.list()} == {MODEL, "second", "alias"}
    answer = api.client().chat.completions.create(model="alias", messages=HELLO, max_tokens=2)
    assert answer.model == "alias"
    second.kill()
    wait_until(lambda: [model.id for model in api.client().models.list()] == [MODEL], "the dead model is gone")
    with pytest.raises((openai.NotFoundError, openai.InternalServerError)):
        api.client().chat.completions.create(model="second", messages=HELLO)


def test_workers_that_disagree_about_a_name_are_reported(api: ApiProcess, system: Fleet) -> None:
    shorter = system.worker(max_model_len=512)
    wait_until(lambda: httpx.get(f"{api.url}/ready").json()["conflicts"] == [MODEL], "the conflict is reported")
    listed = httpx.get(f"{api.url}/v1/models/{MODEL}").json()
    assert sorted(card["workers"] for card in listed["conflicts"]) == [1, 2]
    assert listed["max_model_len"] == 8192
    shorter.kill()
    wait_until(lambda: httpx.get(f"{api.url}/ready").json()["conflicts"] == [], "the conflict is over")


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(api: ApiProcess) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.client().completions.create(model=MODEL, prompt=[300] * 9000)
    assert "9000" in caught.value.message.replace(",", "")
    assert "8192" in caught.value.message.replace(",", "")
    assert caught.value.code == "context_length_exceeded"


def test_lower_priority_numbers_are_answered_first(system: Fleet) -> None:
    system.worker(served_model_name="narrow", max_num_seqs=1, max_num_batched_tokens=64)
    node = system.api()
    node.wait_until_ready(models=2)
    order: list[str] = []

    async def ask() -> None:
        client = node.async_client()

        async def one(name: str, priority: int) -> None:
            body = {"priority": priority, "ignore_eos": True}
            await client.completions.create(model="narrow", prompt="x", max_tokens=60, extra_body=body)
            order.append(name)

        async with client:
            first = asyncio.create_task(one("first", 0))
            await asyncio.sleep(0.05)
            await asyncio.gather(first, one("late", 5), one("normal", 0), one("urgent", -3))

    asyncio.run(ask())
    assert order.index("urgent") < order.index("normal") < order.index("late")


def _running(api: ApiProcess) -> int:
    models = httpx.get(f"{api.url}/ready").json()["models"]
    return sum(worker["running"] for model in models for worker in model["workers"] if model["id"] == MODEL)


def test_waiting_for_a_first_token_costs_little_beyond_the_engine(api: ApiProcess) -> None:
    """Not a benchmark: catches a lost doorbell, which would show as a poll interval."""
    client = api.client()
    waits = []
    for _ in range(10):
        begin = time.perf_counter()
        stream = client.completions.create(model=MODEL, prompt="x", max_tokens=1, stream=True)
        list(stream)
        waits.append(time.perf_counter() - begin)
    assert sorted(waits)[5] < 0.2
