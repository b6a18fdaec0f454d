"""POST /v1/completions."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep, answer_headers, call_of, json_answer, read_body, unless_gone
from headrace_api.operations import completions
from headrace_api.output.sse import EventStream
from headrace_api.routes.documented import GENERATION_FAILURES, answers, takes
from headrace_api.schemas.completions import Completion, CompletionRequest

router = APIRouter(tags=["generation"])


@router.post(
    "/v1/completions",
    summary="Continue a text",
    openapi_extra=takes(CompletionRequest),
    responses=answers(Completion, stream=True, failures=GENERATION_FAILURES),
)
async def create_completion(request: Request, services: ServicesDep) -> Response:
    body = await read_body(request, CompletionRequest)
    call, headers = call_of(request), answer_headers(body)
    if body.stream:
        frames = await completions.stream(body, call, services)
        return EventStream(frames, keep_alive_s=services.settings.keep_alive_s, headers=headers)
    return json_answer(await unless_gone(request, completions.complete(body, call, services)), headers)
