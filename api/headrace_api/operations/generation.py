"""Running a generation request: from a checked body to a stream or a whole answer."""

import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from headrace_api.answer_log import answer_log
from headrace_api.dispatch import Generation, KeyTakenError, Terms
from headrace_api.limits import RateLimiter
from headrace_api.operations.answering import GenerationStream, collect
from headrace_api.operations.call import Call
from headrace_api.operations.endpoint import Body, Endpoint, Prepared, Trace
from headrace_api.operations.request_log import log_prompts
from headrace_api.operations.services import Services
from headrace_api.schemas.queued import QueuedRequest
from headrace_api.tenants import Caller
from headrace_api.timeline import Timeline
from headrace_shared.clock import mono_s, wall_s
from headrace_shared.errors import ConflictError, InternalError, InvalidRequestError, UnavailableError
from headrace_shared.ids import base_of
from headrace_shared.protocol.ask import Ask
from headrace_shared.queue.requests import IdempotencyKey

_KEY_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A request on the queue. To be settled when its generations are closed."""

    prepared: Prepared
    generations: list[Generation]
    caller: Caller
    charged_tokens: int
    limiter: RateLimiter
    timeline: Timeline

    def settle(self) -> None:
        """Charge what was used instead of what it might have been."""
        used = [generation.used_tokens for generation in self.generations]
        if None not in used:
            self.limiter.give_back(self.caller, self.charged_tokens - sum(filter(None, used)))


async def open_stream(endpoint: Endpoint[Body], body: Body, call: Call, services: Services) -> GenerationStream:
    """Submit, and wait a moment for the first token, so that an early failure is raised here and now.

    The caller must ``aclose`` the stream. Raises HeadraceError.
    """
    submitted = await _submit(endpoint, body, call, services)
    generations = submitted.generations
    stream = GenerationStream(submitted.prepared, generations, services, on_close=submitted.settle)
    until_s = mono_s() + services.settings.first_event_wait_s
    try:
        for generation in generations:
            await generation.first(until_s - mono_s())
        if not generations[0].begun:
            await _tell_position(generations[0], call, services)
        _tell_timing(submitted.timeline, call)
    except BaseException:
        await stream.aclose()
        raise
    return stream


class WholeAnswer:
    """A request whose answer comes in one piece."""

    def __init__(self, submitted: _Submitted, call: Call) -> None:
        self._submitted = submitted
        self._call = call

    async def collect(self) -> msgspec.Struct:
        """The whole answer. Raises HeadraceError."""
        answer = await collect(self._submitted.prepared, self._submitted.generations)
        _tell_timing(self._submitted.timeline, self._call)
        return answer

    def keep(self) -> None:
        """Let the work go on: its client can come back for it."""
        for generation in self._submitted.generations:
            generation.keep()


async def detach(endpoint: Endpoint[Body], body: Body, call: Call, services: Services) -> msgspec.Struct:
    """Submit, and give the receipt; the work goes on whether or not this process does. Raises HeadraceError."""
    submitted = await _submit(endpoint, body, call, services)
    services.followers.follow(submitted.generations, submitted.settle)
    if submitted.prepared.receipt is None:
        raise InternalError(f"{endpoint.name} gives no receipts")
    return submitted.prepared.receipt


@asynccontextmanager
async def whole_answer(
    endpoint: Endpoint[Body], body: Body, call: Call, services: Services
) -> AsyncIterator[WholeAnswer]:
    """Submit; what is not finished at the end is cancelled. Raises HeadraceError."""
    submitted = await _submit(endpoint, body, call, services)
    try:
        yield WholeAnswer(submitted, call)
    finally:
        for generation in submitted.generations:
            await generation.aclose()
        submitted.settle()


async def _submit(endpoint: Endpoint[Body], body: Body, call: Call, services: Services) -> _Submitted:
    idempotency = _idempotency(endpoint.name, call)
    for _ in range(_KEY_TRIES):
        held = await _held(idempotency, call, services) if idempotency else None
        if held is not None:
            queue, ask = held
            model = await services.directory.of_queue(queue)
        else:
            model = services.directory.resolve(body.model)
            ask = await new_ask(endpoint, body, call, services)
        parent = (call.traceparent, call.tracestate)
        timeline = services.timelines.begin(ask, model.card.name, call.arrived_s, parent)
        try:
            trace = Trace(timeline.spans.traceparent, timeline.spans.tracestate)
            prepared = await endpoint.prepare(body, ask, model, trace, services)
            charged = 0
            if held is None:
                charged = await services.limiter.admit(call.caller, prepared.cost_tokens, call.answer_headers)
                if services.settings.enable_log_requests:
                    await services.tokenizers.run(log_prompts, prepared, model, services.settings)
            timeline.prepared(prepared.jobs, call.body)
            linger_s = services.settings.disconnect_linger_s if body.stream else 0.0
            answers = answer_log(services.settings, model.card.name, stream=bool(body.stream))
            terms = Terms(model.card.name, call.arrived_s, call.timeout_s, linger_s, timeline, answers)
            generations = await enqueue(prepared, terms, services, idempotency)
        except KeyTakenError:
            timeline.end("attached")
            continue
        except BaseException as error:
            timeline.refused(error)
            raise
        timeline.enqueued(model.card.queue, len(prepared.jobs))
        _tell(call, ask, replay=held is not None)
        return _Submitted(prepared, generations, call.caller, charged, services.limiter, timeline)
    raise UnavailableError("An earlier request with this Idempotency-Key is just beginning or ending; try again.")


async def enqueue(
    prepared: Prepared, terms: Terms, services: Services, idempotency: IdempotencyKey | None = None
) -> list[Generation]:
    """All or none: when one job is refused, those before it are cancelled."""
    generations: list[Generation] = []
    try:
        for job in prepared.jobs:
            # The first job brings the key along for all of them.
            key = None if generations else idempotency
            generations.append(await services.dispatcher.submit(job, prepared.ask, terms, key))
    except BaseException:
        for generation in generations:
            generation.give_up()
            await generation.aclose()
        raise
    return generations


async def new_ask(endpoint: Endpoint[Body], body: Body, call: Call, services: Services) -> Ask:
    """What the client asks for, with an id of its own. Raises HeadraceError."""
    request_id = _queue_id(call, body)
    prompts = endpoint.prompts(body)
    ask = Ask(
        endpoint=endpoint.name,
        request_id=request_id,
        body=call.body,
        created=wall_s(),
        owner=call.caller.owner,
        job_ids=(request_id,) if prompts == 1 else tuple(f"{request_id}-{number}" for number in range(prompts)),
        tenant=call.caller.tenant,
        priority=_priority(body, call, services),
        detached=call.detached,
    )
    return await endpoint.complete(body, ask, services)


def _priority(body: QueuedRequest, call: Call, services: Services) -> int:
    """A header beats the body. Raises InvalidRequestError for one that may not be asked for."""
    asked = body.priority if call.priority is None else call.priority
    if services.settings.scheduling_policy == "priority":
        return call.caller.limits.priority(asked, body.tier_priority)
    if asked:
        raise InvalidRequestError(
            f"priority: should be 0 or left out, as this server serves who came first, got {asked}.", param="priority"
        )
    return 0


def _queue_id(call: Call, body: QueuedRequest) -> str:
    """The id on the queue: the client's with a random end, since clients repeat theirs. A header beats the body."""
    if not call.chosen_by_client and body.request_id is None:
        return call.request_id
    base = call.request_id if call.chosen_by_client or body.request_id is None else body.request_id
    return f"{base_of(base)}-{secrets.token_hex(4)}"


def _idempotency(endpoint: str, call: Call) -> IdempotencyKey | None:
    """The key with the fingerprint of what is asked for; how its JSON is written does not matter."""
    if call.idempotency_key is None:
        return None
    canonical = json.dumps(json.loads(call.body), sort_keys=True, separators=(",", ":"))
    return IdempotencyKey(call.idempotency_key, hashlib.sha256(f"{endpoint}\n{canonical}".encode()).hexdigest())


async def _held(idempotency: IdempotencyKey, call: Call, services: Services) -> tuple[str, Ask] | None:
    """What the key's first request asked for, and its queue: that of a model which may have been replaced since.

    Raises ConflictError when its body was another one.
    """
    for queue in await services.directory.queues():
        holder = await services.queue.holder(queue, call.caller.tenant, idempotency)
        if holder is None:
            continue
        request_id, same_body = holder
        if not same_body:
            raise ConflictError("Idempotency-Key: was used for a request with another body.", param="Idempotency-Key")
        ask = await services.queue.ask(queue, request_id)
        return None if ask is None else (queue, ask)
    return None


def _tell(call: Call, ask: Ask, *, replay: bool) -> None:
    call.answer_headers["X-Headrace-Request-Id"] = ask.request_id
    if replay:
        call.answer_headers["X-Headrace-Idempotent-Replay"] = "true"


def _tell_timing(timeline: Timeline, call: Call) -> None:
    """Where the time went so far."""
    if (timing := timeline.server_timing()) is not None:
        call.answer_headers["Server-Timing"] = timing


async def _tell_position(generation: Generation, call: Call, services: Services) -> None:
    """Only for a request that has waited already: who is served at once has no use for it."""
    with contextlib.suppress(UnavailableError):
        state = await services.queue.state(generation.queue, generation.request_id)
        if state is not None and state.ahead is not None:
            call.answer_headers["X-Queue-Position"] = str(state.ahead)
        if state is not None and state.eta_ms is not None:
            call.answer_headers["X-Queue-Eta-Ms"] = str(state.eta_ms)
