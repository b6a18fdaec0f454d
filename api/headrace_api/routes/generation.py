"""POST /v1/chat/completions, POST /v1/completions, and POST /invocations for both."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep, answer_headers, generation_call, json_answer, read_body, unless_gone
from headrace_api.operations.chat import CHAT
from headrace_api.operations.chat_batch import CHAT_BATCH
from headrace_api.operations.completions import COMPLETIONS
from headrace_api.operations.endpoint import Body, Endpoint
from headrace_api.operations.generation import detach, open_stream, whole_answer
from headrace_api.operations.render import render
from headrace_api.operations.services import Services
from headrace_api.output.sse import EventStream
from headrace_api.routes.documented import GENERATION_FAILURES, answers, takes
from headrace_api.schemas.chat import ChatCompletion, ChatRequest
from headrace_api.schemas.chat_batch import ChatBatchRequest
from headrace_api.schemas.completions import Completion, CompletionRequest
from headrace_api.schemas.invocation import Invocation

router = APIRouter(tags=["generation"])


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    openapi_extra=takes(ChatRequest),
    responses=answers(ChatCompletion, stream=True, failures=GENERATION_FAILURES),
)
async def create_chat_completion(request: Request, services: ServicesDep) -> Response:
    return await answer(CHAT, request, services)


@router.post(
    "/v1/chat/completions/batch",
    summary="Answer several conversations",
    openapi_extra=takes(ChatBatchRequest),
    responses=answers(ChatCompletion, failures=GENERATION_FAILURES),
)
async def create_chat_completions(request: Request, services: ServicesDep) -> Response:
    """Each as alone; one choice for each, in their order."""
    return await answer(CHAT_BATCH, request, services)


@router.post(
    "/v1/completions",
    summary="Continue a text",
    openapi_extra=takes(CompletionRequest),
    responses=answers(Completion, stream=True, failures=GENERATION_FAILURES),
)
async def create_completion(request: Request, services: ServicesDep) -> Response:
    return await answer(COMPLETIONS, request, services)


@router.post(
    "/invocations",
    summary="Answer a conversation or continue a text",
    openapi_extra=takes(ChatRequest, CompletionRequest),
    responses=answers(ChatCompletion, Completion, stream=True, failures=GENERATION_FAILURES),
)
async def invoke(request: Request, services: ServicesDep) -> Response:
    """The one path that SageMaker calls: a body with ``messages`` is a conversation, one with ``prompt`` a text."""
    if (await read_body(request, Invocation)).messages is not None:
        return await answer(CHAT, request, services)
    return await answer(COMPLETIONS, request, services)


async def answer(endpoint: Endpoint[Body], request: Request, services: Services) -> Response:
    """Whatever is to be generated: as a stream, or in one piece."""
    body = await read_body(request, endpoint.body)
    call = generation_call(request, body, await request.body(), services)
    call.answer_headers.update(answer_headers(body))
    if body.stream:
        frames = await open_stream(endpoint, body, call, services)
        return EventStream(frames, keep_alive_s=services.settings.keep_alive_s)
    if not endpoint.waits(body):
        return json_answer(await detach(endpoint, body, call, services))
    async with whole_answer(endpoint, body, call, services) as whole:
        # Without a key the client could not come back for what another node goes on with.
        on_stop = whole.keep if call.idempotency_key else None
        return json_answer(await unless_gone(request, whole.collect(), on_stop))


async def dry_run(endpoint: Endpoint[Body], request: Request, services: Services) -> Response:
    """The same up to the queue."""
    body = await read_body(request, endpoint.body)
    call = generation_call(request, body, await request.body(), services)
    call.answer_headers.update(answer_headers(body))
    return json_answer(await render(endpoint, body, call, services))
