"""Request ids: minting ours, checking a client's."""

import re
import secrets

from headrace_shared.errors import InvalidRequestError

_OTHERS = re.compile(r"[^A-Za-z0-9._:\-]")
_LONGEST_BASE = 128
LONGEST_CLIENT_ID = 512
"""Characters."""


def mint_request_id() -> str:
    """A fresh request id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def check_client_request_id(value: str) -> str:
    """Return a client's ``X-Request-Id`` unchanged.

    Raises InvalidRequestError when it is not 1 to 512 printable characters.
    """
    if not 1 <= len(value) <= LONGEST_CLIENT_ID or not value.isprintable():
        raise InvalidRequestError(
            f"X-Request-Id: should be 1 to {LONGEST_CLIENT_ID} printable characters, got {value[:80]!r}.",
            param="X-Request-Id",
        )
    return value


def base_of(client_id: str) -> str:
    """What of a client's id becomes part of ours, which stand in keys, paths and logs: other characters become dashes."""
    return _OTHERS.sub("-", client_id)[:_LONGEST_BASE]
