"""Who may enter: bearer tokens, checked before anything else is looked at."""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace_api.errors import error_response
from headrace_shared.errors import UnauthorizedError

OPEN_PATHS = frozenset({"/health", "/ready", "/version", "/ping", "/metrics"})
"""What probes and scrapers call. Everything else is guarded, the documentation pages included."""


class ApiKeys:
    """The accepted keys, kept only as digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accepts(self, key: str) -> bool:
        """Whether ``key`` is one of them; takes equally long for every key."""
        digest = _digest(key)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found


class BearerAuth:
    """ASGI middleware: 401 for every path that is not open, unless the request carries an accepted key."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, root_path: str = "") -> None:
        self._app = app
        self._keys = keys
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._open(scope):
            try:
                self._check(Headers(scope=scope).get("authorization"))
            except UnauthorizedError as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _open(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(self._root_path)
        return not self._keys or scope["method"] == "OPTIONS" or path in OPEN_PATHS

    def _check(self, authorization: str | None) -> None:
        if authorization is None:
            raise UnauthorizedError("An API key is required: send the header 'Authorization: Bearer KEY'.")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not self._keys.accepts(key.strip()):
            raise UnauthorizedError("The API key is not accepted.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
