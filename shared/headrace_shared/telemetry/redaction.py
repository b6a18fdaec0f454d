"""Redaction: what must not be written into logs, whatever a library or an error message puts there."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

HIDDEN = "[hidden]"

_SECRET_NAMES = re.compile(r"(?i)(^|[_-])(api[_-]?keys?|password|secret|authorization)$")
_PATTERNS = (
    # What comes before the secret stays: it says which one it was.
    re.compile(r"(?i)(\bbearer\s+)[^\s\"',;]+"),
    re.compile(r"(?i)(\b(?:x-api-key|api[_-]?key|password|secret)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{4,}"),
    re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)"),
    re.compile(r"(\bsk-)[A-Za-z0-9_-]{8,}"),
    re.compile(r"(\bhf_)[A-Za-z0-9]{8,}"),
)


class Redaction:
    """Hides known secrets, and what looks like one: bearer tokens, keys by name, passwords in addresses."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        # The longest first: one may be the beginning of another.
        known = sorted((secret for secret in secrets if secret), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\g<1>{HIDDEN}", text)
        return text

    def field(self, name: str, value: Any) -> Any:
        """A named value; numbers and the like stay what they are."""
        if _SECRET_NAMES.search(name):
            return HIDDEN
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {key: self.field(str(key), each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.field("", each) for each in value]
        return value if isinstance(value, (int, float, type(None))) else self(str(value))
