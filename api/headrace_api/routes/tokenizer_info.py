"""GET /tokenizer_info: what clients need who make prompts themselves."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from headrace_api.deps import ServicesDep, json_answer
from headrace_api.operations import tokenize as operations
from headrace_api.routes.documented import answers
from headrace_api.schemas.tokenize import TokenizerInfo

router = APIRouter(tags=["tokens"])


@router.get(
    "/tokenizer_info",
    summary="Special tokens and chat template",
    responses=answers(TokenizerInfo, failures=(400, 401, 404, 503)),
)
async def show_tokenizer_info(
    services: ServicesDep,
    model: Annotated[str | None, Query(description="May be left out while one model is served.")] = None,
) -> Response:
    """Only with ``--enable-tokenizer-info-endpoint``."""
    return json_answer(operations.describe(model, services))
