"""CallIdMinter: the ids of an answer's calls, always the same for the same answer."""

import hashlib
import string
from dataclasses import dataclass

from headrace_shared.parse.tools.registry import CallIds

_ALPHANUMERICS = string.digits + string.ascii_letters


@dataclass(frozen=True, slots=True)
class CallIdMinter:
    """In the style of the model's family, whose template may refuse others when it sees them again."""

    request_id: str = ""
    style: CallIds = CallIds.DEFAULT
    earlier_calls: int = 0
    """Calls in the conversation before this answer."""
    prefix: str = "chatcmpl-tool-"
    """Of the default style."""

    def mint(self, choice: int, index: int, name: str) -> str:
        """The id of a choice's call numbered ``index``, of the function ``name``."""
        if self.style is CallIds.NAME_AND_COUNT:
            return f"functions.{name}:{self.earlier_calls + index}"
        digest = hashlib.blake2b(f"{self.request_id}/{choice}/{index}".encode(), digest_size=16)
        if self.style is CallIds.DEFAULT:
            return f"{self.prefix}{digest.hexdigest()}"
        number = int.from_bytes(digest.digest())
        return "".join(_ALPHANUMERICS[number // 62**place % 62] for place in range(9))
