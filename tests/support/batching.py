"""Batches for tests: their inputs, their results, and who works on them."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import openai
from fleet import wait_until
from live_api import Api
from openai.types import Batch

from headrace_api.app import serving
from headrace_api.batches.worker import BatchWorker
from headrace_api.operations.services import Services
from headrace_api.settings import ApiSettings
from headrace_shared.settings import QueueSettings, RedisSettings

CHAT = "/v1/chat/completions"
OVER = ("completed", "failed", "expired", "cancelled")


def item(custom_id: str, body: Mapping[str, Any], url: str = CHAT) -> str:
    """One line of an input."""
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def chats(count: int, **body: Any) -> bytes:
    """An input of so many different conversations, each with a seed of its own."""
    common = {"model": "simulated", "max_tokens": 8} | body
    return "\n".join(
        item(f"item-{n}", {"messages": [{"role": "user", "content": f"say {n}"}], "seed": n} | common)
        for n in range(count)
    ).encode()


def results(text: str) -> dict[str, Any]:
    """Lines of a result file by their custom ids. Fails when one is there twice."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        result = json.loads(line)
        assert result["custom_id"] not in found, f"{result['custom_id']} is there twice"
        found[result["custom_id"]] = result
    return found


def said(result: Mapping[str, Any]) -> Any:
    """The body of an answer without what differs from request to request."""
    return {name: value for name, value in result["response"]["body"].items() if name not in ("id", "created")}


def submit(client: openai.OpenAI, content: bytes, window: str = "24h", endpoint: Any = CHAT) -> Batch:
    """Upload an input, and have it worked on."""
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window)  # type: ignore[arg-type]


def finished(client: openai.OpenAI, batch_id: str, timeout_s: float = 60.0) -> Batch:
    """Wait until a batch is over. An API node may be away meanwhile."""
    seen: list[Batch] = []

    def over() -> bool:
        with contextlib.suppress(openai.APIConnectionError, openai.InternalServerError):
            seen.append(client.batches.retrieve(batch_id))
        return bool(seen) and seen[-1].status in OVER

    wait_until(over, f"{batch_id} is over", timeout_s)
    return seen[-1]


def output_of(client: openai.OpenAI, batch: Batch) -> dict[str, Any]:
    return results(client.files.content(batch.output_file_id).text) if batch.output_file_id else {}


def errors_of(client: openai.OpenAI, batch: Batch) -> dict[str, Any]:
    return results(client.files.content(batch.error_file_id).text) if batch.error_file_id else {}


class BatchWorkerProcess:
    """``python -m headrace_api.batch_worker`` on a Redis URL."""

    def __init__(self, redis_url: str, **settings: object) -> None:
        environment = {
            **os.environ,
            "HEADRACE_REDIS_URL": redis_url,
            **{f"HEADRACE_API_{name.upper()}": str(value) for name, value in settings.items()},
        }
        command = [sys.executable, "-P", "-m", "headrace_api.batch_worker"]
        self.process = subprocess.Popen(command, env=environment)

    def kill(self) -> None:
        """As a lost machine would."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """As an orchestrator would; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@asynccontextmanager
async def running_batch_worker(
    url: str, files: object, *, queue: QueueSettings | None = None, **settings: Any
) -> AsyncIterator[Services]:
    """A batch worker in this process; stopped at the end, as a signal would."""
    options = ApiSettings(files=str(files), **settings)
    async with serving("test", options, RedisSettings(url=url), queue or QueueSettings()) as services:
        work = asyncio.create_task(BatchWorker(services).run())
        try:
            yield services
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def batch_is_over(api: Api, content: bytes) -> Batch:
    """Upload an input, have it worked on, and wait for its end."""
    file = await api.sdk.files.create(file=("input.jsonl", content), purpose="batch")
    batch = await api.sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    async with asyncio.timeout(30):
        while batch.status not in OVER:
            await asyncio.sleep(0.05)
            batch = await api.sdk.batches.retrieve(batch.id)
    return batch


def numbered(count: int) -> Iterator[str]:
    return (f"item-{n}" for n in range(count))
