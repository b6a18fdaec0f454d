"""What ``headrace top`` follows: the events of an API node's console."""

import json
from collections.abc import Generator
from typing import Any

import httpx

from headrace_cli.errors import CliError

Snapshot = dict[str, Any]
"""As the console's events carry it: ``Shared`` and ``Own`` of the API's schemas."""
_SILENCE_S = 5.0
"""A picture comes every second."""


class Feed:
    """One API node, by its URL."""

    def __init__(self, url: str, api_key: str | None) -> None:
        base = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
        self.address = base
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def snapshots(self) -> Generator[Snapshot, None, None]:
        """One a second, until the node stops. Raises CliError when it refuses, cannot be reached or falls silent."""
        try:
            with (
                httpx.Client(timeout=_SILENCE_S, headers=self._headers) as http,
                http.stream("GET", f"{self.address}/console/events") as response,
            ):
                self._check(response)
                name = ""
                for line in response.iter_lines():
                    if line.startswith("event:"):
                        name = line[6:].strip()
                    elif line.startswith("data:") and name == "snapshot":
                        yield json.loads(line[5:])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CliError(f"cannot follow {self.address}: {error}") from None

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == 401:
            raise RefusedError(f"{self.address} wants an API key that it knows: --api-key")
        if response.headers.get("content-type", "").partition(";")[0] != "text/event-stream":
            raise RefusedError(f"{self.address} is no API node of Headrace (HTTP {response.status_code})")


class RefusedError(CliError):
    """Trying again would not help."""
