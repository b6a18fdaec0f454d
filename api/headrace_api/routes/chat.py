"""POST /v1/chat/completions."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep, answer_headers, call_of, json_answer, read_body, unless_gone
from headrace_api.operations import chat
from headrace_api.output.sse import EventStream
from headrace_api.routes.documented import GENERATION_FAILURES, answers, takes
from headrace_api.schemas.chat import ChatCompletion, ChatRequest

router = APIRouter(tags=["generation"])


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    openapi_extra=takes(ChatRequest),
    responses=answers(ChatCompletion, stream=True, failures=GENERATION_FAILURES),
)
async def create_chat_completion(request: Request, services: ServicesDep) -> Response:
    body = await read_body(request, ChatRequest)
    call, headers = call_of(request), answer_headers(body)
    if body.stream:
        frames = await chat.stream(body, call, services)
        return EventStream(frames, keep_alive_s=services.settings.keep_alive_s, headers=headers)
    return json_answer(await unless_gone(request, chat.complete(body, call, services)), headers)
