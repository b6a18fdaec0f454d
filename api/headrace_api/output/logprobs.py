"""Log-probabilities from the wire in the forms of the two endpoints and of prompt_logprobs."""

from collections.abc import Sequence

from headrace_api.schemas.base import PromptLogprob, PromptLogprobs
from headrace_api.schemas.chat import ChatLogprobs, ChatTokenLogprob, TopTokenLogprob
from headrace_api.schemas.completions import CompletionLogprobs
from headrace_shared.protocol.event import TokenLogprob
from headrace_shared.text.detokenizer import Detokenizer
from headrace_shared.text.tokenizer import Tokenizer

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON has no word for."""


class TokenNames:
    """How a token is written in a logprobs entry: its text, or ``token_id:<n>``."""

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def name(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self._as_ids else self._tokenizer.token_text(token_id)

    def bytes(self, token_id: int) -> list[int]:
        return list(self._tokenizer.token_bytes(token_id))


def chat_logprobs(entries: Sequence[TokenLogprob], names: TokenNames, top: int) -> ChatLogprobs:
    """``top``: how many candidates the client asked for; exactly so many are told, where there are as many."""
    return ChatLogprobs(
        [
            ChatTokenLogprob(
                token=names.name(entry.token_id),
                logprob=_finite(entry.logprob),
                bytes=names.bytes(entry.token_id),
                top_logprobs=[
                    TopTokenLogprob(names.name(each.token_id), _finite(each.logprob), names.bytes(each.token_id))
                    for each in entry.top[:top]
                ],
            )
            for entry in entries
        ]
    )


class CompletionLogprobWriter:
    """The four lists of one choice, deltas in order; knows at which character each token begins."""

    def __init__(self, names: TokenNames, top: int, detokenizer: Detokenizer, offset: int) -> None:
        """``detokenizer``: a fresh one that has seen what comes before, ``offset`` characters of the choice's text."""
        self._names = names
        self._top = top
        self._detokenizer = detokenizer
        self._offset = offset

    def write(
        self, token_ids: Sequence[int], entries: Sequence[TokenLogprob | None], unseen: int = 0
    ) -> CompletionLogprobs:
        """The lists for the next tokens, of which the first ``unseen`` stand for nothing in the text.

        None stands for a token that nothing is known of.
        """
        lists = CompletionLogprobs([], [], [], [])
        for position, (token_id, entry) in enumerate(zip(token_ids, entries, strict=True)):
            lists.text_offset.append(self._offset)
            if position >= unseen:
                self._offset += len(self._detokenizer.feed([token_id]))
            lists.tokens.append(self._names.name(token_id))
            lists.token_logprobs.append(None if entry is None else _finite(entry.logprob))
            lists.top_logprobs.append(None if entry is None else self._top_of(entry))
        return lists

    def _top_of(self, entry: TokenLogprob) -> dict[str, float]:
        """Up to ``top`` + 1 names: the token that was taken is there in any case."""
        candidates = {
            self._names.name(each.token_id): _finite(each.logprob) for each in reversed(entry.top[: self._top])
        }
        best_first = dict(reversed(candidates.items()))
        best_first.setdefault(self._names.name(entry.token_id), _finite(entry.logprob))
        return best_first


def joined(parts: Sequence[CompletionLogprobs]) -> CompletionLogprobs:
    """One after the other."""
    whole = CompletionLogprobs([], [], [], [])
    for part in parts:
        whole.text_offset.extend(part.text_offset)
        whole.token_logprobs.extend(part.token_logprobs)
        whole.tokens.extend(part.tokens)
        whole.top_logprobs.extend(part.top_logprobs)
    return whole


def prompt_logprobs(entries: Sequence[TokenLogprob | None], tokenizer: Tokenizer) -> PromptLogprobs:
    """By token id as a JSON key, the most likely first, the token that is there always among them."""
    return [None if entry is None else _prompt_position(entry, tokenizer) for entry in entries]


def _prompt_position(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, PromptLogprob]:
    candidates = {each.token_id: (each.logprob, each.rank) for each in entry.top}
    candidates.setdefault(entry.token_id, (entry.logprob, entry.rank))
    return {
        str(token_id): PromptLogprob(_finite(logprob), rank, tokenizer.token_text(token_id))
        for token_id, (logprob, rank) in candidates.items()
    }


def _finite(logprob: float) -> float:
    """Also for NaN, which compares as false."""
    return logprob if logprob > _LOWEST else _LOWEST
