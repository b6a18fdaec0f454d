"""POST /tokenize and POST /detokenize."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep, answer_headers, json_answer, read_body
from headrace_api.operations import tokenize as operations
from headrace_api.routes.documented import answers, takes
from headrace_api.schemas.tokenize import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest

router = APIRouter(tags=["tokens"])
_FAILURES = (400, 401, 404, 413, 415, 500, 503)


@router.post(
    "/tokenize",
    summary="Text or messages to token ids",
    openapi_extra=takes(TokenizeRequest),
    responses=answers(TokenizeAnswer, failures=_FAILURES),
)
async def tokenize(request: Request, services: ServicesDep) -> Response:
    body = await read_body(request, TokenizeRequest)
    return json_answer(await operations.tokenize(body, services), answer_headers(body))


@router.post(
    "/detokenize",
    summary="Token ids to text",
    openapi_extra=takes(DetokenizeRequest),
    responses=answers(DetokenizeAnswer, failures=_FAILURES),
)
async def detokenize(request: Request, services: ServicesDep) -> Response:
    body = await read_body(request, DetokenizeRequest)
    return json_answer(await operations.detokenize(body, services), answer_headers(body))
