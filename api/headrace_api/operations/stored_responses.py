"""Responses after they were created: fetching, following, cancelling and deleting what is stored.

Nothing is written when a response is complete: the Ask and the token log are the record, kept as long as is asked for.
So it is there for every API node, whichever of them has died meanwhile.
"""

import contextlib
from collections.abc import Sequence

import msgspec

from headrace_api.dispatch import Terms
from headrace_api.operations.answering import GenerationStream
from headrace_api.operations.asks import attach
from headrace_api.operations.call import Call
from headrace_api.operations.endpoint import Trace
from headrace_api.operations.responses import AskedResponse, find_response, plan, told
from headrace_api.operations.services import Services
from headrace_api.schemas.responses import LOGPROBS, DeletedResponse, ItemList, Response
from headrace_shared.errors import DeadlineExceededError, InvalidRequestError, NotFoundError
from headrace_shared.queue.status import RequestPhase

_CANCELLED_WITHIN_S = 5.0
"""A worker says its last word within a step."""


async def retrieve(response_id: str, include: Sequence[str], call: Call, services: Services) -> Response:
    """As it is now. Raises NotFoundError, UnavailableError, InvalidRequestError for what it cannot tell."""
    asked = await find_response(response_id, call.caller.owner, services)
    _check_include(include, asked)
    return await _as_it_is(asked, call, services)


async def follow(
    response_id: str, after: int | None, include: Sequence[str], call: Call, services: Services
) -> GenerationStream:
    """Its events, those with higher numbers than ``after``. The caller must ``aclose`` the stream. Raises as above."""
    asked = await find_response(response_id, call.caller.owner, services)
    _check_include(include, asked)
    terms = Terms(asked.model.card.name, call.arrived_s, call.timeout_s, services.settings.disconnect_linger_s)
    prepared = (await plan(asked, Trace(), services)).prepared()
    generations = await attach(prepared, terms, services)
    call.answer_headers["X-Headrace-Request-Id"] = asked.ask.request_id
    # Event ids count from 1.
    return GenerationStream(prepared, generations, services, after=None if after is None else [after + 1])


async def cancel(response_id: str, call: Call, services: Services) -> Response:
    """Stop one that runs in the background; what is complete stays so.

    Raises InvalidRequestError for one that does not, and as above.
    """
    asked = await find_response(response_id, call.caller.owner, services)
    if not asked.blank.background:
        raise InvalidRequestError(
            "Only a response that was created with background: true can be cancelled; "
            "others are cancelled by closing their connection."
        )
    await _cancel(asked, services)
    with contextlib.suppress(DeadlineExceededError):
        return await told(asked, _CANCELLED_WITHIN_S, services)
    return await _as_it_is(asked, call, services)


async def delete(response_id: str, call: Call, services: Services) -> DeletedResponse:
    """Forget it; if it runs still, it is stopped. Raises NotFoundError, UnavailableError."""
    asked = await find_response(response_id, call.caller.owner, services)
    await _cancel(asked, services)
    await services.queue.forget(asked.queue, asked.ask)
    return DeletedResponse(id=asked.blank.id)


async def input_items(response_id: str, page: tuple[int, str, str | None], call: Call, services: Services) -> ItemList:
    """What it answers, the turns before its own included. ``page``: how many, ``asc`` or ``desc``, after which id.

    Raises NotFoundError, InvalidRequestError, UnavailableError.
    """
    limit, order, after = page
    asked = await find_response(response_id, call.caller.owner, services)
    items = asked.items()
    if order == "desc":
        items.reverse()
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


def _check_include(include: Sequence[str], asked: AskedResponse) -> None:
    """What a response tells is said when it is created: to ask for that again changes nothing."""
    for name in include:
        if name != LOGPROBS:
            raise InvalidRequestError(f"include: should be {LOGPROBS!r}, got {name[:80]!r}.", param="include")
        if LOGPROBS not in (asked.body.include or ()):
            raise InvalidRequestError(
                f"include: this response was created without {LOGPROBS!r}, so it has none.", param="include"
            )


async def _as_it_is(asked: AskedResponse, call: Call, services: Services) -> Response:
    state = await services.queue.state(asked.queue, asked.job_id)
    match state.phase if state else None:
        case None:
            raise NotFoundError(f"The response {asked.blank.id!r} is no longer kept.")
        case RequestPhase.QUEUED:
            return msgspec.structs.replace(asked.blank, status="queued")
        case RequestPhase.RUNNING | RequestPhase.RESUMING:
            return msgspec.structs.replace(asked.blank, status="in_progress")
        case RequestPhase.FINISHED | RequestPhase.FAILED:
            return await told(asked, call.timeout_s, services)


async def _cancel(asked: AskedResponse, services: Services) -> None:
    reason = "the response was cancelled"
    await services.queue.cancel(asked.queue, asked.job_id, reason)
