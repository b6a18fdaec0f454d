"""POST .../render: dry runs of everything that is generated."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep
from headrace_api.operations.anthropic import MESSAGES
from headrace_api.operations.chat import CHAT
from headrace_api.operations.completions import COMPLETIONS
from headrace_api.operations.responses import RESPONSES
from headrace_api.routes.documented import answers, takes
from headrace_api.routes.generation import dry_run
from headrace_api.schemas.anthropic import MessagesRequest
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.completions import CompletionRequest
from headrace_api.schemas.render import Rendered
from headrace_api.schemas.responses import ResponsesRequest

router = APIRouter(tags=["tokens"])
_FAILURES = (400, 401, 404, 413, 415, 500, 503)
_ANSWERS = answers(Rendered, failures=_FAILURES)
_SUMMARY = "Show the prompt, and what would be asked of a worker"


@router.post("/v1/chat/completions/render", summary=_SUMMARY, openapi_extra=takes(ChatRequest), responses=_ANSWERS)
async def render_chat_completion(request: Request, services: ServicesDep) -> Response:
    """Nothing is queued."""
    return await dry_run(CHAT, request, services)


@router.post("/v1/completions/render", summary=_SUMMARY, openapi_extra=takes(CompletionRequest), responses=_ANSWERS)
async def render_completion(request: Request, services: ServicesDep) -> Response:
    """Nothing is queued."""
    return await dry_run(COMPLETIONS, request, services)


@router.post("/v1/responses/render", summary=_SUMMARY, openapi_extra=takes(ResponsesRequest), responses=_ANSWERS)
async def render_response(request: Request, services: ServicesDep) -> Response:
    """Nothing is queued."""
    return await dry_run(RESPONSES, request, services)


@router.post(
    "/v1/messages/render",
    summary=_SUMMARY,
    openapi_extra=takes(MessagesRequest),
    responses=answers(Rendered, failures=_FAILURES, error="MessagesErrorBody"),
)
async def render_message(request: Request, services: ServicesDep) -> Response:
    """Nothing is queued."""
    return await dry_run(MESSAGES, request, services)
