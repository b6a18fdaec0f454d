"""The OpenAPI document: routes from the framework, bodies and answers from our own schemas."""

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from headrace_api.auth import OPEN_PATHS
from headrace_api.errors import ErrorBody, MessagesErrorBody
from headrace_api.schemas.anthropic import CountTokensRequest, Message, MessagesRequest, TokenCount
from headrace_api.schemas.autoscale import ScaleSignals
from headrace_api.schemas.base import RequestModel
from headrace_api.schemas.chat import ChatChunk, ChatCompletion, ChatRequest
from headrace_api.schemas.completions import Completion, CompletionChunk, CompletionRequest
from headrace_api.schemas.health import Readiness, ScrapeTarget, ServerLoad, Version
from headrace_api.schemas.models import Model, ModelList
from headrace_api.schemas.render import Rendered
from headrace_api.schemas.requests import RequestReport
from headrace_api.schemas.responses import DeletedResponse, ItemList, Response, ResponsesRequest
from headrace_api.schemas.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
    TokenizerInfo,
)

REQUESTS: tuple[type[RequestModel], ...] = (
    ChatRequest,
    CompletionRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
ANSWERS: tuple[type[msgspec.Struct], ...] = (
    ChatCompletion,
    ChatChunk,
    Completion,
    CompletionChunk,
    Response,
    DeletedResponse,
    ItemList,
    Message,
    TokenCount,
    TokenizeAnswer,
    DetokenizeAnswer,
    TokenizerInfo,
    Rendered,
    Model,
    ModelList,
    RequestReport,
    ScaleSignals,
    Readiness,
    ScrapeTarget,
    ServerLoad,
    Version,
    ErrorBody,
    MessagesErrorBody,
)
_REFERENCE = "#/components/schemas/{}"


def document(app: FastAPI, *, guarded: bool) -> dict[str, Any]:
    """The whole document. ``guarded``: the server wants an API key."""
    whole = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, requests = models_json_schema(
        [(model, "validation") for model in REQUESTS], ref_template=_REFERENCE.format("{model}")
    )
    _, answers = msgspec.json.schema_components(ANSWERS, ref_template=_REFERENCE.format("{name}"))
    components = whole.setdefault("components", {})
    components["schemas"] = {**requests["$defs"], **answers}
    if guarded:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in whole["paths"].items():
        for operation in operations.values():
            # The framework documents a failure of its own that never leaves this server.
            operation["responses"].pop("422", None)
            if guarded and path not in OPEN_PATHS:
                operation["security"] = [{"key": []}]
    return whole
