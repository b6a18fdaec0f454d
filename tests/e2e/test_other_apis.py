"""Responses and messages through real processes: what is asked for is answered, whichever of them are killed."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from fleet import Fleet, fleet_on, wait_until

from headrace_cli.embedded_redis import EmbeddedRedis

ASKED: dict[str, Any] = {"model": "simulated", "input": "Count.", "max_output_tokens": 300}


def drawn(seed: int) -> dict[str, Any]:
    """What makes an answer as long as can be, and the same each time."""
    return {"seed": seed, "ignore_eos": True}


@pytest.fixture
def fleet(own_valkey: EmbeddedRedis) -> Iterator[Fleet]:
    with fleet_on(own_valkey.url) as fleet:
        yield fleet


@pytest.mark.slow
def test_responses_in_the_background_outlive_their_node_and_their_worker(fleet: Fleet) -> None:
    lost, _ = [fleet.worker(simulated_step_ms=10) for _ in range(2)]
    first, second = fleet.api(), fleet.api()
    for node in (first, second):
        node.wait_until_ready(workers=2)
    with first.client() as client:
        jobs = [client.responses.create(**ASKED, background=True, extra_body=drawn(seed)) for seed in range(6)]
    assert {job.status for job in jobs} == {"queued"}
    with second.client() as client:
        wait_until(lambda: client.responses.retrieve(jobs[0].id).status == "in_progress", "the first one runs")
        time.sleep(0.5)
        first.process.kill()
        lost.kill()
        for job in jobs:
            wait_until(lambda job=job: client.responses.retrieve(job.id).status == "incomplete", "it is done")  # type: ignore[misc]
        with ThreadPoolExecutor() as pool:
            asked = [pool.submit(client.responses.create, **ASKED, extra_body=drawn(seed)) for seed in range(6)]
        for job, again in zip(jobs, asked, strict=True):
            done = client.responses.retrieve(job.id)
            assert done.usage is not None
            assert done.usage.output_tokens == 300
            assert done.output_text == again.result().output_text
    third = fleet.api()
    third.wait_until_ready()
    for job in jobs[:2]:
        told = [httpx.get(f"{node.url}/v1/responses/{job.id}?stream=true").text for node in (second, third)]
        assert told[0] == told[1]
        assert told[0].count("event: response.output_text.delta") > 100
    with third.client() as client:
        more = client.responses.create(model="simulated", input="Go on.", previous_response_id=jobs[0].id)
        assert more.output_text


def test_anthropics_client_talks_to_a_real_worker(fleet: Fleet) -> None:
    fleet.worker()
    node = fleet.api()
    node.wait_until_ready()
    asked: dict[str, Any] = {"model": "simulated", "max_tokens": 40, "messages": [{"role": "user", "content": "hi"}]}
    with Anthropic(base_url=node.url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        [block] = final.content
        assert block.type == "text"
        assert text == block.text
        for message in (whole, final):
            # It is a matter of chance whether the simulated engine comes to an end of its own before.
            assert message.stop_reason in ("max_tokens", "end_turn")
            assert message.usage.output_tokens == 40 or message.stop_reason == "end_turn"
        counted = client.messages.count_tokens(model="simulated", messages=asked["messages"])
        usage = whole.usage
        assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
