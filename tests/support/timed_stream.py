"""TimedStream: one streamed completion over a socket of its own, read by a client that costs next to nothing."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import cast


@dataclass
class TimedAnswer:
    """What a client got."""

    request_id: str = ""
    asked_s: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    came_s: list[float] = field(default_factory=list)
    """When each token was there, with the last byte of its event: seconds of the monotonic clock."""

    @property
    def first_s(self) -> float:
        """From the request to the first token, seconds."""
        return self.came_s[0] - self.asked_s

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.came_s)]


class TimedStream(asyncio.Protocol):
    """Notes when which bytes came, and reads them only when the stream is over: it must not be what is measured."""

    def __init__(self, seed: int, tokens: int, model: str, prompt: Sequence[int]) -> None:
        options = {"max_tokens": tokens, "seed": seed, "stream": True, "ignore_eos": True, "return_token_ids": True}
        body = json.dumps({"model": model, "prompt": list(prompt), **options}).encode()
        lines = ("POST /v1/completions HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json")
        self._request = "\r\n".join([*lines, f"Content-Length: {len(body)}\r\n\r\n"]).encode() + body
        self._asked_s = 0.0
        self._parts: list[tuple[float, bytes]] = []
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls, port: int, seed: int, tokens: int, model: str = "simulated", prompt: Sequence[int] = (300, 301, 302)
    ) -> "TimedStream":
        """Ask a node on this machine for so many tokens."""
        make = partial(cls, seed, tokens, model, prompt)
        return (await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port))[1]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._asked_s = time.monotonic()
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parts.append((time.monotonic(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        self._over.set_result(None)

    async def answer(self) -> TimedAnswer:
        """Everything, once the stream is over."""
        await self._over
        answer, rest = TimedAnswer(asked_s=self._asked_s), b""
        for now_s, data in self._parts:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.lower().startswith(b"x-headrace-request-id:"):
                    answer.request_id = line.split(b":")[1].strip().decode()
                elif line.startswith(b"data: {"):
                    for choice in json.loads(line[6:]).get("choices", []):
                        answer.token_ids += choice.get("token_ids") or []
                    answer.came_s += [now_s] * (len(answer.token_ids) - len(answer.came_s))
        return answer
