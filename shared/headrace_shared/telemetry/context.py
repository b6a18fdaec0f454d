"""Which request the running code works for, as context variables that every log line carries.

Code that works for many requests at once, as a worker's event loop does, names the request in the line itself; the
trace that belongs to it is then looked up here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_request_id: ContextVar[str | None] = ContextVar("headrace_request_id", default=None)
_trace_id: ContextVar[str | None] = ContextVar("headrace_trace_id", default=None)
_traces: dict[str, str] = {}
_MOST_TRACES = 4096


def current_request_id() -> str | None:
    """The request id that ``request_scope`` bound in this task; None outside of any request."""
    return _request_id.get()


def trace_id_of(request_id: str | None) -> str | None:
    """The trace of the named request, else of the one that this task works for; None: it has none."""
    named = _traces.get(request_id) if request_id is not None else None
    return named or _trace_id.get()


@contextmanager
def request_scope(request_id: str, trace_id: str | None = None) -> Iterator[None]:
    """Bind both for the log lines written inside the block, and in tasks started there."""
    request, trace = _request_id.set(request_id), _trace_id.set(trace_id)
    try:
        yield
    finally:
        _request_id.reset(request)
        _trace_id.reset(trace)


def note_trace(request_id: str, traceparent: str | None) -> None:
    """Have log lines that name this request carry its trace, until some thousand others were noted."""
    if traceparent is not None and (trace_id := trace_id_in(traceparent)) is not None:
        _traces[request_id] = trace_id
        if len(_traces) > _MOST_TRACES:
            del _traces[next(iter(_traces))]


def trace_id_in(traceparent: str) -> str | None:
    """The trace's id in a W3C ``traceparent``; None when there is none."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else None
