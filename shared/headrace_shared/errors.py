"""Failures that may cross the queue or reach a client.

HeadraceError
├── InvalidRequestError      the client can fix it: names the parameter
├── ModelNotFoundError       no live worker serves that name
├── UnauthorizedError        missing or wrong API key
├── ForbiddenError           the key may not do that
├── NotFoundError            a path or object that does not exist
├── PayloadTooLargeError     body above the limit
├── OverloadedError          the queue is full; try later
├── UnavailableError         Redis or every worker is away; try later
├── ConflictError            the same idempotency key with another body
├── RateLimitedError         this client has used up its rate; try later
├── DeadlineExceededError    the request's own deadline passed
├── CancelledRequestError    somebody cancelled it
└── InternalError            our fault; the log line carries the details
"""

import enum


class ErrorCode(enum.StrEnum):
    """The machine-readable name of a failure, the same on the wire and in the error body's ``code``."""

    INVALID_REQUEST = "invalid_request"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    UNAUTHORIZED = "invalid_api_key"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    CONFLICT = "idempotency_key_reused"
    RATE_LIMITED = "rate_limit_exceeded"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    POISONED = "request_poisoned"
    INTERNAL = "internal_error"


class HeadraceError(Exception):
    """A failure with a code, a sentence for people, and where known the parameter at fault."""

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(self, message: str, *, param: str | None = None, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequestError(HeadraceError):
    """The request breaks a rule; ``param`` names the field and the message says what is allowed."""

    code = ErrorCode.INVALID_REQUEST


class ModelNotFoundError(HeadraceError):
    """No live worker announces that model name."""

    code = ErrorCode.MODEL_NOT_FOUND


class UnauthorizedError(HeadraceError):
    """The API key is missing or unknown."""

    code = ErrorCode.UNAUTHORIZED


class ForbiddenError(HeadraceError):
    """The API key is known, but not one of those that may do it."""

    code = ErrorCode.FORBIDDEN


class NotFoundError(HeadraceError):
    """The path or object does not exist."""

    code = ErrorCode.NOT_FOUND


class PayloadTooLargeError(HeadraceError):
    """The body is larger than the server accepts."""

    code = ErrorCode.PAYLOAD_TOO_LARGE


class OverloadedError(HeadraceError):
    """The queue is at its limit; ``retry_after_s`` is the best estimate of when to come back."""

    code = ErrorCode.OVERLOADED

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(HeadraceError):
    """Redis cannot be reached, or no worker is alive; ``retry_after_s`` as above."""

    code = ErrorCode.UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConflictError(HeadraceError):
    """The idempotency key belongs to a request with another body."""

    code = ErrorCode.CONFLICT


class RateLimitedError(HeadraceError):
    """This client has used up its rate; ``retry_after_s`` is when the next request will be accepted."""

    code = ErrorCode.RATE_LIMITED

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(HeadraceError):
    """The request's own deadline passed before it was finished."""

    code = ErrorCode.DEADLINE_EXCEEDED


class CancelledRequestError(HeadraceError):
    """The request was cancelled before it was finished."""

    code = ErrorCode.CANCELLED


class InternalError(HeadraceError):
    """Something of ours broke; the client sees no details, the log does."""

    code = ErrorCode.INTERNAL
