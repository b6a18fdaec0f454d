"""TokenTree: which tokens a parser of characters lets through."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace_worker.execute.grammar.vocabulary import Vocabulary


class CharacterParser(Protocol):
    """A place in a form of text, which never changes."""

    def allowed(self) -> set[str]:
        """The characters that may come next."""

    def followed_by(self, character: str) -> "CharacterParser":
        """The place after one of those."""

    def can_end(self) -> bool:
        """Whether the text may end here."""

    def most_free_characters(self) -> int | None:
        """Inside a JSON string that may hold anything: how many more characters it may have; None elsewhere."""

    def key(self) -> Hashable | None:
        """Equal for places where the same may come next; None: nothing is known."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text is that comes in bytes: the whole characters, and the bytes of one that is not whole yet."""

    parser: CharacterParser
    begun: bytes = b""

    def bytes_among(self, wanted: set[int]) -> list[int]:
        """Those of the wanted bytes that may come next."""
        allowed = self.parser.allowed()
        found = [] if self.begun else [byte for byte in wanted if byte < 128 and chr(byte) in allowed]
        if any(byte >= 128 for byte in wanted):
            size = len(self.begun)
            texts = (character.encode() for character in allowed if character > "\x7f")
            found += wanted & {text[size] for text in texts if len(text) > size and text.startswith(self.begun)}
        return found

    def followed_by(self, byte: int) -> "Place":
        text = self.begun + bytes([byte])
        try:
            return Place(self.parser.followed_by(text.decode()))
        except UnicodeDecodeError:
            return Place(self.parser, text)

    @property
    def may_end(self) -> bool:
        return not self.begun and self.parser.can_end()

    @property
    def key(self) -> Hashable | None:
        key = self.parser.key()
        return None if key is None else (key, self.begun)


class _Node:
    __slots__ = ("children", "token_ids")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.token_ids: list[int] = []


class TokenTree:
    """The tokens of a vocabulary by what they begin with."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._root = _Node()
        self._size = len(vocabulary.tokens)
        self._tokens = vocabulary.tokens
        self._special_ids = vocabulary.special_ids
        alphabet: set[str] = set()
        free: list[tuple[int, int]] = []
        for token_id, token in enumerate(vocabulary.tokens):
            if not token or token_id in vocabulary.special_ids:
                continue
            self._add(token, token_id)
            text = _whole(token)
            alphabet.update(text)
            if text and _stands_in_a_string(text):
                free.append((len(text), token_id))
        free.sort()
        self._free_sizes = [size for size, _ in free]
        self._free_ids = np.array([id_ for _, id_ in free], dtype=np.int64)
        self.alphabet = "".join(sorted(alphabet))
        """Every character that a token has."""

    def mask(self, place: Place, ends: tuple[int, ...]) -> NDArray[np.int32]:
        """One bit per token that may come next, ``ends`` among them where the text may end."""
        allowed = np.zeros(-(-self._size // 32) * 32, dtype=np.bool_)
        if place.may_end:
            allowed[list(ends)] = True
        wanted = set(self._root.children)
        most = None if place.begun else place.parser.most_free_characters()
        if most is not None:
            # Nearly every token may come, and a walk along all of them takes longer than the model does.
            allowed[self._free_ids[: np.searchsorted(self._free_sizes, most, side="right")]] = True
            wanted = set(b'"\\')
        allowed[self._walked(place, wanted)] = True
        return np.packbits(allowed, bitorder="little").view(np.int32)

    def after(self, place: Place, token_id: int) -> Place | None:
        """Where a token leads; None when it may not come."""
        if token_id in self._special_ids or not self._tokens[token_id]:
            return None
        for byte in self._tokens[token_id]:
            if not place.bytes_among({byte}):
                return None
            place = place.followed_by(byte)
        return place

    def _walked(self, place: Place, wanted: set[int]) -> list[int]:
        found: list[int] = []
        waiting = [(self._root, place, wanted)]
        while waiting:
            node, here, bytes_ = waiting.pop()
            for byte in here.bytes_among(bytes_):
                child = node.children[byte]
                found += child.token_ids
                if child.children:
                    waiting.append((child, here.followed_by(byte), set(child.children)))
        return found

    def _add(self, token: bytes, token_id: int) -> None:
        node = self._root
        for byte in token:
            node = node.children.setdefault(byte, _Node())
        node.token_ids.append(token_id)


def _whole(token: bytes) -> str:
    """A token as text; "" for one that is no whole characters."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return ""


def _stands_in_a_string(text: str) -> bool:
    return '"' not in text and "\\" not in text and all(character >= " " for character in text)
