"""Asker: one request after the other to a server that may be busy, or away for a while."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from headrace_cli.errors import CliError
from headrace_cli.run_batch.lines import Line
from headrace_shared.clock import mono_s

_PATIENCE_S = 300.0
"""How long a server may be away before the run is given up."""
_FIRST_DELAY_S, _MAX_DELAY_S = 0.5, 30.0
_TOLD_EVERY_S = 30.0
_LATER = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE)
_NO_ENTRY = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Reply:
    """What a line of output says: a ``response``, or an ``error``, or both for a response that is a refusal."""

    response: dict[str, Any] | None
    error: dict[str, Any] | None


class Asker:
    """Sends lines to one server. ``headers``: those of every request; ``run``: makes their idempotency keys its own."""

    def __init__(self, http: httpx.AsyncClient, run: str, priority: int | None, tell: Tell) -> None:
        self._http = http
        self._run = run
        self._priority = priority
        self._tell = tell
        self._told_s = -_TOLD_EVERY_S
        self._heard_s = mono_s()

    async def check(self) -> None:
        """Raises CliError when the server is not there, or does not let us in."""
        try:
            response = await self._http.get("/v1/models", timeout=30.0)
        except httpx.TransportError as error:
            raise CliError(f"cannot reach {self._http.base_url}: {error or type(error).__name__}") from None
        if response.status_code in _NO_ENTRY:
            raise _no_entry(response)

    async def ask(self, line: Line) -> Reply:
        """The server's answer, for however long it says that it is busy.

        Raises CliError when it is away for too long, or does not let us in.
        """
        tries = 0
        while True:
            try:
                response = await self._http.post(line.url, json=line.body, headers=self._headers(line))
            except httpx.TransportError as error:
                if mono_s() - self._heard_s > _PATIENCE_S:
                    raise CliError(f"{self._http.base_url} has been away for {_PATIENCE_S:.0f} s: {error}") from None
                delay_s, why = None, str(error) or type(error).__name__
            else:
                self._heard_s = mono_s()
                if response.status_code in _NO_ENTRY:
                    raise _no_entry(response)
                if response.status_code not in _LATER:
                    return _reply(line, response)
                delay_s, why = retry_after_s(response.headers), _message(response)
            tries += 1
            if delay_s is None:
                delay_s = min(_FIRST_DELAY_S * 2 ** min(tries - 1, 30), _MAX_DELAY_S)
            self._say(f"trying again: {why}")
            # Not all at once.
            await asyncio.sleep(delay_s * random.uniform(1.0, 1.25))  # noqa: S311 - not secret

    def _headers(self, line: Line) -> dict[str, str]:
        # A line that is sent again, by this run or the next one, gets the answer of the request that is running already.
        headers = {
            "Idempotency-Key": f"run-batch-{self._run}{line.digest}",
            "X-Headrace-On-Disconnect": "continue",
        }
        if self._priority is not None and "priority" not in line.body:
            headers["X-Vllm-Priority"] = str(self._priority)
        return headers

    def _say(self, text: str) -> None:
        if mono_s() - self._told_s >= _TOLD_EVERY_S:
            self._told_s = mono_s()
            self._tell(text)


def retry_after_s(headers: httpx.Headers) -> float | None:
    """What ``Retry-After-Ms`` or ``Retry-After`` asks for, at most an hour; None where neither is a number."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if seconds >= 0:
            return min(seconds, 3600.0)
    return None


def _reply(line: Line, response: httpx.Response) -> Reply:
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = f"line {line.number}: HTTP {response.status_code} without JSON: {response.text[:200]}"
        return Reply(None, {"code": "not_json", "message": message})
    request_id = response.headers.get("x-headrace-request-id") or response.headers.get("x-request-id") or ""
    answer = {"status_code": response.status_code, "request_id": request_id, "body": body}
    if response.is_success:
        return Reply(answer, None)
    return Reply(answer, {"code": _code(body) or f"http_{response.status_code}", "message": _message(response)})


def _code(body: Any) -> str | None:
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def _message(response: httpx.Response) -> str:
    """The message of an OpenAI-shaped error body, or the beginning of any other."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}: {response.text[:200]}"


def _no_entry(response: httpx.Response) -> CliError:
    return CliError(f"the server refuses the key, give another --api-key: {_message(response)}")
