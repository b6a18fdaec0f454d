"""Every failure's HTTP status and error body, in one total table for each API that is spoken: OpenAI's and Anthropic's."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from msgspec import UNSET, UnsetType
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from headrace_api.schemas.problems import Problem, refuse, reworded, shown
from headrace_shared.errors import (
    ErrorCode,
    HeadraceError,
    OverloadedError,
    RateLimitedError,
    UnavailableError,
)
from headrace_shared.telemetry.context import current_request_id

log = logging.getLogger(__name__)

_ADDRESS = re.compile(r" (?:object )?at 0x[0-9a-fA-F]+")
"""How Python writes objects that a template or a library puts into its complaint."""
_LONGEST_MESSAGE = 4000


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    type: str


ANSWERS: Mapping[ErrorCode, _Answer] = {
    ErrorCode.INVALID_REQUEST: _Answer(400, "invalid_request_error"),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: _Answer(400, "invalid_request_error"),
    ErrorCode.UNAUTHORIZED: _Answer(401, "authentication_error"),
    ErrorCode.FORBIDDEN: _Answer(403, "permission_error"),
    ErrorCode.MODEL_NOT_FOUND: _Answer(404, "not_found_error"),
    ErrorCode.NOT_FOUND: _Answer(404, "not_found_error"),
    ErrorCode.METHOD_NOT_ALLOWED: _Answer(405, "invalid_request_error"),
    ErrorCode.PAYLOAD_TOO_LARGE: _Answer(413, "invalid_request_error"),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: _Answer(415, "invalid_request_error"),
    ErrorCode.CONFLICT: _Answer(409, "conflict_error"),
    ErrorCode.RATE_LIMITED: _Answer(429, "rate_limit_error"),
    ErrorCode.OVERLOADED: _Answer(429, "overloaded_error"),
    ErrorCode.CANCELLED: _Answer(499, "cancelled_error"),
    ErrorCode.INTERNAL: _Answer(500, "internal_error"),
    ErrorCode.POISONED: _Answer(500, "internal_error"),
    ErrorCode.UNAVAILABLE: _Answer(503, "service_unavailable_error"),
    ErrorCode.DEADLINE_EXCEEDED: _Answer(504, "timeout_error"),
}
"""Total over ErrorCode: a test walks the enum."""

MESSAGES_ANSWERS: Mapping[ErrorCode, _Answer] = {
    ErrorCode.INVALID_REQUEST: _Answer(400, "invalid_request_error"),
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: _Answer(400, "invalid_request_error"),
    ErrorCode.UNAUTHORIZED: _Answer(401, "authentication_error"),
    ErrorCode.FORBIDDEN: _Answer(403, "permission_error"),
    ErrorCode.MODEL_NOT_FOUND: _Answer(404, "not_found_error"),
    ErrorCode.NOT_FOUND: _Answer(404, "not_found_error"),
    ErrorCode.METHOD_NOT_ALLOWED: _Answer(405, "invalid_request_error"),
    ErrorCode.PAYLOAD_TOO_LARGE: _Answer(413, "request_too_large"),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: _Answer(415, "invalid_request_error"),
    ErrorCode.CONFLICT: _Answer(409, "invalid_request_error"),
    ErrorCode.RATE_LIMITED: _Answer(429, "rate_limit_error"),
    ErrorCode.OVERLOADED: _Answer(529, "overloaded_error"),
    ErrorCode.CANCELLED: _Answer(499, "api_error"),
    ErrorCode.INTERNAL: _Answer(500, "api_error"),
    ErrorCode.POISONED: _Answer(500, "api_error"),
    ErrorCode.UNAVAILABLE: _Answer(503, "api_error"),
    ErrorCode.DEADLINE_EXCEEDED: _Answer(504, "timeout_error"),
}
"""The same in the words of Anthropic's API, for the paths below /v1/messages."""


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str
    resume: str | UnsetType = UNSET
    """Where the rest of a stream can be had that this server had to break off."""


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer that is not a success, and of an error inside a stream."""

    error: ErrorObject


class MessagesErrorObject(msgspec.Struct, frozen=True):
    """What went wrong, in Anthropic's words."""

    type: str
    message: str
    resume: str | UnsetType = UNSET
    """As in ``ErrorObject``."""


class MessagesErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer below /v1/messages that is not a success, and of an error inside a stream."""

    type: str = "error"
    error: MessagesErrorObject
    request_id: str | None


def error_body(error: HeadraceError, resume: str | UnsetType = UNSET) -> ErrorBody:
    """The body for ``error``; an internal one keeps its words to the log."""
    kind = ANSWERS[error.code].type
    return ErrorBody(ErrorObject(public_message(error), kind, error.param, error.code.value, resume))


def messages_error_body(error: HeadraceError, resume: str | UnsetType = UNSET) -> MessagesErrorBody:
    """The same for a client of /v1/messages."""
    kind = MESSAGES_ANSWERS[error.code].type
    return MessagesErrorBody(
        error=MessagesErrorObject(kind, public_message(error), resume), request_id=current_request_id()
    )


def public_message(error: HeadraceError) -> str:
    """What a client may read of it."""
    if error.code is ErrorCode.INTERNAL:
        return f"The server failed while it worked on this request (request id {current_request_id() or 'unknown'})."
    message = _ADDRESS.sub("", error.message)
    return message if len(message) <= _LONGEST_MESSAGE else message[:_LONGEST_MESSAGE] + "..."


def speaks_messages(scope: Scope) -> bool:
    """Whether the request came to a path of Anthropic's API."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).startswith("/v1/messages")


def status_of(error: HeadraceError) -> int:
    """The HTTP status for ``error``."""
    return ANSWERS[error.code].status


def report(error: HeadraceError) -> None:
    """The log line of a failure of ours, with the words that the client may not get."""
    if status_of(error) == 500:
        log.error("request failed", extra={"code": error.code.value, "reason": error.message})


def error_response(error: HeadraceError, scope: Scope, *, patience_s: float = math.inf) -> Response:
    """The whole HTTP answer for ``error``, in the words of the API that the request of ``scope`` speaks.

    ``patience_s``: how long the client wants to wait altogether; it is told not to come back later than that.
    """
    headers: dict[str, str] = {}
    if isinstance(error, OverloadedError | RateLimitedError):
        headers["X-Should-Retry"] = "true" if error.retry_after_s < patience_s else "false"
    if isinstance(error, OverloadedError | RateLimitedError | UnavailableError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["Retry-After-Ms"] = str(max(1, round(error.retry_after_s * 1000)))
    if error.code is ErrorCode.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    anthropic = speaks_messages(scope)
    return Response(
        msgspec.json.encode(messages_error_body(error) if anthropic else error_body(error)),
        status_code=MESSAGES_ANSWERS[error.code].status if anthropic else status_of(error),
        headers=headers,
        media_type="application/json",
    )


async def on_headrace_error(request: Request, error: Exception) -> Response:
    """Exception handler for HeadraceError."""
    assert isinstance(error, HeadraceError)  # noqa: S101 - the framework's handler type is too wide
    report(error)
    return error_response(error, request.scope, patience_s=getattr(request.state, "patience_s", math.inf))


async def on_validation_error(request: Request, error: Exception) -> Response:
    """Exception handler for query parameters and headers that the framework finds wrong."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the framework's handler type is too wide
    return error_response(refuse([_of_framework(detail) for detail in error.errors()]), request.scope)


def _of_framework(detail: Mapping[str, Any]) -> Problem:
    place, *_, name = detail["loc"]
    param = name.title() if place == "header" else str(name)
    if detail["type"] == "missing":
        return Problem(param, "is required")
    return Problem(param, f"{reworded(detail['msg'])}, got {shown(detail['input'])}")


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for what the framework refuses by itself: unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)  # noqa: S101 - the framework's handler type is too wide
    failure = _from_http(request, error)
    response = error_response(failure, request.scope)
    response.headers.update(error.headers or {})
    return response


def _from_http(request: Request, error: HTTPException) -> HeadraceError:
    path = request.url.path
    match error.status_code:
        case 404:
            return HeadraceError(f"There is nothing at {path!r}.", code=ErrorCode.NOT_FOUND)
        case 405:
            return HeadraceError(f"{request.method} is not allowed on {path!r}.", code=ErrorCode.METHOD_NOT_ALLOWED)
        case status if status < 500:
            return HeadraceError(str(error.detail), code=ErrorCode.INVALID_REQUEST)
        case _:
            return HeadraceError(str(error.detail))
