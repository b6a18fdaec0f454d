"""Endpoint: what chat and text completions do differently, behind one interface.

Preparing depends on the body, the Ask and the model's card alone. So any API node can prepare a request again that
another one has put on the queue, and tell its answer as that one would have.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from headrace_api.directory import ServedModel
from headrace_api.grammar.translate import constraint_of
from headrace_api.jobs import Ticket
from headrace_api.operations.services import Services
from headrace_api.output.best_of import BestOf
from headrace_api.output.envelope import Envelope
from headrace_api.output.event_ids import EventIds
from headrace_api.output.paced import Paced
from headrace_api.schemas.generation import GenerationRequest
from headrace_api.schemas.queued import QueuedRequest
from headrace_shared.errors import HeadraceError, InvalidRequestError
from headrace_shared.model_card import ModelCard
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.event import Event
from headrace_shared.protocol.grammar import GrammarSpec
from headrace_shared.protocol.job import GenerateJob

Body = TypeVar("Body", bound=QueuedRequest)


class Renderer(Protocol):
    """Makes a stream's frames. They depend on each prompt's events alone, not on how many come at once."""

    def open(self) -> bytes:
        """What is told before anything is known of the answer; may be b""."""
        ...

    def feed(self, prompt: int, events: Sequence[Event], /) -> bytes: ...
    def finish(self) -> bytes: ...

    def fail(self, error: HeadraceError, /) -> bytes:
        """How it ends when the request's own log ends without an answer."""
        ...

    def break_off(self, error: HeadraceError, resume: str | UnsetType = UNSET, /) -> bytes:
        """How it ends when this node cannot tell the rest; ``resume``: where it can be had."""
        ...


class Collector(Protocol):
    """Makes one body."""

    def feed(self, prompt: int, events: Sequence[Event], /) -> None: ...
    def finish(self) -> msgspec.Struct: ...


@dataclass(frozen=True, slots=True)
class Trace:
    """The client's trace context; ``linked`` as in ``JobHeader``."""

    traceparent: str | None = None
    tracestate: str | None = None
    linked: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that could be put on the queue, and both ways to tell its answer."""

    ask: Ask
    card: ModelCard
    jobs: list[GenerateJob]
    """One per prompt, with the ids that the Ask names."""
    renderer: Callable[[EventIds], Renderer]
    collector: Callable[[], Collector]
    receipt: msgspec.Struct | None = None
    """The answer to a client that does not wait for the real one."""

    @property
    def cost_tokens(self) -> int:
        """What it may take altogether."""
        return sum(job.header.cost_tokens for job in self.jobs)


Prepare = Callable[[Body, Ask, ServedModel, Trace, Services], Awaitable[Prepared]]


async def _complete(_body: object, ask: Ask, _services: Services) -> Ask:
    return ask


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Body]):
    """``name`` is ``Ask.endpoint``; ``prompts`` says how many jobs a body makes."""

    name: str
    body: type[Body]
    prompts: Callable[[Body], int]
    prepare: Prepare[Body]
    complete: Callable[[Body, Ask, Services], Awaitable[Ask]] = _complete
    """Adds to a new Ask what preparing it needs besides the body, so that this is looked up only once."""
    waits: Callable[[Body], bool] = lambda _body: True
    """Whether the client waits for the answer; otherwise it gets ``Prepared.receipt``."""


async def grammar_of(body: GenerationRequest, card: ModelCard, services: Services) -> GrammarSpec | None:
    """What the answer must look like. Raises InvalidRequestError for a grammar that no worker could use."""
    if not body.constraints() and body.guided_decoding_backend is None:
        return None
    constraint = await services.tokenizers.run(constraint_of, body, card.grammar_backends)
    if constraint is None:
        return None
    await services.grammars.check(constraint)
    return constraint.told


def tickets(ask: Ask, trace: Trace, services: Services, grammar: GrammarSpec | None) -> list[Ticket]:
    """One for each job."""
    return [
        Ticket(
            request_id=job_id,
            traceparent=trace.traceparent,
            tracestate=trace.tracestate,
            linked=trace.linked,
            tenant=ask.tenant,
            priority=ask.priority,
            detached=ask.detached,
            background=ask.background,
            max_stop_strings=services.settings.max_stop_strings,
            strict_max_tokens=services.settings.strict_max_tokens,
            grammar=grammar,
        )
        for job_id in ask.job_ids
    ]


def tokens_as_ids(body: GenerationRequest, services: Services) -> bool:
    """As the request says, else as the server does."""
    asked = body.return_tokens_as_token_ids
    return services.settings.return_tokens_as_token_ids if asked is None else asked


def tells_timings(body: GenerationRequest, services: Services) -> bool:
    """Whether its timings are asked for. Raises InvalidRequestError where the operator does not let them be told."""
    if body.include_metrics and not services.settings.enable_per_request_metrics:
        raise InvalidRequestError(
            "include_metrics: the server was started without --enable-per-request-metrics.", param="include_metrics"
        )
    return bool(body.include_metrics)


def collector_of(body: GenerationRequest, prompts: int, plain: Callable[[], Collector]) -> Callable[[], Collector]:
    """``plain`` shows every sample; with ``best_of`` the best of them are picked for it."""
    if body.samples == body.choices:
        return plain
    return lambda: BestOf(plain(), prompts, body.samples, body.choices)


def renderer_of(
    body: GenerationRequest, services: Services, plain: Callable[[EventIds], Renderer]
) -> Callable[[EventIds], Renderer]:
    """``plain`` tells every token as it comes; with an interval several are told together."""
    interval = body.stream_interval or services.settings.stream_interval
    if interval == 1:
        return plain
    return lambda ids: Paced(plain(ids), interval)


def usage_wanted(body: GenerationRequest, services: Services) -> bool:
    """At the end of a stream: as the request says, and always where the server does."""
    return body.include_usage or services.settings.enable_force_include_usage


def envelope(prefix: str, ask: Ask, body: GenerationRequest, card: ModelCard, services: Services) -> Envelope:
    """The name asked for is echoed; without one, or where the server is told so, the model's first."""
    first = body.model is None or services.settings.first_served_name
    tier = "default" if body.service_tier == "auto" else body.service_tier
    return Envelope(
        id=f"{prefix}-{ask.request_id}",
        created=ask.created,
        model=card.name if first or body.model is None else body.model,
        system_fingerprint=f"fp_{card.digest}",
        service_tier=tier or UNSET,
    )
