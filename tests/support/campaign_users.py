"""Users of a fault campaign: they ask, are cut off, come back, and hold what they got against an undisturbed answer."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import openai
from fleet import ApiProcess
from openai import AsyncOpenAI, AsyncStream
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from headrace_shared.clock import mono_s

MODEL = "simulated"
PATIENCE_S = 120.0
"""A request that is not answered by then is lost."""
_PAUSE_S = 0.05
_READ_TIMEOUT_S = 10.0
Chunk = ChatCompletionChunk | Completion

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"n": 3, "logprobs": True, "top_logprobs": 2},
    {"stop": ["ama", "ete"], "extra_body": {"min_tokens": 4}},
    {"frequency_penalty": 0.5, "logit_bias": {"300": -5}, "temperature": 0.7},
    {"completion": True, "logprobs": 2},
    {"completion": True, "n": 2, "stop": ["dala", "kese"], "extra_body": {"include_stop_str_in_output": True}},
    {"completion": True, "echo": True},
    {"whole": True, "n": 2},
)
"""What requests differ in. ``completion``: the other endpoint. ``whole``: not streamed."""


@dataclass
class Answer:
    """All that a client received: what is compared."""

    texts: dict[int, str] = field(default_factory=dict)
    endings: dict[int, str] = field(default_factory=dict)
    logprobs: dict[int, list[object]] = field(default_factory=dict)
    usage: str | None = None

    def add(self, chunk: Chunk) -> None:
        for choice in chunk.choices:
            piece = choice.text if hasattr(choice, "text") else choice.delta.content or ""
            self.texts[choice.index] = self.texts.get(choice.index, "") + piece
            if choice.logprobs is not None:
                self.logprobs.setdefault(choice.index, []).extend(_scores(choice.logprobs))
            if choice.finish_reason is not None:
                assert choice.index not in self.endings, "a choice ended twice"
                self.endings[choice.index] = choice.finish_reason
        if chunk.usage is not None:
            self.usage = f"{chunk.usage.prompt_tokens}+{chunk.usage.completion_tokens}"

    def whole(self, choices: int) -> bool:
        return len(self.endings) == choices and self.usage is not None


@dataclass
class Tally:
    """What the users saw."""

    answers: int = 0
    resumed: int = 0
    repeated: int = 0
    continued: int = 0
    lost: int = 0
    twice: int = 0
    changed: int = 0
    longest_gap_s: float = 0.0
    complaints: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        return self.lost + self.twice + self.changed

    def compare(self, case: int, got: Answer, wanted: Answer) -> None:
        self.answers += 1
        if got == wanted:
            return
        had, due = sum(map(len, got.texts.values())), sum(map(len, wanted.texts.values()))
        kind = "lost" if had < due else "twice" if had > due else "changed"
        setattr(self, kind, getattr(self, kind) + 1)
        self.complaints.append(f"case {case}: {kind}: wanted {wanted}, got {got}")


class Users:
    """Requests of fixed cases, over whichever API nodes are there. A case says all that its answer depends on."""

    def __init__(self, nodes: list[ApiProcess], tally: Tally, random: Random) -> None:
        self._nodes = nodes
        self._tally = tally
        self._random = random
        self._clients: dict[ApiProcess, AsyncOpenAI] = {}

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.close()

    async def ask(self, case: int) -> Answer:
        """One whole answer, however often the way to it breaks. Raises TimeoutError when it never comes."""
        return await _Pursuit(self, case).run()

    def client(self) -> AsyncOpenAI:
        node = self._random.choice(self._nodes)
        if node not in self._clients:
            self._clients[node] = node.async_client(timeout=_READ_TIMEOUT_S)
        return self._clients[node]

    @property
    def tally(self) -> Tally:
        return self._tally


class _Pursuit:
    """One request of one user, until it is answered."""

    def __init__(self, users: Users, case: int) -> None:
        self._users = users
        self._kind = dict(KINDS[case % len(KINDS)])
        self._streamed = not self._kind.pop("whole", False)
        self._completion = self._kind.pop("completion", False)
        self._case = case
        self._choices = self._kind.get("n", 1)
        self._headers = {"Idempotency-Key": uuid.uuid4().hex, "X-Headrace-On-Disconnect": "continue"}
        self._answer = Answer()
        self._events = 0
        self._request_id: str | None = None
        self._last_s = mono_s()

    async def run(self) -> Answer:
        tries = 0
        last: Exception | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not self._answer.whole(self._choices):
                    try:
                        await (self._follow() if self._request_id and self._streamed else self._begin())
                    except (openai.APIError, httpx.HTTPError) as error:
                        last = error
                        await asyncio.sleep(_PAUSE_S)
                    tries += 1
        except TimeoutError:
            raise TimeoutError(f"request {self._request_id}") from last
        if tries > 1:
            self._users.tally.repeated += 1
        return self._answer

    async def _begin(self) -> None:
        """The same key each time: however often it is asked for, it runs once."""
        self._answer, self._events = Answer(), 0
        client = self._users.client()
        body: dict[str, Any] = {"model": MODEL, "seed": self._case, "max_tokens": 60 + self._case % 80, **self._kind}
        if self._streamed:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        create: Any
        if self._completion:
            create, body["prompt"] = client.completions, f"go {self._case}"
        else:
            create, body["messages"] = client.chat.completions, [{"role": "user", "content": f"go {self._case}"}]
        response = await create.with_raw_response.create(extra_headers=self._headers, **body)
        self._request_id = response.headers["x-headrace-request-id"]
        parsed = await _parsed(response)
        if self._streamed:
            await self._read(parsed)
        else:
            self._take_whole(parsed)

    async def _follow(self) -> None:
        """From after the last event, on any node."""
        self._users.tally.resumed += 1
        kind: Any = Completion if self._completion else ChatCompletionChunk
        try:
            stream = await self._users.client().get(
                f"/requests/{self._request_id}/stream?starting_after={self._events}",
                cast_to=kind,
                stream=True,
                stream_cls=AsyncStream[kind],
            )
        except openai.NotFoundError:
            # Cut off before it was queued.
            self._request_id = None
            return
        await self._read(stream)

    async def _read(self, stream: AsyncStream[Chunk]) -> None:
        async with stream:
            async for chunk in stream:
                self._answer.add(chunk)
                self._events += 1
                tally, now_s = self._users.tally, mono_s()
                if self._events > 1:
                    tally.longest_gap_s = max(tally.longest_gap_s, now_s - self._last_s)
                self._last_s = now_s

    def _take_whole(self, completion: Any) -> None:
        for choice in completion.choices:
            self._answer.texts[choice.index] = choice.message.content or ""
            self._answer.endings[choice.index] = choice.finish_reason
        self._answer.usage = f"{completion.usage.prompt_tokens}+{completion.usage.completion_tokens}"


async def _parsed(response: Any) -> Any:
    parsed = response.parse()
    return await parsed if asyncio.iscoroutine(parsed) else parsed


def _scores(logprobs: Any) -> Sequence[object]:
    """Chat and completions tell them in different forms; offsets and scores count, whatever the form."""
    if getattr(logprobs, "content", None) is not None:
        return [(score.token, score.logprob, len(score.top_logprobs)) for score in logprobs.content]
    return list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset, strict=True))
