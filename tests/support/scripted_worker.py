"""A worker that says what a test tells it to: the real queue, no engine."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from headrace_shared.clock import wall_ms
from headrace_shared.errors import ErrorCode
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
from headrace_shared.settings import RedisSettings

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% for document in documents or [] %}<|document|>{{ document.text }}\n{% endfor %}"
    "{% if shout %}!!{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BOS = "<s>"
CONTEXT = 512
_LAST_WORDS = {
    AppendStatus.CANCELLED: Failed(ErrorCode.CANCELLED, "the request was cancelled"),
    AppendStatus.DEADLINE: Failed(ErrorCode.DEADLINE_EXCEEDED, "the request's deadline passed"),
}

Frames = AsyncGenerator[list[Event], None]
Script = Callable[["ScriptedWorker", Claim], Frames]


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


async def hello(_worker: "ScriptedWorker", claim: Claim) -> AsyncGenerator[list[Event], None]:
    """``Hello!`` for every choice, a token at a time, scored when that is asked for; cut at max_tokens."""
    async for events in say(claim.job, "Hello!"):
        yield events


async def say(job: GenerateJob, text: str) -> AsyncGenerator[list[Event], None]:
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


class Gated:
    """Says ``Hello!``; each frame after the third waits for ``go_on``."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _worker: "ScriptedWorker", claim: Claim) -> AsyncGenerator[list[Event], None]:
        count = 0
        async for events in say(claim.job, "Hello!"):
            count += 1
            if count > 3:
                await self.go_on.wait()
            yield events


def saying(text: str) -> Script:
    """A script that answers everything with ``text``."""

    async def answer(_worker: "ScriptedWorker", claim: Claim) -> AsyncGenerator[list[Event], None]:
        async for events in say(claim.job, text):
            yield events

    return answer


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
        self.figures: dict[str, float] = {}
        """What it says of itself besides, by the fields of ``WorkerState``."""
        self.claims: list[Claim] = []
        self.cancelled: list[str] = []
        self.lease_ms = 6000
        """Long enough for a busy machine."""

    @property
    def jobs(self) -> list[GenerateJob]:
        return [claim.job for claim in self.claims]

    @staticmethod
    def text_of(token_ids: list[int]) -> str:
        """Special tokens included."""
        return byte_tokenizer().decode(token_ids, skip_special_tokens=False)

    async def start(self) -> None:
        digests: dict[str, object] = {"tokenizer": await self._blobs.put(byte_tokenizer().to_str().encode())}
        template = self._options.pop("template", TEMPLATE)
        if isinstance(template, str):
            digests["chat_template"] = await self._blobs.put(template.encode())
        self.card = ModelCard(**({"name": self._name} | digests | self._options))  # type: ignore[arg-type]
        self._worker_id = f"{self._name}-{self.card.digest[:4]}-{id(self)}"
        self._started_ms = wall_ms()
        self._queue = WorkerQueue(self._redis, self.card.queue, self._worker_id, self.lease_ms)
        await self._announce_once()
        self._server = asyncio.create_task(self._serve())
        self._tasks = {asyncio.create_task(self._announce()), self._server}

    async def stop_claiming(self) -> None:
        """Stay alive, but take no more work."""
        self._server.cancel()
        await asyncio.gather(self._server, return_exceptions=True)

    def go_on_claiming(self) -> None:
        """After ``stop_claiming``."""
        self._server = asyncio.create_task(self._serve())
        self._tasks.add(self._server)

    async def stop(self) -> None:
        """As a clean shutdown: gone at once."""
        await self.die()
        await self._presence.withdraw(self._worker_id)
        await self._redis.aclose()

    async def die(self, lease_ms: int | None = None) -> None:
        """As a kill: says nothing, and its lease runs out, which had so much left."""
        if lease_ms is not None:
            self.lease_ms = lease_ms
            await self._announce_once()
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
            **self.figures,  # type: ignore[arg-type]
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
        async with contextlib.aclosing(self._script(self, claim)) as frames:
            async for events in frames:
                seq += 1
                final = isinstance(events[-1], Finished | Failed) if events else False
                [appended] = await self._queue.append([FrameOut(claim.request_id, claim.epoch, seq, events, final)])
                if appended.status in _LAST_WORDS:
                    if appended.status is AppendStatus.CANCELLED:
                        self.cancelled.append(claim.request_id)
                    farewell: list[Event] = [_LAST_WORDS[appended.status]]
                    await self._queue.append([FrameOut(claim.request_id, claim.epoch, seq, farewell, True)])
                    return


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
