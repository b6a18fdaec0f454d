"""Middleware as an operator may bring it along."""

from collections.abc import Awaitable, Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOT_MIDDLEWARE = 7


class Stamp:
    """Adds a header to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("X-Stamp", "class")
            await send(message)

        await self._app(scope, receive, stamped)


async def keep_out(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuses who says so."""
    if request.headers.get("x-keep-out"):
        return Response("kept out", status_code=418)
    answer = await call_next(request)
    answer.headers.append("X-Stamp", "function")
    return answer
