"""Webhooks: where they may go, and how they are signed, as on https://www.standardwebhooks.com and by OpenAI."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import httpx
from pydantic import AfterValidator, SecretStr

_SECRET_PREFIX = "whsec_"  # noqa: S105 - how every secret begins
_SHORTEST_SECRET, _LONGEST_SECRET = 24, 64
"""Bytes."""
_PORTS = {"http": 80, "https": 443}
LONGEST_URL = 2048


@dataclass(frozen=True, slots=True)
class _Host:
    scheme: str
    name: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL) -> "_Host":
        """Raises ValueError for what is no place on the web."""
        if url.scheme not in _PORTS or not url.host:
            raise ValueError("should be a URL that begins with https://")
        if url.userinfo:
            raise ValueError("should have no user name or password in it")
        if url.fragment:
            raise ValueError("should have no fragment (#)")
        return cls(url.scheme, url.host, url.port or _PORTS[url.scheme])

    @classmethod
    def listed(cls, entry: str) -> "_Host":
        """Raises ValueError."""
        url = _parsed(entry if "://" in entry else f"https://{entry}")
        host = cls.of(url)
        if url.raw_path != b"/" or "*" in host.name.removeprefix("*.") or host.name == "*.":
            raise ValueError(
                f"{entry} should be a host such as hooks.example.com, *.example.com or http://10.0.0.7:8080"
            )
        return host

    def covers(self, other: "_Host") -> bool:
        if (self.scheme, self.port) != (other.scheme, other.port):
            return False
        return other.name.endswith(self.name[1:]) if self.name.startswith("*.") else other.name == self.name


def problem_with(url: str, hosts: Sequence[str] | None) -> str | None:
    """Why nothing may be sent there; ``hosts`` None: to whatever host."""
    if len(url) > LONGEST_URL:
        return f"should have at most {LONGEST_URL} characters"
    try:
        host = _Host.of(_parsed(url))
    except ValueError as error:
        return str(error)
    if hosts is None or any(_Host.listed(entry).covers(host) for entry in hosts):
        return None
    port = "" if host.port == _PORTS[host.scheme] else f":{host.port}"
    return f"should go to a host that this server allows ({', '.join(hosts)}), and not to {host.scheme}://{host.name}{port}"


def signature(secret: str, event_id: str, timestamp: str, body: bytes) -> str:
    """What the header ``webhook-signature`` says of this body, sent at this time."""
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(_key_of(secret), signed, hashlib.sha256)).decode()


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"is no URL: {error}") from None


def _key_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)


def _checked_host(entry: str) -> str:
    _Host.listed(entry)
    return entry


def _checked_url(url: str) -> str:
    if problem := problem_with(url, None):
        raise ValueError(problem)
    return url


def _checked_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        good = text.startswith(_SECRET_PREFIX) and _SHORTEST_SECRET <= len(_key_of(text)) <= _LONGEST_SECRET
    except binascii.Error:
        good = False
    if not good:
        raise ValueError(
            f"should be {_SECRET_PREFIX} and {_SHORTEST_SECRET} to {_LONGEST_SECRET} random bytes in base64; make one: "
            f'echo "{_SECRET_PREFIX}$(openssl rand -base64 32)"'
        )
    return secret


WebhookHost = Annotated[str, AfterValidator(_checked_host)]
WebhookUrl = Annotated[str, AfterValidator(_checked_url)]
WebhookSecret = Annotated[SecretStr, AfterValidator(_checked_secret)]
