"""ThinkingBudget: where one answer is in its thinking part, and what must come when that has lasted long enough."""

from collections.abc import Callable, Sequence

from headrace_shared.protocol.sampling import ThinkingSpec


class ThinkingBudget:
    """Follows one sequence: a pure function of the tokens of its output."""

    def __init__(self, spec: ThinkingSpec, token_bytes: Callable[[int], bytes]) -> None:
        """``token_bytes``: what a token adds to a text."""
        self._spec = spec
        self._token_bytes = token_bytes
        self._ends = tuple(end.encode() for end in spec.ends)
        self._starts = tuple(start.encode() for start in spec.starts)
        self._keep = max(map(len, self._ends)) - 1
        self._opening: bytes | None = b""
        """The answer's first bytes, as long as they may become a start; None: that is settled."""
        self._thinking = spec.opened
        self._tail = b""
        """The end of the thinking part, in which a marker may have begun."""
        self._used = 0
        self._forced = 0
        """How many of ``end_ids`` have come."""
        self._followed = 0

    @property
    def over(self) -> bool:
        """Nothing will be forced any more."""
        return self._opening is None and not self._thinking

    def forced(self, token_ids: Sequence[int], prompt_len: int) -> int | None:
        """The token that must follow ``token_ids``, of which an earlier call has seen a beginning; None: any may."""
        for token_id in token_ids[prompt_len + self._followed :]:
            self._follow(token_id)
        self._followed = len(token_ids) - prompt_len
        return self._spec.end_ids[self._forced] if self._spent else None

    @property
    def _spent(self) -> bool:
        return self._thinking and self._used >= self._spec.budget_tokens

    def _follow(self, token_id: int) -> None:
        if self.over:
            return
        if self._spent:
            self._forced += 1
            if self._forced == len(self._spec.end_ids):
                self._end()
            return
        text = self._token_bytes(token_id)
        self._used += 1
        if self._opening is not None:
            self._open(self._opening + text)
        if self._thinking:
            self._think(text)

    def _open(self, text: bytes) -> None:
        head = text.lstrip()
        started = next((start for start in self._starts if head.startswith(start)), None)
        if started is None and any(start.startswith(head) for start in self._starts):
            self._opening = text
            return
        self._opening = None
        if started is not None:
            self._thinking = True
            self._tail = b""
            self._used = 0

    def _think(self, text: bytes) -> None:
        self._tail += text
        if any(end in self._tail for end in self._ends):
            self._end()
        self._tail = self._tail[-self._keep :] if self._keep else b""

    def _end(self) -> None:
        self._opening, self._thinking = None, False
