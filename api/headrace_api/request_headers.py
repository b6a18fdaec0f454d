"""What clients can say of a request besides its body."""

import math
import re
from collections.abc import Mapping

from headrace_shared.errors import InvalidRequestError

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_PRIORITY = re.compile(r"[+-]?\d{1,16}")
_MOST_URGENT = 2**53 - 1
"""Redis orders by doubles."""
_KEY = re.compile(r"[\x20-\x7e]{1,255}")


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """``X-Request-Timeout`` in seconds. Raises InvalidRequestError."""
    value = headers.get("x-request-timeout")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequestError(
            f"X-Request-Timeout: should be a number of seconds above 0, got {value[:80]!r}.", param="X-Request-Timeout"
        )
    return seconds


def idempotency_key_of(headers: Mapping[str, str]) -> str | None:
    """``Idempotency-Key``. Raises InvalidRequestError."""
    key = headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidRequestError(
            "Idempotency-Key: should be 1 to 255 printable ASCII characters.", param="Idempotency-Key"
        )
    return key


def priority_of(headers: Mapping[str, str]) -> int | None:
    """``X-Vllm-Priority``, the name that other servers gave it. Raises InvalidRequestError."""
    value = headers.get("x-vllm-priority")
    if value is None:
        return None
    if not (value.isascii() and _PRIORITY.fullmatch(value) and abs(int(value)) <= _MOST_URGENT):
        raise InvalidRequestError(
            f"X-Vllm-Priority: should be an integer, lower goes first, got {value[:80]!r}.", param="X-Vllm-Priority"
        )
    return int(value)


def refuse_unsupported(headers: Mapping[str, str]) -> None:
    """Raise InvalidRequestError for what other servers can be told and this one cannot."""
    if "x-data-parallel-rank" in headers:
        raise InvalidRequestError(
            "X-data-parallel-rank: is not supported; the queue finds a worker, leave it out.",
            param="X-data-parallel-rank",
        )
    if "endpoint-load-metrics-format" in headers:
        raise InvalidRequestError(
            "endpoint-load-metrics-format: is not supported; GET /autoscale/MODEL and GET /metrics tell the load.",
            param="endpoint-load-metrics-format",
        )


def goes_on_alone(headers: Mapping[str, str]) -> bool:
    """Whether ``X-Headrace-On-Disconnect`` asks for ``continue``. Raises InvalidRequestError."""
    wish = headers.get("x-headrace-on-disconnect", "cancel")
    if wish not in ("cancel", "continue"):
        raise InvalidRequestError(
            f"X-Headrace-On-Disconnect: should be cancel or continue, got {wish[:80]!r}.",
            param="X-Headrace-On-Disconnect",
        )
    return wish == "continue"


def trace_context_of(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The W3C ``traceparent`` and its ``tracestate``; a malformed one is as good as none, as the standard says."""
    traceparent = headers.get("traceparent", "")
    if _TRACEPARENT.fullmatch(traceparent) is None:
        return None, None
    return traceparent, headers.get("tracestate")
