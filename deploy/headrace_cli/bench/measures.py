"""What a load run measures, and the figures made of it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, Any] | str | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


@dataclass(slots=True)
class Measurement:
    """One request, in monotonic seconds. ``arrivals_s``: when each chunk that carried output came."""

    started_s: float
    arrivals_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    done: bool = False
    error: str | None = None

    def on_event(self, data: bytes, now_s: float) -> None:
        """Take in one server-sent event of a chat or text completion."""
        if data == b"[DONE]":
            self.done = True
            return
        try:
            chunk = _decode_chunk(data)
        except msgspec.DecodeError as error:
            self.error = f"not a completion chunk: {error}"
            return
        if chunk.error is not None:
            self.error = str(chunk.error.get("message") if isinstance(chunk.error, dict) else chunk.error)
        if chunk.usage is not None:
            self.prompt_tokens, self.output_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
        if any(map(_carries_output, chunk.choices)):
            self.arrivals_s.append(now_s)

    def end(self, now_s: float) -> None:
        self.ended_s = now_s
        if self.error is None and not (self.done and self.arrivals_s):
            self.error = "the stream ended without [DONE]" if not self.done else "the answer was empty"
        # A server that does not report usage: one token per chunk is the best guess.
        self.output_tokens = self.output_tokens or len(self.arrivals_s)

    @property
    def ttft_s(self) -> float:
        return self.arrivals_s[0] - self.started_s

    @property
    def e2e_s(self) -> float:
        return self.ended_s - self.started_s

    def gaps_s(self) -> Iterable[float]:
        return (later - earlier for earlier, later in zip(self.arrivals_s, self.arrivals_s[1:], strict=False))

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first; None for a single token."""
        if self.output_tokens < 2:
            return None
        return (self.arrivals_s[-1] - self.arrivals_s[0]) / (self.output_tokens - 1)


def _carries_output(choice: _Choice) -> bool:
    if choice.delta is not None:
        return bool(choice.delta.content or choice.delta.reasoning_content)
    # Without text but not the end: a token that is only part of a character.
    return bool(choice.text) or choice.finish_reason is None


@dataclass(frozen=True)
class Spread:
    """A set of durations, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of_seconds(cls, values_s: Iterable[float]) -> "Spread | None":
        """None for no values."""
        ordered_ms = sorted(1000 * value for value in values_s)
        if not ordered_ms:
            return None
        p50, p90, p99 = (percentile(ordered_ms, share) for share in (0.5, 0.9, 0.99))
        return cls(math.fsum(ordered_ms) / len(ordered_ms), p50, p90, p99, ordered_ms[-1])


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of a sorted, non-empty sequence, interpolated linearly between its neighbours."""
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass(frozen=True)
class Summary:
    """The figures of one load run; durations in milliseconds, rates per second of the run."""

    completed: int
    failed: int
    errors: dict[str, int]
    duration_s: float
    prompt_tokens: int
    output_tokens: int
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft_ms: Spread | None
    itl_ms: Spread | None
    tpot_ms: Spread | None
    e2e_ms: Spread | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(measurements: Sequence[Measurement]) -> Summary:
    """Failed requests count as failures and for nothing else."""
    good = [m for m in measurements if m.error is None]
    duration_s = max((m.ended_s for m in measurements), default=0.0) - min(
        (m.started_s for m in measurements), default=0.0
    )
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    prompt_tokens, output_tokens = sum(m.prompt_tokens for m in good), sum(m.output_tokens for m in good)
    return Summary(
        completed=len(good),
        failed=len(measurements) - len(good),
        errors=dict(Counter(m.error for m in measurements if m.error is not None).most_common()),
        duration_s=duration_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        requests_per_s=len(good) * per_s,
        output_tokens_per_s=output_tokens * per_s,
        total_tokens_per_s=(prompt_tokens + output_tokens) * per_s,
        ttft_ms=Spread.of_seconds(m.ttft_s for m in good),
        itl_ms=Spread.of_seconds(gap for m in good for gap in m.gaps_s()),
        tpot_ms=Spread.of_seconds(t for m in good if (t := m.tpot_s) is not None),
        e2e_ms=Spread.of_seconds(m.e2e_s for m in good),
    )
