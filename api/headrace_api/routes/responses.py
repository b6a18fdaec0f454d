"""/v1/responses: creating responses, and what can be done with those that are stored."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response as HttpResponse

from headrace_api.deps import ServicesDep, call_of, json_answer
from headrace_api.operations import stored_responses as operations
from headrace_api.operations.responses import RESPONSES
from headrace_api.output.sse import EventStream
from headrace_api.routes.documented import GENERATION_FAILURES, answers, takes
from headrace_api.routes.generation import answer
from headrace_api.schemas.responses import DeletedResponse, ItemList, Response, ResponsesRequest
from headrace_shared.errors import InvalidRequestError

router = APIRouter(tags=["responses"])
_FAILURES = (400, 401, 404, 500, 503)


@router.post(
    "/v1/responses",
    summary="Create a response",
    openapi_extra=takes(ResponsesRequest),
    responses=answers(Response, stream=True, failures=GENERATION_FAILURES),
)
async def create_response(request: Request, services: ServicesDep) -> HttpResponse:
    """With ``background: true`` it comes back at once with the status queued, and goes on without its client."""
    return await answer(RESPONSES, request, services)


@router.get(
    "/v1/responses/{response_id}",
    summary="Fetch a stored response, or follow it",
    responses=answers(Response, stream=True, failures=_FAILURES),
)
async def retrieve_response(
    response_id: str,
    request: Request,
    services: ServicesDep,
    stream: Annotated[bool, Query(description="Its events, while it runs or after its end.")] = False,
    starting_after: Annotated[
        int | None, Query(ge=0, description="The sequence_number of the last event known.")
    ] = None,
    include_obfuscation: Annotated[bool, Query(description="Only false: events are never padded.")] = False,
) -> HttpResponse:
    call = call_of(request, services)
    include = [*request.query_params.getlist("include"), *request.query_params.getlist("include[]")]
    if include_obfuscation:
        raise InvalidRequestError(
            "include_obfuscation: is not supported; leave it out or send false.", param="include_obfuscation"
        )
    if starting_after is not None and not stream:
        raise InvalidRequestError("starting_after: is only allowed with stream=true.", param="starting_after")
    if not stream:
        return json_answer(await operations.retrieve(response_id, include, call, services))
    frames = await operations.follow(response_id, starting_after, include, call, services)
    return EventStream(frames, keep_alive_s=services.settings.keep_alive_s)


@router.delete(
    "/v1/responses/{response_id}",
    summary="Delete a stored response",
    responses=answers(DeletedResponse, failures=_FAILURES),
)
async def delete_response(response_id: str, request: Request, services: ServicesDep) -> HttpResponse:
    """One that runs is stopped. Responses that go on from it are not touched."""
    return json_answer(await operations.delete(response_id, call_of(request, services), services))


@router.post(
    "/v1/responses/{response_id}/cancel",
    summary="Cancel a response that runs in the background",
    responses=answers(Response, failures=_FAILURES),
)
async def cancel_response(response_id: str, request: Request, services: ServicesDep) -> HttpResponse:
    """What is complete stays as it is."""
    return json_answer(await operations.cancel(response_id, call_of(request, services), services))


@router.get(
    "/v1/responses/{response_id}/input_items",
    summary="List what a response answers",
    responses=answers(ItemList, failures=_FAILURES),
)
async def list_input_items(
    response_id: str,
    request: Request,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(description="The id of the last item known.")] = None,
) -> HttpResponse:
    """The turns before its own included, the last first."""
    page = (limit, order, after)
    return json_answer(await operations.input_items(response_id, page, call_of(request, services), services))
