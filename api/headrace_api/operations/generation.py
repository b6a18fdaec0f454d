"""What chat and text completions have in common: ids, submitting jobs, and reading their events to the end."""

import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from headrace_api.dispatch import Generation, merge
from headrace_api.grammar.translate import constraint_of
from headrace_api.jobs import Ticket
from headrace_api.operations.services import Services
from headrace_api.output.envelope import Envelope
from headrace_api.output.sse import error_frames
from headrace_api.schemas.generation import GenerationRequest
from headrace_shared.clock import mono_s, wall_ms, wall_s
from headrace_shared.errors import HeadraceError, InternalError
from headrace_shared.model_card import ModelCard
from headrace_shared.protocol.event import Event
from headrace_shared.protocol.grammar import GrammarSpec
from headrace_shared.protocol.job import GenerateJob

log = logging.getLogger(__name__)

Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True, slots=True)
class Call:
    """What an operation knows of the request besides its body; no HTTP."""

    request_id: str
    """Minted here, or the client's own."""
    chosen_by_client: bool
    arrived_s: float
    """``clock.mono_s``."""
    traceparent: str | None = None
    tracestate: str | None = None


class Renderer(Protocol):
    """Makes a stream's frames."""

    def feed(self, prompt: int, events: Sequence[Event], /) -> bytes: ...
    def finish(self) -> bytes: ...


class Collector(Protocol[Answer]):
    """Makes one body."""

    def feed(self, prompt: int, events: Sequence[Event], /) -> None: ...
    def finish(self) -> Answer: ...


def queue_id(call: Call, body: GenerationRequest) -> str:
    """The id on the queue: the client's with a random end, since clients repeat theirs. A header beats the body."""
    if not call.chosen_by_client and body.request_id is None:
        return call.request_id
    base = call.request_id if call.chosen_by_client or body.request_id is None else body.request_id
    return f"{base}-{secrets.token_hex(4)}"


async def grammar_of(body: GenerationRequest, card: ModelCard, services: Services) -> GrammarSpec | None:
    """What the answer must look like. Raises InvalidRequestError for a grammar that no worker could use."""
    if not body.constraints() and body.guided_decoding_backend is None:
        return None
    constraint = await services.tokenizers.run(constraint_of, body, card.grammar_backends)
    if constraint is None:
        return None
    await services.grammars.check(constraint)
    return constraint.spec


def ticket(call: Call, request_id: str, services: Services, grammar: GrammarSpec | None) -> Ticket:
    settings = services.settings
    return Ticket(
        request_id=request_id,
        deadline_ms=wall_ms() + round(settings.request_timeout_s * 1000),
        traceparent=call.traceparent,
        tracestate=call.tracestate,
        max_stop_strings=settings.max_stop_strings,
        grammar=grammar,
    )


def envelope(prefix: str, request_id: str, asked_for: str | None, card: ModelCard) -> Envelope:
    """The name asked for is echoed; without one, the model's first."""
    return Envelope(
        id=f"{prefix}-{request_id}",
        created=wall_s(),
        model=asked_for if asked_for is not None else card.name,
        system_fingerprint=f"fp_{card.digest}",
    )


async def collect(
    jobs: Sequence[GenerateJob], card: ModelCard, collector: Collector[Answer], call: Call, services: Services
) -> Answer:
    """Run the jobs to their end and return the whole answer. Raises HeadraceError."""
    async with _submitted(jobs, card, call, services) as generations, aclosing(merge(generations)) as merged:
        async for prompt, events in merged:
            collector.feed(prompt, events)
    return collector.finish()


async def open_stream(
    jobs: Sequence[GenerateJob], card: ModelCard, renderer: Renderer, call: Call, services: Services
) -> "GenerationStream":
    """Submit the jobs and wait a moment for the first token, so that an early failure is raised here and now.

    The caller must ``aclose`` the stream.
    """
    generations = await _submit(jobs, card, call, services)
    stream = GenerationStream(generations, renderer, services)
    until_s = mono_s() + services.settings.first_event_wait_s
    try:
        for generation in generations:
            await generation.first(until_s - mono_s())
    except BaseException:
        await stream.aclose()
        raise
    return stream


class GenerationStream:
    """A FrameSource: the answer's frames as they can be told."""

    def __init__(self, generations: Sequence[Generation], renderer: Renderer, services: Services) -> None:
        self._generations = generations
        self._merged = merge(generations)
        self._renderer = renderer
        self._clients = services.metrics.sse_clients
        self._clients.inc()
        self._over = False

    async def next_frames(self) -> bytes:
        """As FrameSource. A failure comes out as an event, and ends the stream."""
        if self._over:
            return b""
        try:
            async for prompt, events in self._merged:
                if frames := self._renderer.feed(prompt, events):
                    return frames
            self._over = True
            return self._renderer.finish()
        except HeadraceError as error:
            self._over = True
            return error_frames(error)
        except Exception:
            log.exception("stream failed")
            self._over = True
            return error_frames(InternalError("stream failed"))

    async def aclose(self) -> None:
        """Whatever is not finished is cancelled."""
        self._clients.dec()
        await self._merged.aclose()
        for generation in self._generations:
            await generation.aclose()


@asynccontextmanager
async def _submitted(
    jobs: Sequence[GenerateJob], card: ModelCard, call: Call, services: Services
) -> AsyncIterator[list[Generation]]:
    generations = await _submit(jobs, card, call, services)
    try:
        yield generations
    finally:
        for generation in generations:
            await generation.aclose()


async def _submit(jobs: Sequence[GenerateJob], card: ModelCard, call: Call, services: Services) -> list[Generation]:
    """All or none: when one is refused, those before it are cancelled."""
    generations: list[Generation] = []
    try:
        for job in jobs:
            generations.append(await services.dispatcher.submit(job, model=card.name, arrived_s=call.arrived_s))
    except BaseException:
        for generation in generations:
            await generation.aclose()
        raise
    return generations
