"""A real API process (in a thread, on a socket), a real Valkey, and workers that say what a test tells them to."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import openai
import pytest
import uvicorn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from headrace_api.app import create_app
from headrace_api.settings import ApiSettings
from headrace_shared.clock import wall_ms
from headrace_shared.model_card import ModelCard
from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    PromptScored,
    Started,
    TokenLogprob,
    TopLogprob,
)
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.queue.blobs import BlobStore
from headrace_shared.queue.claims import AppendStatus, Claim, FrameOut, WorkerQueue
from headrace_shared.queue.client import connect
from headrace_shared.queue.presence import Presence, WorkerState
from headrace_shared.settings import QueueSettings, RedisSettings

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% for document in documents or [] %}<|document|>{{ document.text }}\n{% endfor %}"
    "{% if shout %}!!{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BOS = "<s>"
CONTEXT = 512

Script = Callable[["ScriptedWorker", Claim], AsyncIterator[list[Event]]]


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and a special one that begins texts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS])
    return tokenizer


def ids_of(text: str) -> list[int]:
    """Token ids of a text, without the special token."""
    return byte_tokenizer().encode(text, add_special_tokens=False).ids


def scored(token_id: int, top: int) -> TokenLogprob:
    """A made-up entry: the token is the second most likely one, after its neighbour."""
    candidates = [TopLogprob((token_id + 1) % 256, -0.5, 1), TopLogprob(token_id, -1.0, 2), TopLogprob(0, -7.0, 3)]
    return TokenLogprob(token_id, -1.0, 2, candidates[:top])


async def hello(_worker: "ScriptedWorker", claim: Claim) -> AsyncIterator[list[Event]]:
    """``Hello!`` for every choice, a token at a time, scored when that is asked for; cut at max_tokens."""
    async for events in say(claim.job, "Hello!"):
        yield events


async def say(job: GenerateJob, text: str) -> AsyncIterator[list[Event]]:
    """The events of a well-behaved worker that answers ``text``."""
    prompt, sampling = unpack_ids(job.prompt), job.sampling
    yield [Started("scripted")]
    if sampling.prompt_logprobs is not None:
        top = sampling.prompt_logprobs
        yield [PromptScored([None, *(scored(token_id, top) for token_id in prompt[1:])])]
    ids = ids_of(text)
    cut = ids[: job.stopping.max_tokens]
    for position, token_id in enumerate(cut):
        last = position == len(cut) - 1
        reason = (FinishReason.STOP if len(cut) == len(ids) else FinishReason.LENGTH) if last else None
        entries = None if sampling.logprobs is None else [scored(token_id, sampling.logprobs)]
        yield [Delta(choice, [token_id], chr(text.encode()[position]), entries, reason) for choice in range(job.n)]
    if not cut:
        yield [Delta(choice, [], "", None, FinishReason.LENGTH) for choice in range(job.n)]
    yield [Finished(len(prompt), len(cut) * job.n)]


class ScriptedWorker:
    """Claims as a real worker does, and answers as ``script`` says. Keeps what it saw."""

    def __init__(self, url: str, name: str, script: Script = hello, **card: object) -> None:
        self._redis = connect(RedisSettings(url=url))
        self._blobs = BlobStore(self._redis)
        self._presence = Presence(self._redis)
        self._script = script
        self._options = {"max_model_len": CONTEXT, "vocab_size": 257, "bos_token": BOS, "add_bos_token": True} | card
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()
        self.state = "ready"
        self.claims: list[Claim] = []
        self.cancelled: list[str] = []
        self.lease_ms = 1500

    @property
    def jobs(self) -> list[GenerateJob]:
        return [claim.job for claim in self.claims]

    async def start(self) -> None:
        digests = {"tokenizer": await self._blobs.put(byte_tokenizer().to_str().encode())}
        if self._options.pop("template", True):
            digests["chat_template"] = await self._blobs.put(TEMPLATE.encode())
        self.card = ModelCard(name=self._name, **digests, **self._options)  # type: ignore[arg-type]
        self._worker_id = f"{self._name}-{self.card.digest[:4]}-{id(self)}"
        self._started_ms = wall_ms()
        self._queue = WorkerQueue(self._redis, self.card.queue, self._worker_id, self.lease_ms)
        await self._announce_once()
        self._tasks = {asyncio.create_task(part) for part in (self._announce(), self._serve())}

    async def stop(self) -> None:
        """As a clean shutdown: gone at once."""
        await self.die()
        await self._presence.withdraw(self._worker_id)
        await self._redis.aclose()

    async def die(self) -> None:
        """As a kill: says nothing, and its lease runs out."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _announce(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # Redis may be away in a test
                await self._announce_once()
            await asyncio.sleep(0.2)

    async def _announce_once(self) -> None:
        state = WorkerState(
            worker_id=self._worker_id,
            queue=self.card.queue,
            card_digest=self.card.digest,
            state=self.state,
            started_ms=self._started_ms,
        )
        await self._presence.announce(self.card, state, self.lease_ms)

    async def _serve(self) -> None:
        while True:
            claims: list[Claim] = []
            with contextlib.suppress(Exception):  # Redis may be away in a test
                claims = await self._queue.claim(64, 1_000_000)
            self.claims += claims
            for claim in claims:
                task = asyncio.create_task(self._answer(claim))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(0.003)

    async def _answer(self, claim: Claim) -> None:
        seq = claim.seq
        async with contextlib.aclosing(self._script(self, claim)) as frames:  # type: ignore[type-var]
            async for events in frames:
                seq += 1
                final = isinstance(events[-1], Finished | Failed) if events else False
                [appended] = await self._queue.append([FrameOut(claim.request_id, claim.epoch, seq, events, final)])
                if appended.status is AppendStatus.CANCELLED:
                    self.cancelled.append(claim.request_id)
                    return


class Api:
    """A running API process and the ways to reach it."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.sdk = openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0)
        self.http = httpx.AsyncClient(base_url=base_url, timeout=20)

    async def close(self) -> None:
        await self.sdk.close()
        await self.http.aclose()


class ApiThread:
    """uvicorn as in production, on a loop and thread of its own."""

    def __init__(self, settings: ApiSettings, redis: RedisSettings, queue: QueueSettings) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(settings, redis, queue),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=settings.shutdown_grace_s,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> "ApiThread":
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the API did not start")
            threading.Event().wait(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@asynccontextmanager
async def running_api(url: str, queue: QueueSettings | None = None, **settings: object) -> AsyncIterator[Api]:
    """An API process on the Redis at ``url``; stopped at the end."""
    options = {"shutdown_grace_s": 1} | settings
    thread = ApiThread(ApiSettings(**options), RedisSettings(url=url), queue or QueueSettings())  # type: ignore[arg-type]
    await asyncio.to_thread(thread.__enter__)
    api = Api(thread.base_url)
    try:
        yield api
    finally:
        await api.close()
        await asyncio.to_thread(thread.stop)


@asynccontextmanager
async def running_worker(
    url: str, name: str = "tiny", script: Script = hello, **card: object
) -> AsyncIterator[ScriptedWorker]:
    """A worker, announced and claiming; withdrawn at the end."""
    worker = ScriptedWorker(url, name, script, **card)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@pytest.fixture
async def worker(valkey_url: str) -> AsyncIterator[ScriptedWorker]:
    """A worker of the model ``tiny`` (alias ``small/alias``) that says hello."""
    async with running_worker(valkey_url, aliases=("small/alias",)) as worker:
        yield worker


@pytest.fixture
async def api(valkey_url: str, worker: ScriptedWorker) -> AsyncIterator[Api]:
    """An API process that already knows the model."""
    async with running_api(valkey_url) as api:
        yield api


def data_lines(text: str) -> Iterator[str]:
    """The payloads of an SSE body."""
    for line in text.split("\n"):
        if line.startswith("data: "):
            yield line.removeprefix("data: ")
