"""Request ids: minting ours, checking a client's."""

import re
import secrets

from headrace_shared.errors import InvalidRequestError

_CLIENT_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


def mint_request_id() -> str:
    """A fresh request id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def check_client_request_id(value: str) -> str:
    """Return a client's ``X-Request-Id`` unchanged.

    Raises InvalidRequestError when it is not 1 to 128 characters of ``A-Z a-z 0-9 . _ : -``.
    """
    if not _CLIENT_ID.fullmatch(value):
        raise InvalidRequestError(
            "X-Request-Id must be 1 to 128 characters out of A-Z a-z 0-9 . _ : -", param="X-Request-Id"
        )
    return value
