"""What routes take from a request and give back: services, checked bodies, JSON answers, streams."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import msgspec
from fastapi import Depends, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from headrace_api.operations.call import Call
from headrace_api.operations.services import Services
from headrace_api.request_headers import goes_on_alone, idempotency_key_of, priority_of, refuse_unsupported, timeout_of
from headrace_api.schemas.base import RequestModel
from headrace_api.schemas.queued import QueuedRequest
from headrace_shared.errors import ErrorCode, HeadraceError

log = logging.getLogger(__name__)

Body = TypeVar("Body", bound=RequestModel)
T = TypeVar("T")

_MOST_NAMED = 20
_LONGEST_NAME = 64
_encode = msgspec.json.Encoder().encode


async def _services(request: Request) -> Services:
    # Not a plain function: the framework would run that in a thread.
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]


async def read_body(request: Request, model: type[Body]) -> Body:
    """The checked body. Raises InvalidRequestError, and a 415 for anything that is not called JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise HeadraceError(
            "The body must be JSON, sent with the header 'Content-Type: application/json'.",
            code=ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        )
    body = model.parse(await request.body())
    if unknown := body.unknown_fields():
        log.info("unknown fields in the body", extra={"fields": unknown_fields_header(unknown)})
    return body


def call_of(request: Request, services: Services) -> Call:
    """What operations are told of any HTTP request."""
    state = request.state
    return Call(
        request_id=state.request_id,
        chosen_by_client=state.client_request_id is not None,
        arrived_s=state.arrived_s,
        caller=getattr(state, "caller", services.anyone),
        timeout_s=services.settings.request_timeout_s,
        answer_headers=state.answer_headers,
        traceparent=state.traceparent,
        tracestate=state.tracestate,
    )


def generation_call(request: Request, body: QueuedRequest, raw: bytes, services: Services) -> Call:
    """What operations are told of a request for an answer. Raises InvalidRequestError that names the header at fault."""
    headers = request.headers
    refuse_unsupported(headers)
    asked_s = [wish for wish in (timeout_of(headers), body.timeout) if wish is not None]
    if asked_s:
        request.state.patience_s = min(asked_s)
    call = call_of(request, services)
    return replace(
        call,
        caller=call.caller.named(headers.get("x-headrace-tenant"), body.end_user),
        timeout_s=min(call.timeout_s, *asked_s) if asked_s else call.timeout_s,
        body=raw,
        priority=priority_of(headers),
        idempotency_key=idempotency_key_of(headers),
        detached=goes_on_alone(headers),
    )


def answer_headers(body: RequestModel) -> dict[str, str]:
    """Headers that tell the client about its request."""
    unknown = body.unknown_fields()
    return {"X-Headrace-Unknown-Fields": unknown_fields_header(unknown)} if unknown else {}


def unknown_fields_header(names: list[str]) -> str:
    """The first names, percent-encoded: a client's field names may hold anything."""
    return ", ".join(quote(name[:_LONGEST_NAME], safe="[]") for name in names[:_MOST_NAMED])


def json_answer(
    answer: msgspec.Struct | Sequence[msgspec.Struct], headers: dict[str, str] | None = None, status: int = 200
) -> Response:
    """A body in JSON."""
    return Response(_encode(answer), status_code=status, headers=headers, media_type="application/json")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T], on_stop: Callable[[], None] | None = None) -> T:
    """The result of ``work``, which is cancelled when the client goes away meanwhile.

    Raises ClientDisconnect then. ``on_stop`` is called before it is cancelled because the server stops.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_client_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        if on_stop is not None:
            on_stop()
        raise
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
    if task.cancelled():
        raise ClientDisconnect
    return task.result()


async def _client_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
