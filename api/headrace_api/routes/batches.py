"""/v1/batches: many requests in one file."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep, answer_headers, call_of, json_answer, read_body
from headrace_api.operations import batches as operations
from headrace_api.output.sse import EventStream
from headrace_api.routes.documented import answers, events, takes
from headrace_api.schemas.batches import Batch, BatchList, BatchRequest
from headrace_shared.queue.pages import Page

router = APIRouter(tags=["batches"])
_FAILURES = (400, 401, 404, 500, 503)


@router.post(
    "/v1/batches",
    summary="Create a batch",
    openapi_extra=takes(BatchRequest),
    responses=answers(Batch, failures=(400, 401, 404, 413, 415, 500, 503)),
)
async def create_batch(request: Request, services: ServicesDep) -> Response:
    """Its input is a file with a request in each line."""
    body = await read_body(request, BatchRequest)
    tenant = request.headers.get("x-headrace-tenant")
    batch = await operations.create(body, tenant, call_of(request, services), services)
    return json_answer(batch, answer_headers(body))


@router.get("/v1/batches", summary="List batches", responses=answers(BatchList, failures=(400, 401, 500, 503)))
async def list_batches(
    request: Request,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(description="The id of the last batch known.")] = None,
) -> Response:
    """One's own, the newest first."""
    return json_answer(await operations.listed(Page(limit, after), call_of(request, services), services))


@router.get("/v1/batches/{batch_id}", summary="Show a batch", responses=answers(Batch, failures=_FAILURES))
async def retrieve_batch(batch_id: str, request: Request, services: ServicesDep) -> Response:
    return json_answer(await operations.retrieve(batch_id, call_of(request, services), services))


@router.post("/v1/batches/{batch_id}/cancel", summary="Cancel a batch", responses=answers(Batch, failures=_FAILURES))
async def cancel_batch(batch_id: str, request: Request, services: ServicesDep) -> Response:
    """What is done by then can be fetched once it is cancelled."""
    return json_answer(await operations.cancel(batch_id, call_of(request, services), services))


@router.get("/v1/batches/{batch_id}/events", summary="Follow a batch", responses=events(failures=_FAILURES))
async def batch_events(batch_id: str, request: Request, services: ServicesDep) -> Response:
    """The batch, and again whenever it has changed, until it is done."""
    changes = await operations.watch(batch_id, call_of(request, services), services)
    return EventStream(changes, keep_alive_s=services.settings.keep_alive_s)
