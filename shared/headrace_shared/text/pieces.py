"""Pieces: the bytes that each single token adds to a text.

Nearly every tokenizer's decoder works token by token and looks at its neighbours for two things
only: whether the token is the first one, and bytes of a character that spans several tokens. Then
a text is its tokens' pieces, joined as bytes and read as UTF-8, and needs no window of context.
"""

import codecs
import json
import re
from typing import Any

import tokenizers

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ANCHOR_CANDIDATES = 4096

# Byte-fallback decoders replace each stray byte, byte-level ones each broken sequence (which is Python's "replace").
EACH_BYTE = "headrace.each_byte"


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _replace_each_byte)


class Pieces:
    """What the tokens of one tokenizer are worth on their own; each is worked out once.

    ``separable`` is False for a decoder that looks further than the module's docstring says: then
    pieces are good enough to show a single token, and not to build a text.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        parts = _decoder_parts(backend)
        kinds = [part["type"] for part in parts]
        self._backend = backend
        self._byte_level = "ByteLevel" in kinds
        self._byte_fallback = "ByteFallback" in kinds
        self._later: dict[int, bytes] = {}
        self._anchor = None if self._byte_level else _find_anchor(backend)
        self.separable = _is_separable(parts) and (self._byte_level or self._anchor is not None)
        self.decode_errors = EACH_BYTE if self._byte_fallback else "replace"
        """How bytes that are no UTF-8 become text: a ``codecs`` error handler."""

    def first(self, token_id: int) -> bytes:
        """The piece of a token that begins a text; b"" for an unknown id."""
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level or self._broken_byte(token) is not None:
            return self.later(token_id)
        return self._decode([token_id]).encode()

    def later(self, token_id: int) -> bytes:
        """The piece of a token that goes on with a text; b"" for an unknown id."""
        piece = self._later.get(token_id)
        if piece is None:
            piece = self._later[token_id] = self._find_later(token_id)
        return piece

    def _find_later(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return _byte_level_bytes(token)
        broken = self._broken_byte(token)
        if broken is not None:
            return broken
        if self._anchor is None:
            return self._decode([token_id]).encode()
        before = self._decode([self._anchor])
        return self._decode([self._anchor, token_id])[len(before) :].encode()

    def _broken_byte(self, token: str) -> bytes | None:
        """The byte of a byte-fallback token that is no character by itself."""
        match = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        byte = bytes.fromhex(match[1]) if match else b""
        return byte if byte >= b"\x80" else None

    def _decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=False)


def _decoder_parts(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if backend.decoder is None:
        return []
    parts: list[dict[str, Any]] = []
    stack = [json.loads(backend.decoder.__getstate__())]
    while stack:
        part = stack.pop()
        if part["type"] == "Sequence":
            stack.extend(reversed(part["decoders"]))
        else:
            parts.append(part)
    return parts


def _is_separable(parts: list[dict[str, Any]]) -> bool:
    kinds = [part["type"] for part in parts]
    if "ByteLevel" in kinds:
        return all(kind in ("ByteLevel", "Fuse") for kind in kinds)
    fused = False
    for part in parts:
        match part["type"]:
            case "Fuse":
                fused = True
            case "Strip":
                # Before Fuse it would strip every token, which pieces show; after it, the text: one place at its start.
                if part["stop"] or part["start"] > 1:
                    return False
            case "Replace" | "ByteFallback" | "Metaspace" | "WordPiece":
                if fused:
                    return False
            case _:
                return False
    return True


def _find_anchor(backend: tokenizers.Tokenizer) -> int | None:
    """A token that shows as plain letters, to decode another one after it."""
    special = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
    for token_id in range(min(backend.get_vocab_size(), _ANCHOR_CANDIDATES)):
        if token_id in special:
            continue
        text = backend.decode([token_id], skip_special_tokens=False)
        if text.isascii() and text.isalpha() and backend.decode([token_id, token_id]).startswith(text):
            return token_id
    return None


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the others for letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters.update((chr(0x100 + index), byte) for index, byte in enumerate(others))
    return letters


_BYTE_OF_LETTER = _byte_level_alphabet()


def _byte_level_bytes(token: str) -> bytes:
    """Added tokens are plain text: one character outside the alphabet and the whole token is taken as it stands."""
    try:
        return bytes(_BYTE_OF_LETTER[letter] for letter in token)
    except KeyError:
        return token.encode()
