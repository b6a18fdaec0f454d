"""/console: a page that shows what the fleet is doing, its events, and what its buttons do."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace_api.console.page import FILES, HEADERS, PageFile, page
from headrace_api.deps import ServicesDep, call_of, json_answer, read_body
from headrace_api.operations import console as operations
from headrace_api.output.sse import EventStream
from headrace_api.routes.documented import answers, takes
from headrace_api.schemas.console import RetriedDeadLetter, RetryDeadLetter
from headrace_shared.errors import NotFoundError

router = APIRouter(tags=["console"])


@router.get("/console", include_in_schema=False)
async def show_page(services: ServicesDep) -> Response:
    """Open: it holds no data, and asks for the key."""
    return _answer(page(guarded=services.settings.wants_key))


@router.get("/console/files/{name}", include_in_schema=False)
async def show_file(name: str) -> Response:
    found = FILES.get(name)
    if found is None:
        raise NotFoundError(f"There is no file {name[:80]!r}.")
    return _answer(found)


@router.get("/console/events", include_in_schema=False)
async def events(request: Request, services: ServicesDep) -> Response:
    """Not in the document: it never ends."""
    viewer = operations.watch(call_of(request, services), services)
    return EventStream(viewer, keep_alive_s=services.settings.keep_alive_s)


@router.post(
    "/console/dead-letters/retry",
    summary="Try a dead letter again",
    responses=answers(RetriedDeadLetter, failures=(400, 401, 403, 404, 413, 415, 500, 503)),
    openapi_extra=takes(RetryDeadLetter),
)
async def retry_dead_letter(request: Request, services: ServicesDep) -> Response:
    """As ``headrace dlq retry``. With API keys it takes one that the keys file marks as ``admin``."""
    body = await read_body(request, RetryDeadLetter)
    return json_answer(await operations.retry(body, call_of(request, services), services))


def _answer(file: PageFile) -> Response:
    return Response(file.content, headers=HEADERS, media_type=file.media_type)
