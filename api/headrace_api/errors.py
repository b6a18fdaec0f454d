"""Every failure's HTTP status and OpenAI error body, in one total table."""

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


def error_body(error: HeadraceError, resume: str | UnsetType = UNSET) -> ErrorBody:
    """The body for ``error``; an internal one keeps its words to the log."""
    message = _ADDRESS.sub("", error.message)
    if len(message) > _LONGEST_MESSAGE:
        message = message[:_LONGEST_MESSAGE] + "..."
    if error.code is ErrorCode.INTERNAL:
        message = f"The server failed while it worked on this request (request id {current_request_id() or 'unknown'})."
    kind = ANSWERS[error.code].type
    return ErrorBody(ErrorObject(message, kind, error.param, error.code.value, resume))


def status_of(error: HeadraceError) -> int:
    """The HTTP status for ``error``."""
    return ANSWERS[error.code].status


def report(error: HeadraceError) -> None:
    """The log line of a failure of ours, with the words that the client may not get."""
    if status_of(error) == 500:
        log.error("request failed", extra={"code": error.code.value, "reason": error.message})


def error_response(error: HeadraceError, *, patience_s: float = math.inf) -> Response:
    """The whole HTTP answer for ``error``, with the headers that its status asks for.

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
    return Response(
        msgspec.json.encode(error_body(error)),
        status_code=status_of(error),
        headers=headers,
        media_type="application/json",
    )


async def on_headrace_error(request: Request, error: Exception) -> Response:
    """Exception handler for HeadraceError."""
    assert isinstance(error, HeadraceError)  # noqa: S101 - the framework's handler type is too wide
    report(error)
    return error_response(error, patience_s=getattr(request.state, "patience_s", math.inf))


async def on_validation_error(_request: Request, error: Exception) -> Response:
    """Exception handler for query parameters and headers that the framework finds wrong."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the framework's handler type is too wide
    return error_response(refuse([_of_framework(detail) for detail in error.errors()]))


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
    response = error_response(failure)
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
