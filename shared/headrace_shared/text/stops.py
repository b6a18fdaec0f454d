"""StopMatcher: stop strings in a text that arrives in pieces."""

import functools
from collections.abc import Sequence
from typing import NamedTuple


class StopStep(NamedTuple):
    """What one piece of text led to: the text to show now, and the stop string that ended it."""

    text: str
    matched: str | None


class StopMatcher:
    """Ends a text at its first completed stop string.

    The string that is complete first wins; among those complete at the same character, the one
    earlier in the list. The text ends before it, or after it with ``include``. Text is held back
    only while it may be the beginning of a stop string, and never with ``include``. The result
    does not depend on how the text is cut into pieces.
    """

    def __init__(self, stop: Sequence[str], include: bool) -> None:
        """``stop``: strings of one character at least; may be empty, then everything passes."""
        self._automaton = _automaton(tuple(stop))
        self._include = include
        self._node = 0
        self._held = ""
        self._matched: str | None = None

    def feed(self, text: str) -> StopStep:
        """Take the next piece. After a match nothing more is shown, and ``matched`` stays set."""
        if self._matched is not None:
            return StopStep("", self._matched)
        step = self._automaton.step
        found = self._automaton.found
        node = self._node
        for index, character in enumerate(text):
            node = step(node, character)
            stop = found[node]
            if stop is not None:
                return self._end(text, index + 1, stop)
        self._node = node
        if self._include:
            return StopStep(text, None)
        seen = self._held + text
        certain = len(seen) - self._automaton.depth[node]
        self._held = seen[certain:]
        return StopStep(seen[:certain], None)

    def finish(self) -> str:
        """Return the text held back: no stop string came of it."""
        held, self._held = self._held, ""
        self._node = 0
        return held

    def _end(self, text: str, end: int, stop: str) -> StopStep:
        self._matched = stop
        seen = self._held + text[:end]
        self._held = ""
        return StopStep(seen if self._include else seen[: len(seen) - len(stop)], stop)


class _Automaton:
    """Aho-Corasick: node n stands for the longest end of the text that begins a stop string, ``depth[n]`` long."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.children: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.found: list[str | None] = [None]
        self._fallback = [0]
        rank = {string: index for index, string in reversed(list(enumerate(stop)))}
        for string in stop:
            self._insert(string)
        self._link(rank)

    def step(self, node: int, character: str) -> int:
        """The node after one more character."""
        while True:
            child = self.children[node].get(character)
            if child is not None:
                return child
            if node == 0:
                return 0
            node = self._fallback[node]

    def _insert(self, string: str) -> None:
        node = 0
        for character in string:
            if character not in self.children[node]:
                self.children[node][character] = len(self.children)
                self.children.append({})
                self.depth.append(self.depth[node] + 1)
                self.found.append(None)
                self._fallback.append(0)
            node = self.children[node][character]
        self.found[node] = string

    def _link(self, rank: dict[str, int]) -> None:
        """Breadth first: a node falls back to the longest shorter end of its text that begins a stop string."""
        level = list(self.children[0].values())
        while level:
            following = []
            for node in level:
                for character, child in self.children[node].items():
                    fallback = self.step(self._fallback[node], character)
                    self._fallback[child] = fallback
                    ends = [string for string in (self.found[child], self.found[fallback]) if string is not None]
                    self.found[child] = min(ends, key=rank.__getitem__, default=None)
                    following.append(child)
            level = following


@functools.lru_cache(maxsize=1024)
def _automaton(stop: tuple[str, ...]) -> _Automaton:
    """Every choice of a request, and most requests of one application, share theirs."""
    return _Automaton(stop)
