"""Vocabulary: what each token of a model adds to a text, as the grammar libraries need to know it."""

from dataclasses import dataclass
from typing import Self

from headrace_shared.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
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
