"""RedisAddress: what the URL of the settings says, for one server, for Sentinel and for a cluster."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import SSLConnection
from redis.asyncio.connection import parse_url

_SENTINEL_PORT = 26379
_PORT = 6379

Host = tuple[str, int]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """``hosts`` are a server, sentinels, or the nodes of a cluster to begin with; none for a Unix socket.

    ``options`` go to every connection to a data server, ``sentinel_options`` to those to a sentinel.
    """

    kind: str
    """``""``, ``sentinel`` or ``cluster``."""
    hosts: list[Host]
    service: str
    """The name under which the sentinels know the primary."""
    options: dict[str, Any]
    sentinel_options: dict[str, Any]

    @classmethod
    def of_url(cls, url: str) -> "RedisAddress":
        """Raises ValueError when redis-py does not understand an option in it."""
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        if not kind:
            options = _options(url)
            hosts = [] if "path" in options else [_pop_host(options, _PORT)]
            return cls("", hosts, "", options, {})
        user, at, names = parts.netloc.rpartition("@")
        service, _, database = parts.path.strip("/").partition("/") if kind == "sentinel" else ("", "", "")
        query = f"?{parts.query}" if parts.query else ""
        found = [_options(f"{scheme}://{user}{at}{name}/{database}{query}") for name in names.split(",")]
        port = _SENTINEL_PORT if kind == "sentinel" else _PORT
        hosts = [_pop_host(options, port) for options in found]
        options = found[0]
        sentinel = {
            "username": options.pop("sentinel_username", None),
            "password": options.pop("sentinel_password", None),
        }
        encryption = {
            name: value for name, value in options.items() if name.startswith("ssl_") or name == "connection_class"
        }
        return cls(kind, hosts, service, options, encryption | sentinel)


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(parse_url(url))
    if options.get("connection_class") is SSLConnection:
        options.setdefault("ssl_check_hostname", options.get("ssl_cert_reqs") != "none")
    return options


def _pop_host(options: dict[str, Any], port: int) -> Host:
    return options.pop("host", "localhost"), options.pop("port", port)
