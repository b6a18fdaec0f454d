"""FrontDoor: where the API node of a local stack listens, and how its own supervisor talks to it."""

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from headrace_cli.errors import EXIT_CONFIGURATION, CliError

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, not listened on


@dataclass(frozen=True)
class FrontDoor:
    """Host and port, or the unix socket ``uds`` instead of them. ``tls``: HTTPS alone is spoken."""

    host: str = "localhost"
    port: int | None = None
    uds: Path | None = None
    tls: bool = False

    @property
    def base_url(self) -> str:
        """As clients on this machine write it."""
        host = _ANY_ADDRESS.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"http{'s' if self.tls else ''}://{host}" + (f":{self.port}" if self.port is not None else "")

    def client(self, limits: httpx.Limits | None = None, **options: Any) -> httpx.AsyncClient:
        """Of the API node, whatever proxies there are for others.

        Its certificate is not looked at: it may be for a name that is not this machine's own, and who asks has started
        the process that answers.
        """
        trust: ssl.SSLContext | bool = False
        if self.tls:
            trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        transport = httpx.AsyncHTTPTransport(
            verify=trust, uds=str(self.uds) if self.uds else None, limits=limits or httpx.Limits()
        )
        return httpx.AsyncClient(base_url=self.base_url, transport=transport, trust_env=False, **options)


def front_door(variables: Mapping[str, str], host: str, port: int) -> FrontDoor:
    """What settings ask for, and ``host`` and ``port`` where they do not say.

    Raises CliError for a port that is taken, and where the API node would not answer whoever started it.
    """
    if variables.get("HEADRACE_API_SSL_CERT_REQS") == "2":
        raise CliError(
            "--ssl-cert-reqs 2: headrace serve asks its own API node whether it is ready, and has no certificate to"
            " show; use 1, or start headrace api and headrace worker",
            exit_code=EXIT_CONFIGURATION,
        )
    tls = "HEADRACE_API_SSL_CERTFILE" in variables
    if "HEADRACE_API_UDS" in variables:
        return FrontDoor(uds=Path(variables["HEADRACE_API_UDS"]), tls=tls)
    host = variables.get("HEADRACE_API_HOST", host)
    return FrontDoor(host, free_port(host, variables.get("HEADRACE_API_PORT", str(port))), tls=tls)


def free_port(host: str, port: str) -> int:
    """``port`` if it can be listened on, a free one for 0. Raises CliError when it is taken or no port at all."""
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise CliError(f"{port} is not a port", exit_code=EXIT_CONFIGURATION)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        reason = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise CliError(f"{reason}; choose another --port or --host", exit_code=EXIT_CONFIGURATION) from None
