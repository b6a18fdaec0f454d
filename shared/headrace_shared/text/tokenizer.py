"""Tokenizer: text to token ids and back, from a ``tokenizer.json``, with the ``tokenizers`` library alone."""

from collections.abc import Collection, Sequence

import tokenizers
from tokenizers import AddedToken, processors

from headrace_shared.errors import InvalidRequestError
from headrace_shared.text.pieces import Pieces


class Tokenizer:
    """Encodes and decodes as transformers' fast tokenizer does. Safe to share between threads."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.pieces = Pieces(backend)
        self.special_ids = frozenset(
            token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
        )
        """Ids that ``skip_special_tokens`` leaves out."""
        self.special_texts = frozenset(
            token.content for token in backend.get_added_tokens_decoder().values() if token.special
        )
        """How they are written."""

    @classmethod
    def from_bytes(
        cls,
        tokenizer_json: bytes,
        *,
        add_bos_token: bool | None = None,
        bos_token: str | None = None,
        special_tokens: Collection[str] = (),
    ) -> "Tokenizer":
        """Load the content of a ``tokenizer.json``.

        ``add_bos_token``: as in tokenizer_config; when it is given, transformers ignores the file's
        post-processor and puts ``bos_token`` (or nothing) before the text, and so do we.
        ``special_tokens``: strings that tokenizer_config names as special, which the file may not
        have marked so; those outside the vocabulary are ignored, as no model knows their ids.
        Raises ValueError when the bytes cannot be read.
        """
        try:
            backend = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        # The library raises bare Exception for some broken files.
        except Exception as error:
            raise ValueError(f"not a tokenizer.json: {error}") from error
        named = [token for token in special_tokens if backend.token_to_id(token) is not None]
        if named:
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in named])
        if add_bos_token is not None:
            backend.post_processor = _bos_processor(backend, bos_token if add_bos_token else None)
        return cls(backend)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def added_tokens(self) -> dict[int, str]:
        """The tokens that are not made of others, by id; special ones are among them."""
        return {token_id: token.content for token_id, token in self._backend.get_added_tokens_decoder().items()}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text. Raises InvalidRequestError for a text that no UTF-8 can hold (a lone surrogate)."""
        # encode_batch_fast computes no offsets and, unlike encode, lets go of the interpreter lock meanwhile.
        try:
            return self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        except TypeError as error:
            raise InvalidRequestError("the text is not valid Unicode: it has a lone surrogate") from error

    def decode(
        self, ids: Sequence[int], *, skip_special_tokens: bool, spaces_between_special_tokens: bool = True
    ) -> str:
        """The text of token ids; unknown ids show as nothing.

        ``spaces_between_special_tokens`` is accepted and without effect: it is an option of
        transformers' Python tokenizers, which decode piece by piece; a fast one has no such step.
        """
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token adds to a text that has begun; a special token's are its name's.

        They may be part of a character only. b"" for an unknown id.
        """
        if token_id in self.special_ids:
            return (self.id_to_token(token_id) or "").encode()
        return self.pieces.later(token_id)

    def token_text(self, token_id: int) -> str:
        """``token_bytes`` as text, with U+FFFD for what is no whole character."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_to_id(self, token: str) -> int | None:
        return self._backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self._backend.id_to_token(token_id)

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special_ids


def _bos_processor(backend: tokenizers.Tokenizer, bos_token: str | None) -> processors.TemplateProcessing:
    bos_id = None if bos_token is None else backend.token_to_id(bos_token)
    if bos_token is None or bos_id is None:
        return processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    return processors.TemplateProcessing(
        single=[f"{bos_token}:0", "$A:0"],
        pair=[f"{bos_token}:0", "$A:0", f"{bos_token}:1", "$B:1"],
        special_tokens=[(bos_token, bos_id)],
    )
