"""Pure ASGI middleware: the request's id and log line, and the cap on its body."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headrace_api.errors import error_response, speaks_messages
from headrace_api.http_metrics import UNMATCHED, HttpMetrics
from headrace_api.metrics import Metrics
from headrace_api.request_headers import trace_context_of
from headrace_api.spans import start_http_span
from headrace_shared.clock import mono_s
from headrace_shared.errors import HeadraceError, InternalError, PayloadTooLargeError, UnavailableError
from headrace_shared.ids import base_of, check_client_request_id, mint_request_id
from headrace_shared.telemetry.context import request_scope, trace_id_in
from headrace_shared.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

QUIET_PATHS = frozenset({"/health", "/ready", "/ping", "/metrics", "/console/events"})
"""Polled, or looked at, all day long; their log lines are for debugging, and they have no spans."""


class RequestContext:
    """Outermost: takes or mints the request id, echoes it, logs, counts and traces the answer, and turns
    an exception that nobody caught into a 500 that shows nothing but the id."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        tracing: Tracing | None = None,
        *,
        root_path: str = "",
        echo_id: bool = True,
        logs: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """``logs``: whether requests to a path get a log line."""
        self._app = app
        self._metrics = HttpMetrics(metrics)
        self._tracing = tracing
        self._root_path = root_path
        self._echo_id = echo_id
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arrived_s = mono_s()
        # Here and not in uvicorn, which puts it before every path: a proxy may take it off or leave it there.
        scope["root_path"] = self._root_path
        refusal: HeadraceError | None = None
        request_id = mint_request_id()
        sent = Headers(scope=scope)
        client_id = sent.get("x-request-id") or None
        if client_id is not None:
            try:
                request_id = base_of(check_client_request_id(client_id))
            except HeadraceError as error:
                refusal, client_id = error, None
        headers = {"X-Request-Id": client_id or request_id} if self._echo_id else {}
        tracing = None if scope["path"].removeprefix(self._root_path) in QUIET_PATHS else self._tracing
        span = start_http_span(tracing, scope, sent, request_id)
        traceparent, tracestate = (span.traceparent, span.tracestate) if span.traceparent else trace_context_of(sent)
        if speaks_messages(scope):
            headers["Request-Id"] = request_id
        scope.setdefault("state", {}).update(
            request_id=request_id,
            client_request_id=client_id,
            arrived_s=arrived_s,
            answer_headers=headers,
            traceparent=traceparent,
            tracestate=tracestate,
        )
        with request_scope(request_id, trace_id_in(traceparent) if traceparent else None):
            answer = _Answer(send, headers)
            try:
                await self._run(error_response(refusal, scope) if refusal else self._app, scope, receive, answer)
            finally:
                route = getattr(scope.get("route"), "path", UNMATCHED)
                span.end(scope["method"], route, answer.status)
                self._metrics.answered(scope, route, answer.status, answer.sent_bytes)
            self._report(scope, answer.status)

    async def _run(self, app: ASGIApp, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await app(scope, receive, answer.send)
        except asyncio.CancelledError:
            # The server is stopping and has waited long enough; a stream has said so itself.
            log.warning("request broken off by shutdown", extra={"path": scope["path"]})
            if answer.status is None:
                error = UnavailableError("The server is shutting down.")
                await error_response(error, scope)(scope, receive, answer.send)
        except Exception:
            log.exception("unhandled error", extra={"path": scope["path"]})
            if answer.status is None:
                await error_response(InternalError("unhandled error"), scope)(scope, receive, answer.send)
            else:
                raise  # The answer has begun: the server must break the connection, not end it neatly.

    def _report(self, scope: Scope, status: int | None) -> None:
        path: str = scope["path"].removeprefix(self._root_path)
        if not self._logs(path):
            return
        log.log(
            logging.DEBUG if path in QUIET_PATHS else logging.INFO,
            "request answered",
            extra={
                "method": scope["method"],
                "path": path,
                "status": status,
                "duration_ms": round((mono_s() - scope["state"]["arrived_s"]) * 1000, 1),
            },
        )


class _Answer:
    """Adds headers to the answer that passes through, whatever it becomes, and remembers its status and size.

    The request id is one; what else is written into ``headers`` until the answer begins comes along.
    """

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send = send
        self._headers = headers
        self.status: int | None = None
        self.sent_bytes = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message).update(self._headers)
        else:
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)


class BodyLimit:
    """413 for a body above ``max_bytes``: by its Content-Length before a byte is read, else while reading.

    A body without Content-Length that grows past the limit raises PayloadTooLargeError out of the
    ``receive`` of whoever reads it, so that no more than the limit is ever held.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, larger: Mapping[str, int] | None = None) -> None:
        """``larger``: the limits of paths whose bodies are not held in memory."""
        self._app = app
        self._max_bytes = max_bytes
        self._larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = self._larger.get(scope["path"], self._max_bytes)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > max_bytes:
            await error_response(_too_large(max_bytes), scope)(scope, receive, send)
            return
        received = 0

        async def counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                raise _too_large(max_bytes)
            return message

        await self._app(scope, counting, send)


def _too_large(max_bytes: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body is larger than this server accepts ({max_bytes} bytes).")
