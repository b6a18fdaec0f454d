"""Detokenizer: token ids in as they are drawn, whole characters out."""

import codecs
from collections.abc import Sequence

from headrace_shared.text.tokenizer import Tokenizer

_LONGEST_CHARACTER_BYTES = 4


class Detokenizer:
    """The text of one choice, piece by piece.

    All that ``feed`` and ``finish`` return, joined, is what decoding prompt and output together
    adds to the decoded prompt, however the ids are cut into calls. Half a character waits for its
    other half; bytes that can no longer become one come out as U+FFFD at once.

    One difference to a full decode, on bytes that are no UTF-8 only: a byte-fallback tokenizer
    turns a whole run of byte tokens into U+FFFD when one of them is broken, even characters that
    were complete (and shown) before; here they stay.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        """``spaces_between_special_tokens`` has no effect, as in ``Tokenizer.decode``."""
        skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._assembly: _PieceAssembly | _WindowAssembly
        if tokenizer.pieces.separable:
            self._assembly = _PieceAssembly(tokenizer, skipped)
        else:
            self._assembly = _WindowAssembly(tokenizer, skipped)
        self._assembly.prime(prompt_ids)

    def feed(self, ids: Sequence[int]) -> str:
        """Take the next token ids and return the text that is now certain; may be empty."""
        return self._assembly.feed(ids)

    def finish(self) -> str:
        """Return what is left; half a character shows as U+FFFD."""
        return self._assembly.finish()


class _PieceAssembly:
    """Joins pieces as bytes and reads them as UTF-8: a table look-up per token."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._pieces = tokenizer.pieces
        self._id_to_token = tokenizer.id_to_token
        self._skipped = skipped
        self._begun = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.pieces.decode_errors)
        # Half a character at the prompt's end: the text it became when the prompt was decoded.
        self._shown_in_prompt = ""

    def prime(self, prompt_ids: Sequence[int]) -> None:
        self._begun = any(self._shows(token_id) for token_id in prompt_ids)
        # Every shown token but an empty one has a byte at least, so few tokens hold the last character.
        last = [token_id for token_id in prompt_ids[-4 * _LONGEST_CHARACTER_BYTES :] if self._shows(token_id)]
        tail = b"".join(map(self._pieces.later, last[-_LONGEST_CHARACTER_BYTES:]))
        self._utf8.decode(tail)
        half = self._utf8.getstate()[0]
        if half:
            self._shown_in_prompt = half.decode(errors=self._pieces.decode_errors)

    def feed(self, ids: Sequence[int]) -> str:
        skipped, later = self._skipped, self._pieces.later
        if self._begun:
            if len(ids) == 1:  # a step's worth, as a rule
                return "" if ids[0] in skipped else self._read(later(ids[0]))
            return self._read(b"".join([later(token_id) for token_id in ids if token_id not in skipped]))
        for index, token_id in enumerate(ids):
            if self._shows(token_id):
                self._begun = True
                return self._read(self._pieces.first(token_id)) + self.feed(ids[index + 1 :])
        return ""

    def finish(self) -> str:
        return self._read(b"", final=True)

    def _read(self, data: bytes, *, final: bool = False) -> str:
        text = self._utf8.decode(data, final)
        if text and self._shown_in_prompt:
            text = text.removeprefix(self._shown_in_prompt)
            self._shown_in_prompt = ""
        return text

    def _shows(self, token_id: int) -> bool:
        return token_id not in self._skipped and self._id_to_token(token_id) is not None


class _WindowAssembly:
    """For a decoder that looks at neighbours in its own way: decodes a short window again for each token.

    ids: [ context | read, not yet shown )
         0         _shown               len(_ids)
    """

    _CONTEXT_TOKENS = 6
    _PENDING_TOKENS = 8

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._ids: list[int] = []
        self._shown = 0

    def prime(self, prompt_ids: Sequence[int]) -> None:
        self._ids = self._visible(prompt_ids)[-self._CONTEXT_TOKENS :]
        self._shown = len(self._ids)

    def feed(self, ids: Sequence[int]) -> str:
        return "".join([self._feed_one(token_id) for token_id in self._visible(ids)])

    def finish(self) -> str:
        return self._show()

    def _feed_one(self, token_id: int) -> str:
        self._ids.append(token_id)
        half = self._decode(self._ids).endswith("\ufffd")
        if half and len(self._ids) - self._shown < self._PENDING_TOKENS:
            return ""
        return self._show()

    def _show(self) -> str:
        before = self._decode(self._ids[: self._shown])
        text = self._decode(self._ids)[len(before) :]
        self._ids = self._ids[-self._CONTEXT_TOKENS :]
        self._shown = len(self._ids)
        return text

    def _visible(self, ids: Sequence[int]) -> list[int]:
        return [token_id for token_id in ids if token_id not in self._skipped]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
