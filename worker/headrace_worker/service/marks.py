"""AttemptMarks: when what happened to one attempt at a request, by this process' monotonic clock."""

from dataclasses import dataclass, field

from headrace_shared.clock import mono_s
from headrace_worker.engine.generate import Chunk, StepFacts

_MOST_CHUNKS = 256


@dataclass(frozen=True, slots=True)
class ChunkMark:
    """Tokens [start, start + count) of the prompt, computed in a step of ``seconds``."""

    start: int
    count: int
    seconds: float
    ended_s: float


@dataclass(slots=True)
class AttemptMarks:
    """What a worker notes of an attempt while it runs; None: has not happened."""

    queue_s: float
    """The wait in the queue, by Redis' clock."""
    accepted_s: float = field(default_factory=mono_s)
    scheduled_s: float | None = None
    """Begin of the first step that computed something of it."""
    first_s: float | None = None
    last_s: float | None = None
    cached_tokens: int = 0
    preemptions: int = 0
    decode_steps: int = 0
    execute_s: float = 0.0
    forward_s: float = 0.0
    chunks: list[ChunkMark] = field(default_factory=list)

    @property
    def phase(self) -> str:
        """Where it is now."""
        if self.scheduled_s is None:
            return "waiting"
        return "prefill" if self.first_s is None else "decode"

    def step(self, facts: StepFacts) -> None:
        """A step computed something of it; told only where somebody wants to know the times."""
        self.execute_s += facts.executed_s - facts.planned_s
        self.forward_s += facts.forward_s

    def chunk(self, chunk: Chunk, facts: StepFacts) -> None:
        """A part of its prompt."""
        if self.scheduled_s is None:
            self.scheduled_s = facts.begun_s
            self.cached_tokens = chunk.start
        if self.first_s is None and len(self.chunks) < _MOST_CHUNKS:
            self.chunks.append(ChunkMark(chunk.start, chunk.count, facts.ended_s - facts.begun_s, facts.ended_s))

    def token(self, moment_s: float) -> None:
        """It got a token then; several of one moment are of one step."""
        if self.first_s is None:
            self.first_s = moment_s
        elif moment_s != self.last_s:
            self.decode_steps += 1
        self.last_s = moment_s

    def latencies(self) -> dict[str, float]:
        """What is known, seconds, under vLLM's names."""
        if self.scheduled_s is None:
            return {}
        found = {"time_in_queue": self.queue_s + self.scheduled_s - self.accepted_s}
        if self.first_s is not None and self.last_s is not None:
            found["time_in_model_prefill"] = self.first_s - self.scheduled_s
            found["time_in_model_decode"] = self.last_s - self.first_s
            found["time_in_model_inference"] = self.last_s - self.scheduled_s
        return found
