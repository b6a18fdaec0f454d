"""The document is enough: a worker written from it alone serves real clients, and continues what another one began."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import foreign_worker
import pytest
from eventually import eventually
from live_api import Api, running_api
from scripted_worker import byte_tokenizer, ids_of

from headrace_shared.queue import scripts

MODEL = "foreign"


@pytest.fixture
def start(valkey_url: str, tmp_path: Path) -> Iterator[object]:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(byte_tokenizer().to_str())
    started: list[subprocess.Popen[bytes]] = []

    def begin(step_s: float = 0.0) -> "subprocess.Popen[bytes]":
        server = urlsplit(valkey_url)
        [token_id] = ids_of("z")
        where = (server.hostname, server.port, server.password or "")
        words = (*where, Path(scripts.__file__).parent, tokenizer, token_id, "z", step_s)
        started.append(subprocess.Popen([sys.executable, "-I", "-S", foreign_worker.__file__, *map(str, words)]))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


async def _is_served(api: Api) -> bool:
    return MODEL in [model.id async for model in api.sdk.models.list()]


async def test_a_worker_written_from_the_document_serves_clients(valkey_url: str, start) -> None:  # type: ignore[no-untyped-def]
    start()
    async with running_api(valkey_url) as api:
        await eventually(lambda: _is_served(api))
        answer = await api.sdk.completions.create(model=MODEL, prompt="ab", max_tokens=40)
    assert answer.choices[0].text == "z" * 40
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 40)


async def test_it_goes_on_with_what_another_one_had_begun(valkey_url: str, start) -> None:  # type: ignore[no-untyped-def]
    first = start(step_s=0.02)
    async with running_api(valkey_url) as api:
        await eventually(lambda: _is_served(api))
        stream = await api.sdk.completions.create(model=MODEL, prompt="ab", max_tokens=60, stream=True)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].text
            if len(text) == 20:
                first.kill()
                await asyncio.to_thread(first.wait)
                start()
    assert text == "z" * 60
