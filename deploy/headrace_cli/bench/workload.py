"""The requests of a load run: how many, how long, and what is in them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Mode = Literal["tokens", "text", "chat"]

_TOKEN_IDS = range(1000, 1300)
"""Few, but ordinary ones in practically every vocabulary: special tokens lie at its very beginning or its end."""
_WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "hand",
    "part",
    "place",
]


@dataclass(frozen=True)
class Workload:
    """``tokens``: prompts of exactly ``input_tokens`` token ids; ``text`` and ``chat``: about that many words."""

    model: str
    mode: Mode = "tokens"
    requests: int = 64
    input_tokens: int = 128
    output_tokens: int = 64
    seed: int = 0

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.mode == "chat" else "/v1/completions"

    def bodies(self) -> Iterator[bytes]:
        """One JSON body per request. Equal workloads give equal bodies; no two prompts of one begin alike."""
        source = random.Random(self.seed)  # noqa: S311 - repeatable, not secret
        encode = msgspec.json.Encoder().encode
        for _ in range(self.requests):
            yield encode(self._body(source))

    def _body(self, source: random.Random) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.mode == "tokens":
            return body | {"prompt": source.choices(_TOKEN_IDS, k=self.input_tokens)}
        # A number first: with so few words two prompts might share their beginning, and with it a prefix cache.
        text = " ".join([str(source.randrange(10**9)), *source.choices(_WORDS, k=max(self.input_tokens - 4, 1))])
        if self.mode == "text":
            return body | {"prompt": text}
        return body | {"messages": [{"role": "user", "content": text}]}
