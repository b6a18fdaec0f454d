"""SpecialTokens: takes the special tokens out of a text that comes in pieces."""

import re
from collections.abc import Iterable


class SpecialTokens:
    """How a model's special tokens are written, for answers whose parser needs some of them and whose reader none."""

    def __init__(self, texts: Iterable[str]) -> None:
        known = sorted(filter(None, texts), key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, known)) if known else r"(?!)")
        self._beginnings = frozenset(text[:size] for text in known for size in range(1, len(text)))
        self._longest = max(map(len, self._beginnings), default=0)

    def split(self, text: str) -> tuple[str, str]:
        """What stands before the last of those that are complete, without any, and what follows it."""
        before, end = "", 0
        for match in self._any.finditer(text):
            before += text[end : match.start()]
            end = match.end()
        return before, text[end:]

    def begun(self, text: str) -> int:
        """How many characters at the end of ``text`` may be the beginning of one."""
        most = min(len(text), self._longest)
        return next((size for size in range(most, 0, -1) if text[-size:] in self._beginnings), 0)


class SpecialTokenFilter:
    """Reads one text. However it is cut into pieces, what comes out is the same."""

    def __init__(self, tokens: SpecialTokens) -> None:
        self._tokens = tokens
        self._pending = ""

    def feed(self, text: str) -> str:
        """What is certain after ``text``; what may be the beginning of a special token is held back."""
        before, rest = self._tokens.split(self._pending + text)
        ready = len(rest) - self._tokens.begun(rest)
        self._pending = rest[ready:]
        return before + rest[:ready]

    def finish(self) -> str:
        """What was held back."""
        text, self._pending = self._pending, ""
        return text
