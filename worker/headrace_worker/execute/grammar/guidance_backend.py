"""Grammars by llguidance."""

import json
from typing import TYPE_CHECKING

import llguidance
import numpy as np
from numpy.typing import NDArray

from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec
from headrace_worker.execute.grammar.backend import MOST_BLANKS, GrammarError, RawMatcher
from headrace_worker.execute.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_FORMATS: dict[GrammarKind, llguidance.GrammarFormat] = {
    GrammarKind.REGEX: "regex",
    GrammarKind.EBNF: "gbnf",
    GrammarKind.LARK: "lark",
}


class GuidanceBackend:
    """Compiles at once, and works out masks as they are needed."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Tokens(vocabulary)), eos_token=list(vocabulary.eos_token_ids)
        )

    def compile(self, spec: GrammarSpec) -> "GuidanceGrammar":
        try:
            grammar = _grammar(spec)
        except ValueError as error:
            raise GrammarError(str(error)) from error
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        return GuidanceGrammar(matcher)


class GuidanceGrammar:
    """A RawGrammar."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def matcher(self) -> RawMatcher:
        return _Matcher(self._matcher.deep_copy())


class _Matcher:
    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def accept(self, token_id: int) -> bool:
        return self._matcher.consume_token(token_id)

    def possible(self, token_ids: list[int]) -> int:
        return self._matcher.validate_tokens(token_ids)

    def fill(self, bitmask: NDArray[np.int32], row: int) -> bool:
        target = bitmask[row]
        self._matcher.unsafe_compute_mask_ptr(target.ctypes.data, target.nbytes)
        return not self._matcher.is_error()


class _Tokens:
    """What the library asks of a tokenizer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = sorted(vocabulary.special_ids)
        self.eos_token_id = vocabulary.eos_token_ids[0]
        self.bos_token_id = None

        self._ids = {
            token: token_id
            for token_id, token in reversed(list(enumerate(vocabulary.tokens)))
            if token and token_id not in vocabulary.special_ids
        }
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """Any tokens that make up the text: the library asks for those of what a grammar forces, to know what may begin it."""
        ids: list[int] = []
        place = 0
        while place < len(text):
            sizes = range(min(self._longest, len(text) - place), 0, -1)
            size = next((size for size in sizes if text[place : place + size] in self._ids), 0)
            if not size:
                return ids
            ids.append(self._ids[text[place : place + size]])
            place += size
        return ids


def _grammar(spec: GrammarSpec) -> str:
    """The library's form of a grammar. Raises ValueError."""
    match spec.kind:
        case GrammarKind.JSON_SCHEMA:
            blanks = spec.whitespace or rf"[\x20\x0A\x0D\x09]{{1,{MOST_BLANKS}}}"
            options: JsonCompileOptions = (
                {"whitespace_flexible": False} if spec.compact else {"whitespace_pattern": blanks}
            )
            return llguidance.LLMatcher.grammar_from_json_schema(spec.source, overrides=options)
        case GrammarKind.CHOICE:
            # A quoted string of the notation is written as in JSON.
            choices = " | ".join(map(json.dumps, json.loads(spec.source)))
            return llguidance.LLMatcher.grammar_from_lark(f"start: {choices}")
        case GrammarKind.STRUCTURAL_TAG:
            raise ValueError("guidance knows no structural tags")
        case GrammarKind.REGEX | GrammarKind.EBNF | GrammarKind.LARK:
            return llguidance.grammar_from(_FORMATS[spec.kind], spec.source)
