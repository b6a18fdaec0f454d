"""POST /v1/messages and POST /v1/messages/count_tokens, as Anthropic's clients call them."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep, answer_headers, json_answer, read_body
from headrace_api.operations.anthropic import MESSAGES, count_tokens
from headrace_api.routes.documented import GENERATION_FAILURES, answers, takes
from headrace_api.routes.generation import answer
from headrace_api.schemas.anthropic import CountTokensRequest, Message, MessagesRequest, TokenCount

router = APIRouter(tags=["messages"])
_FAILURES = (*GENERATION_FAILURES, 529)


@router.post(
    "/v1/messages",
    summary="Answer a conversation, in the form of Anthropic's API",
    openapi_extra=takes(MessagesRequest),
    responses=answers(Message, stream=True, failures=_FAILURES, error="MessagesErrorBody"),
)
async def create_message(request: Request, services: ServicesDep) -> Response:
    """The headers ``anthropic-version`` and ``anthropic-beta`` change nothing. ``x-api-key`` is taken for the key."""
    return await answer(MESSAGES, request, services)


@router.post(
    "/v1/messages/count_tokens",
    summary="How many tokens a conversation has",
    openapi_extra=takes(CountTokensRequest),
    responses=answers(TokenCount, failures=(400, 401, 404, 413, 415, 500, 503), error="MessagesErrorBody"),
)
async def count_message_tokens(request: Request, services: ServicesDep) -> Response:
    body = await read_body(request, CountTokensRequest)
    return json_answer(await count_tokens(body, services), answer_headers(body))
