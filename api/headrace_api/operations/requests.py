"""What becomes of a request after it was sent: its state, the rest of its stream, its end."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from headrace_api.dispatch import Terms
from headrace_api.operations.answering import GenerationStream
from headrace_api.operations.anthropic import MESSAGES
from headrace_api.operations.asks import attach, find_ask
from headrace_api.operations.call import Call
from headrace_api.operations.chat import CHAT
from headrace_api.operations.chat_batch import CHAT_BATCH
from headrace_api.operations.completions import COMPLETIONS
from headrace_api.operations.endpoint import Endpoint, Trace
from headrace_api.operations.responses import RESPONSES
from headrace_api.operations.services import Services
from headrace_api.output.event_ids import parse_position
from headrace_api.schemas.requests import JobReport, Phase, RequestReport
from headrace_shared.errors import InternalError, NotFoundError
from headrace_shared.protocol.ask import Ask
from headrace_shared.queue.requests import CancelOutcome
from headrace_shared.queue.status import RequestPhase, RequestState

ENDPOINTS: Mapping[str, Endpoint[Any]] = {
    endpoint.name: endpoint for endpoint in (CHAT, CHAT_BATCH, COMPLETIONS, MESSAGES, RESPONSES)
}
CANCELLED_BY_HAND = "the request was cancelled"
_WORST_FIRST = (
    RequestPhase.FAILED,
    RequestPhase.RESUMING,
    RequestPhase.RUNNING,
    RequestPhase.QUEUED,
    RequestPhase.FINISHED,
)


async def resume(request_id: str, position: tuple[str, str] | None, call: Call, services: Services) -> GenerationStream:
    """The stream of a request from just after ``position``: the parameter that carries an event id, and the id.

    The caller must ``aclose`` it. Raises NotFoundError, InvalidRequestError, UnavailableError.
    """
    queue, ask = await find_ask(request_id, call.caller.owner, services)
    after = None
    if position is not None:
        param, value = position
        after = parse_position(value, ask.request_id, len(ask.job_ids), param)
    model = await services.directory.of_queue(queue)
    endpoint = ENDPOINTS.get(ask.endpoint)
    if endpoint is None:
        raise InternalError(f"unknown endpoint {ask.endpoint}")
    prepared = await endpoint.prepare(endpoint.body.parse(ask.body), ask, model, Trace(), services)
    terms = Terms(model.card.name, call.arrived_s, call.timeout_s, services.settings.disconnect_linger_s)
    generations = await attach(prepared, terms, services)
    call.answer_headers["X-Headrace-Request-Id"] = ask.request_id
    return GenerationStream(prepared, generations, services, after=after)


async def report(request_id: str, call: Call, services: Services) -> RequestReport:
    """Where a request stands. Raises NotFoundError, UnavailableError."""
    queue, ask = await find_ask(request_id, _managed_by(call), services)
    return await _report(queue, ask, services)


async def cancel(request_id: str, call: Call, services: Services) -> RequestReport:
    """Stop all jobs of a request that are not done; a second time changes nothing. Raises as ``report``."""
    queue, ask = await find_ask(request_id, _managed_by(call), services)
    outcomes = await asyncio.gather(
        *(services.queue.cancel(queue, job_id, CANCELLED_BY_HAND) for job_id in ask.job_ids)
    )
    services.metrics.cancellations.labels("queued").inc(outcomes.count(CancelOutcome.CANCELLED))
    return await _report(queue, ask, services)


def _managed_by(call: Call) -> str | None:
    """Whose requests the caller may see the state of, and cancel; None: everybody's. What was said stays its owner's."""
    return None if call.caller.admin else call.caller.owner


async def _report(queue: str, ask: Ask, services: Services) -> RequestReport:
    found = await asyncio.gather(*(services.queue.state(queue, job_id) for job_id in ask.job_ids))
    states = [state for state in found if state is not None]
    if not states:
        raise NotFoundError(f"There is no request {ask.request_id!r}, or its result is no longer kept.")
    model = await services.directory.of_queue(queue)
    jobs = [_job_report(state) for state in states]
    whole = JobReport.of_all(ask.request_id, min((state.phase for state in states), key=_WORST_FIRST.index), jobs)
    return RequestReport(
        **msgspec.structs.asdict(whole),
        endpoint=ask.endpoint,
        model=model.card.name,
        created=ask.created,
        priority=ask.priority,
        jobs=jobs if len(ask.job_ids) > 1 else [],
    )


def _job_report(state: RequestState) -> JobReport:
    def since_enqueued(moment_ms: int | None) -> int | None:
        return None if moment_ms is None else moment_ms - state.enqueued_ms

    claimed, first, finished = map(since_enqueued, (state.claimed_ms, state.first_token_ms, state.finished_ms))
    return JobReport(
        id=state.request_id,
        status=state.phase,
        ahead=state.ahead,
        eta_ms=state.eta_ms,
        queued_ms=claimed,
        time_to_first_token_ms=first,
        total_ms=finished,
        phases=_phases(claimed, first, finished),
        attempts=state.attempts,
        lost_workers=state.lost_workers,
        cancel_requested=state.cancel_requested,
    )


def _phases(claimed: int | None, first: int | None, finished: int | None) -> list[Phase]:
    """Each begins where the one before it ended; one that never began is left out."""
    if claimed is not None and first is not None:
        # Another worker has claimed it since.
        claimed = min(claimed, first)
    ends = (("queued", 0, claimed), ("prefill", claimed, first), ("decode", first, finished))
    return [Phase(name, start, finished if end is None else end) for name, start, end in ends if start is not None]
