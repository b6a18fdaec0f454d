"""Who may enter: bearer tokens, checked before anything else is looked at."""

import hashlib
import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace_api.errors import error_response
from headrace_api.settings import ApiSettings
from headrace_api.tenants import Caller, TenantLimits, tenant_of_key
from headrace_shared.errors import UnauthorizedError

OPEN_PATHS = frozenset({"/health", "/ready", "/version", "/ping", "/metrics", "/console"})
"""What probes and scrapers call, and the console's page, which asks for the key that its data is behind.
Everything else is guarded, the documentation pages included."""
OPEN_FOLDER = "/console/files/"
"""What that page is made of."""


class ApiKeys:
    """The accepted keys, kept only as digests, and whom each of them belongs to."""

    def __init__(self, callers: Mapping[str, Caller]) -> None:
        self._callers = tuple((_digest(key), caller) for key, caller in callers.items())

    @classmethod
    def of_settings(cls, settings: ApiSettings) -> "ApiKeys":
        limits = TenantLimits.of_settings(settings)
        plain = [key.get_secret_value() for key in settings.api_keys]
        named = (settings.api_keys_file or {}).items()
        return cls(
            {key: Caller.with_key(tenant_of_key(key), limits) for key in plain}
            | {
                key.key.get_secret_value(): Caller.with_key(name, limits.refined(key), admin=key.admin)
                for name, key in named
            }
        )

    def __bool__(self) -> bool:
        return bool(self._callers)

    def caller(self, key: str) -> Caller | None:
        """Whose key it is, None when it is nobody's; takes equally long for every key."""
        digest = _digest(key)
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(digest, known):
                found = caller
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
                scope.setdefault("state", {})["caller"] = self._caller(Headers(scope=scope))
            except UnauthorizedError as error:
                await error_response(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _open(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(self._root_path)
        return not self._keys or scope["method"] == "OPTIONS" or path in OPEN_PATHS or path.startswith(OPEN_FOLDER)

    def _caller(self, headers: Headers) -> Caller:
        """By the bearer token; without one by ``X-Api-Key``, as Anthropic's clients send it."""
        authorization, plain = headers.get("authorization"), headers.get("x-api-key")
        if authorization is None and plain is None:
            raise UnauthorizedError("An API key is required: send the header 'Authorization: Bearer KEY'.")
        scheme, _, key = f"bearer {plain}".partition(" ") if authorization is None else authorization.partition(" ")
        caller = self._keys.caller(key.strip())
        if scheme.lower() != "bearer" or caller is None:
            raise UnauthorizedError("The API key is not accepted.")
        return caller


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
