"""/v1/requests/{id}: requests after they were sent."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep, call_of, json_answer
from headrace_api.operations import requests as operations
from headrace_api.output.sse import EventStream
from headrace_api.routes.documented import answers, events
from headrace_api.schemas.requests import RequestReport

router = APIRouter(tags=["requests"])
_FAILURES = (401, 404, 500, 503)


@router.get(
    "/v1/requests/{request_id}",
    summary="Where a request stands",
    responses=answers(RequestReport, failures=(400, *_FAILURES)),
)
async def show_request(request_id: str, request: Request, services: ServicesDep) -> Response:
    return json_answer(await operations.report(request_id, call_of(request, services), services))


@router.post(
    "/v1/requests/{request_id}/cancel",
    summary="Cancel a request",
    responses=answers(RequestReport, failures=(400, *_FAILURES)),
)
async def cancel_request(request_id: str, request: Request, services: ServicesDep) -> Response:
    """Its stream ends with an error. One that is done, or cancelled already, stays as it is."""
    return json_answer(await operations.cancel(request_id, call_of(request, services), services))


@router.get(
    "/v1/requests/{request_id}/stream",
    summary="Follow a request, from its beginning or from any event",
    responses=events(failures=(400, *_FAILURES)),
)
async def resume_stream(
    request_id: str,
    request: Request,
    services: ServicesDep,
    starting_after: Annotated[str | None, Query(description="An event's id, or its number.")] = None,
    last_event_id: Annotated[str | None, Header(description="The same, as browsers send it; goes first.")] = None,
) -> Response:
    """While it runs, and for a while after its end; also for a request that was not streamed."""
    positions = (("Last-Event-ID", last_event_id), ("starting_after", starting_after))
    position = next(((param, value) for param, value in positions if value is not None), None)
    frames = await operations.resume(request_id, position, call_of(request, services), services)
    return EventStream(frames, keep_alive_s=services.settings.keep_alive_s)
