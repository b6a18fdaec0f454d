"""Responses after they were created: fetching, following, cancelling and deleting what is stored.

Nothing is written when a response is complete: the Ask and the token log are the record, kept as long as is asked for.
So it is there for every API node, whichever of them has died meanwhile.
"""

import contextlib

from headrace_api.dispatch import Terms
from headrace_api.operations.answering import GenerationStream
from headrace_api.operations.asks import attach
from headrace_api.operations.call import Call
from headrace_api.operations.responses import PlannedResponse, find_response, told
from headrace_api.operations.services import Services
from headrace_api.schemas.responses import DeletedResponse, ItemList, Response
from headrace_shared.errors import DeadlineExceededError, InvalidRequestError, NotFoundError
from headrace_shared.queue.status import RequestPhase

_CANCELLED_WITHIN_S = 5.0
"""A worker says its last word within a step."""


async def retrieve(response_id: str, call: Call, services: Services) -> Response:
    """As it is now. Raises NotFoundError, UnavailableError."""
    planned = await find_response(response_id, call.caller.owner, services)
    return await _as_it_is(planned, call, services)


async def follow(response_id: str, after: int | None, call: Call, services: Services) -> GenerationStream:
    """Its events, those with higher numbers than ``after``. The caller must ``aclose`` the stream. Raises as above."""
    planned = await find_response(response_id, call.caller.owner, services)
    terms = Terms(planned.model.card.name, call.arrived_s, call.timeout_s, services.settings.disconnect_linger_s)
    prepared = planned.prepared()
    generations = await attach(prepared, terms, services)
    call.answer_headers["X-Headrace-Request-Id"] = planned.ask.request_id
    # Event ids count from 1.
    return GenerationStream(prepared, generations, services, after=None if after is None else [after + 1])


async def cancel(response_id: str, call: Call, services: Services) -> Response:
    """Stop one that runs in the background; what is complete stays so.

    Raises InvalidRequestError for one that does not, and as above.
    """
    planned = await find_response(response_id, call.caller.owner, services)
    if not planned.shape.blank.background:
        raise InvalidRequestError(
            "Only a response that was created with background: true can be cancelled; "
            "others are cancelled by closing their connection."
        )
    await _cancel(planned, services)
    with contextlib.suppress(DeadlineExceededError):
        return await told(planned, _CANCELLED_WITHIN_S, services)
    return await _as_it_is(planned, call, services)


async def delete(response_id: str, call: Call, services: Services) -> DeletedResponse:
    """Forget it; if it runs still, it is stopped. Raises NotFoundError, UnavailableError."""
    planned = await find_response(response_id, call.caller.owner, services)
    await _cancel(planned, services)
    await services.queue.forget(planned.model.card.queue, planned.ask)
    return DeletedResponse(id=planned.shape.blank.id)


async def input_items(response_id: str, page: tuple[int, str, str | None], call: Call, services: Services) -> ItemList:
    """What it answers, the turns before its own included. ``page``: how many, ``asc`` or ``desc``, after which id.

    Raises NotFoundError, InvalidRequestError, UnavailableError.
    """
    limit, order, after = page
    planned = await find_response(response_id, call.caller.owner, services)
    items = planned.items if order == "asc" else planned.items[::-1]
    if after is not None:
        place = next((place for place, item in enumerate(items) if item["id"] == after), None)
        if place is None:
            raise InvalidRequestError(f"after: {after[:80]!r} is no item of this response.", param="after")
        items = items[place + 1 :]
    shown = items[:limit]
    return ItemList(
        data=shown,
        first_id=shown[0]["id"] if shown else None,
        last_id=shown[-1]["id"] if shown else None,
        has_more=len(items) > limit,
    )


async def _as_it_is(planned: PlannedResponse, call: Call, services: Services) -> Response:
    state = await services.queue.state(planned.model.card.queue, planned.job.header.request_id)
    match state.phase if state else None:
        case None:
            raise NotFoundError(f"The response {planned.shape.blank.id!r} is no longer kept.")
        case RequestPhase.QUEUED:
            return planned.shape.queued()
        case RequestPhase.RUNNING | RequestPhase.RESUMING:
            return planned.shape.in_progress()
        case RequestPhase.FINISHED | RequestPhase.FAILED:
            return await told(planned, call.timeout_s, services)


async def _cancel(planned: PlannedResponse, services: Services) -> None:
    reason = "the response was cancelled"
    await services.queue.cancel(planned.model.card.queue, planned.job.header.request_id, reason)
