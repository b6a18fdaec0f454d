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
from headrace_api.schemas.batches import Batch, BatchList, BatchRequest
from headrace_api.schemas.chat import ChatChunk, ChatCompletion, ChatRequest
from headrace_api.schemas.chat_batch import ChatBatchRequest
from headrace_api.schemas.completions import Completion, CompletionChunk, CompletionRequest
from headrace_api.schemas.console import RetriedDeadLetter, RetryDeadLetter
from headrace_api.schemas.files import DeletedFile, FileList, FileObject
from headrace_api.schemas.health import Readiness, ScrapeTarget, ServerLoad, Version
from headrace_api.schemas.models import Model, ModelList
from headrace_api.schemas.render import Rendered
from headrace_api.schemas.requests import RequestReport
from headrace_api.schemas.responses import DeletedResponse, ItemList, Response, ResponsesRequest
from headrace_api.schemas.stored_chats import DeletedChat, MessageList
from headrace_api.schemas.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
    TokenizerInfo,
)

REQUESTS: tuple[type[RequestModel], ...] = (
    ChatRequest,
    ChatBatchRequest,
    CompletionRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
    BatchRequest,
    TokenizeRequest,
    DetokenizeRequest,
    RetryDeadLetter,
)
ANSWERS: tuple[type[msgspec.Struct], ...] = (
    ChatCompletion,
    DeletedChat,
    MessageList,
    ChatChunk,
    Completion,
    CompletionChunk,
    Response,
    DeletedResponse,
    ItemList,
    Message,
    TokenCount,
    FileObject,
    FileList,
    DeletedFile,
    Batch,
    BatchList,
    TokenizeAnswer,
    DetokenizeAnswer,
    TokenizerInfo,
    Rendered,
    Model,
    ModelList,
    RequestReport,
    RetriedDeadLetter,
    ScaleSignals,
    Readiness,
    ScrapeTarget,
    ServerLoad,
    Version,
    ErrorBody,
    MessagesErrorBody,
)
_REFERENCE = "#/components/schemas/{}"
_QUEUED = "429"
"""What only requests are answered with that go through the queue."""


def _header(name: str, text: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


_HEADERS_OF_ALL = [
    _header("X-Request-Id", "Base of the ids.", type="string", pattern=r"^[A-Za-z0-9._:\-]{1,128}$"),
]
_HEADERS_OF_QUEUED = [
    _header("X-Request-Timeout", "Seconds after which the request is given up.", type="number", exclusiveMinimum=0),
    _header(
        "X-Vllm-Priority",
        "Goes before the body's priority; lower goes first.",
        type="integer",
        minimum=-(2**53) + 1,
        maximum=2**53 - 1,
    ),
    _header("Idempotency-Key", "The same request is computed once.", type="string", pattern=r"^[\x20-\x7e]{1,255}$"),
    _header("X-Headrace-On-Disconnect", "What becomes of it without its client.", enum=["cancel", "continue"]),
    _header("X-Headrace-Tenant", "For whom a client without a key asks.", type="string", maxLength=128),
    _header("traceparent", "The client's trace, as W3C's trace context has it.", type="string"),
]


def document(app: FastAPI, *, guarded: bool) -> dict[str, Any]:
    """The whole document. ``guarded``: the server wants an API key."""
    whole = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, servers=app.servers
    )
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
            own = operation.setdefault("parameters", [])
            own += [*_HEADERS_OF_ALL, *(_HEADERS_OF_QUEUED if _QUEUED in operation["responses"] else [])]
            if guarded and path not in OPEN_PATHS:
                operation["security"] = [{"key": []}]
    return whole
