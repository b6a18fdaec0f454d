"""Vocabulary: what each token of a model adds to a text, as the grammar libraries need to know it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from headrace_shared.text.tokenizer import Tokenizer

_MOST_BLANKS = 4


@dataclass(frozen=True)
class Vocabulary:
    """One entry per logit of the model: a tokenizer may know fewer tokens, or more."""

    tokens: list[bytes]
    """What a token adds to a text that has begun; a special token's name; b"" for an id that has no token."""
    special_ids: frozenset[int]
    """Tokens that are no text, so that no grammar allows them."""
    eos_token_ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: frozenset[int]) -> Self:
        """Takes up to some seconds for a large vocabulary."""
        return cls(
            tokens=[tokenizer.token_bytes(token_id) for token_id in range(vocab_size)],
            special_ids=tokenizer.special_ids | eos_token_ids,
            eos_token_ids=tuple(sorted(token_id for token_id in eos_token_ids if token_id < vocab_size)),
        )

    def leading_to(self, head: bytes, texts: tuple[bytes, ...]) -> Iterator[int]:
        """Tokens after which a text that begins with ``head`` is, but for white space in front, still one of ``texts`` or
        its beginning. Only a little white space is let through, so that an answer cannot consist of it."""
        size = len(head.lstrip())
        nexts = {text[size] for text in texts if len(text) > size}
        for byte in nexts if size else nexts.union(b" \n\t\r"):
            for token_id in self._by_first_byte.get(byte, ()):
                text = head + self.tokens[token_id]
                begun = text.lstrip()
                if len(text) - len(begun) <= _MOST_BLANKS and any(
                    each.startswith(begun) or begun.startswith(each) for each in texts
                ):
                    yield token_id

    @cached_property
    def _by_first_byte(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for token_id, token in enumerate(self.tokens):
            if token and token_id not in self.eos_token_ids:
                found.setdefault(token[0], []).append(token_id)
        return found
