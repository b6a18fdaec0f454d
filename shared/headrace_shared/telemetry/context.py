"""Which request the running code works for, as a context variable that every log line carries."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_request_id: ContextVar[str | None] = ContextVar("headrace_request_id", default=None)


def current_request_id() -> str | None:
    """The request id that ``request_scope`` bound in this task; None outside of any request."""
    return _request_id.get()


@contextmanager
def request_scope(request_id: str) -> Iterator[None]:
    """Bind ``request_id`` for the log lines written inside the block, and in tasks started there."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)
