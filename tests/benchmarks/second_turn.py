"""How soon the second turn of a long chat is answered, against its first one: what the prefix cache spares.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/second_turn.py [--chats 7] [--tokens 2000] [--precision float32]

headrace serve with the demo model; several chats, one after the other, none of which begins like another. Each is some
text of so many tokens, the answer to it, and a short question after that. Prints Markdown: the times to the first token
over HTTP, how many tokens were found in the cache, and the quotients' median.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import uvloop
from local_serve import FLAGS, serving

from headrace_cli import demo_model
from headrace_cli.bench.connection import Connection, Target
from headrace_cli.bench.load import first_model
from headrace_cli.terminal import Terminal
from headrace_shared.clock import mono_s

ANSWER = 48
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "life", "child", "world", "school", "state", "family")
"""A token each, with the space before it."""
Messages = list[dict[str, str]]


@dataclass
class Turn:
    """One answer of a chat, as its client reads it."""

    started_s: float = 0.0
    first_s: float = 0.0
    text: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def ttft_ms(self) -> float:
        return (self.first_s - self.started_s) * 1e3

    @property
    def cached_tokens(self) -> int:
        return int(self.usage["prompt_tokens_details"]["cached_tokens"])

    def on_event(self, data: bytes, now_s: float) -> None:
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content") or ""
            if piece and not self.text:
                self.first_s = now_s
            self.text += piece


class Client:
    """Asks for streamed answers over one connection."""

    def __init__(self, target: Target, model: str) -> None:
        self._connection, self._model = Connection(target), model

    async def ask(self, messages: Messages) -> Turn:
        options = {"max_tokens": ANSWER, "min_tokens": 1, "temperature": 0, "stream": True}
        usage = {"stream_options": {"include_usage": True}}
        body = json.dumps({"model": self._model, "messages": messages, **options, **usage}).encode()
        turn = Turn(mono_s())
        response = await self._connection.request("POST", "/v1/chat/completions", body, turn.on_event)
        assert response.status == 200, response.body
        return turn

    def close(self) -> None:
        self._connection.close()


async def chats(url: str, count: int, tokens: int) -> list[tuple[Turn, Turn]]:
    target = Target.parse(url, None)
    client = Client(target, await first_model(target))
    found = []
    try:
        await client.ask([{"role": "user", "content": "hello"}])
        for number in range(count):
            draw = random.Random(number)
            text = " ".join([f"{draw.randrange(10**9)}", *draw.choices(WORDS, k=tokens)])
            messages = [{"role": "user", "content": text}]
            first = await client.ask(messages)
            messages.append({"role": "assistant", "content": first.text})
            messages.append({"role": "user", "content": "Say it in one word."})
            found.append((first, await client.ask(messages)))
    finally:
        client.close()
    return found


def report(found: Sequence[tuple[Turn, Turn]]) -> str:
    lines = [
        "| Prompt tokens | of them cached | TTFT, first turn | TTFT, second turn | share |",
        "|---|---|---|---|---|",
    ]
    for first, second in found:
        prompts = f"{first.usage['prompt_tokens']}, then {second.usage['prompt_tokens']}"
        cached = f"{first.cached_tokens}, then {second.cached_tokens}"
        share = second.ttft_ms / first.ttft_ms
        lines.append(f"| {prompts} | {cached} | {first.ttft_ms:.0f} ms | {second.ttft_ms:.0f} ms | {share:.1%} |")
    shares = [second.ttft_ms / first.ttft_ms for first, second in found]
    lines.append(f"\nThe median share is {median(shares):.1%}, the largest {max(shares):.1%}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--precision", choices=FLAGS, default="float32")
    given = parser.parse_args()
    arguments = [str(demo_model.ensure(Terminal())), "--kv-cache-memory", "1GiB", "--enable-prompt-tokens-details"]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "serve", *arguments, *FLAGS[given.precision]) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        print(report(runner.run(chats(server.url, given.chats, given.tokens))))


if __name__ == "__main__":
    main()
