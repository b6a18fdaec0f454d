"""What ``LLM.generate`` returns: objects with the names of vLLM's, as far as text generation has them."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace_shared.protocol.event import TokenLogprob
from headrace_shared.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token at one position. ``rank``: 1 is the most likely one there."""

    logprob: float
    rank: int
    decoded_token: str


Position = dict[int, Logprob]
"""By token ids: the token that is there, and the most likely ones."""


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer. ``cumulative_logprob`` and ``logprobs`` are None unless ``logprobs`` was asked for.

    ``token_ids`` has the token that ended the answer, ``text`` does not. ``stop_reason``: the stop string or token id
    that did; None for end-of-text and for ``length``.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[Position] | None
    finish_reason: str
    stop_reason: str | int | None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All answers to one prompt, by their ``index``. ``prompt`` is None for a prompt of token ids."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[Position | None] | None
    outputs: list[CompletionOutput]
    num_cached_tokens: int
    finished: bool = True


def positions(entries: Sequence[TokenLogprob], tokenizer: Tokenizer) -> list[Position]:
    return [_position(entry, tokenizer) for entry in entries]


def prompt_positions(entries: Sequence[TokenLogprob | None], tokenizer: Tokenizer) -> list[Position | None]:
    """None for the first token, which nothing goes before."""
    return [None if entry is None else _position(entry, tokenizer) for entry in entries]


def _position(entry: TokenLogprob, tokenizer: Tokenizer) -> Position:
    found = {entry.token_id: Logprob(entry.logprob, entry.rank, tokenizer.token_text(entry.token_id))}
    for other in entry.top:
        found.setdefault(other.token_id, Logprob(other.logprob, other.rank, tokenizer.token_text(other.token_id)))
    return found
