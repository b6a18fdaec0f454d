"""A server's batches over HTTP."""

import contextlib
import json
from collections.abc import Generator, Iterator
from typing import Any
from urllib.parse import quote

import httpx

from headrace_cli.errors import CliError

Batch = dict[str, Any]
"""As the API has it."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_PAGE = 100
_SILENCE_S = 60.0
"""Longer than the pause between two signs of life of a stream of events."""


class BatchClient:
    """One server, by its URL. Every method raises CliError for a refusal or a server that is not there."""

    def __init__(self, url: str, api_key: str | None) -> None:
        base = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
        self.address = base
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def list(self, count: int) -> list[Batch]:
        """The newest ``count``, newest first."""
        found: list[Batch] = []
        more = True
        while more and len(found) < count:
            after = {"after": str(found[-1]["id"])} if found else {}
            limit = str(min(count - len(found), _PAGE))
            page = self._ask("GET", "/v1/batches", {"limit": limit, **after})
            found += page["data"]
            more = bool(page["has_more"] and page["data"])
        return found

    def show(self, batch_id: str) -> Batch:
        return self._ask("GET", _path(batch_id))

    def cancel(self, batch_id: str) -> Batch:
        return self._ask("POST", f"{_path(batch_id)}/cancel")

    def changes(self, batch_id: str) -> Generator[Batch, None, None]:
        """The batch as it is, and again whenever it has changed; ends with it, or with the connection."""
        with (
            self._errors_told(),
            httpx.Client(timeout=_SILENCE_S, headers=self._headers) as http,
            http.stream("GET", f"{self.address}{_path(batch_id)}/events") as response,
        ):
            if response.is_error:
                response.read()
                raise _refusal(response)
            for line in response.iter_lines():
                if line.startswith("data:") and (data := line[5:].strip()).startswith("{"):
                    batch = json.loads(data)
                    if "error" in batch:
                        raise CliError(str(batch["error"]["message"]))
                    yield batch

    def _ask(self, method: str, path: str, query: dict[str, str] | None = None) -> Batch:
        with self._errors_told(), httpx.Client(timeout=_SILENCE_S, headers=self._headers) as http:
            response = http.request(method, f"{self.address}{path}", params=query)
            if response.is_error:
                raise _refusal(response)
            answer: Batch = response.json()
            return answer

    @contextlib.contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LostServerError(f"cannot talk to {self.address}: {error or type(error).__name__}") from None
        except (ValueError, KeyError):
            raise CliError(f"{self.address} is no server with batches") from None


class LostServerError(CliError):
    """Trying again may help."""


def _path(batch_id: str) -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}"


def _refusal(response: httpx.Response) -> CliError:
    try:
        return CliError(str(response.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return CliError(f"HTTP {response.status_code}: {response.text[:200]}")
