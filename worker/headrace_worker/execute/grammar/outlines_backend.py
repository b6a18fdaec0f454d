"""Grammars by outlines_core: everything becomes one regular expression, and that an index over the vocabulary."""

import json
import re

import numpy as np
import outlines_core
from numpy.typing import NDArray
from outlines_core.json_schema import build_regex_from_schema

from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec
from headrace_worker.execute.grammar.automaton import outlines_index, unanchored
from headrace_worker.execute.grammar.backend import GrammarError, RawMatcher
from headrace_worker.execute.grammar.vocabulary import Vocabulary


class OutlinesBackend:
    """Compiles ahead of time, for seconds where an expression is wide; masks cost next to nothing afterwards."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def compile(self, spec: GrammarSpec) -> "OutlinesGrammar":
        index = outlines_index(_pattern(spec), self._vocabulary)
        return OutlinesGrammar(outlines_core.Index.from_binary(index), self._vocabulary.eos_token_ids)


class OutlinesGrammar:
    """A RawGrammar."""

    def __init__(self, index: outlines_core.Index, eos_token_ids: tuple[int, ...]) -> None:
        self._index = index
        self._eos_token_ids = eos_token_ids

    def matcher(self) -> RawMatcher:
        return _Matcher(self._index, self._eos_token_ids)


class _Matcher:
    def __init__(self, index: outlines_core.Index, eos_token_ids: tuple[int, ...]) -> None:
        self._index = index
        self._guide = outlines_core.Guide(index)
        self._eos_token_ids = eos_token_ids

    def accept(self, token_id: int) -> bool:
        try:
            self._guide.advance(token_id, return_tokens=False)
        except ValueError:
            return False
        return True

    def possible(self, token_ids: list[int]) -> int:
        state = self._guide.get_state()
        for place, token_id in enumerate(token_ids):
            state = self._index.get_next_state(state, token_id)
            if state is None:
                return place
        return len(token_ids)

    def fill(self, bitmask: NDArray[np.int32], row: int) -> bool:
        target = bitmask[row]
        self._guide.write_mask_into(target.ctypes.data, target.size, target.itemsize)
        if self._guide.is_finished():
            # The library knows one of the tokens that end a text.
            for token_id in self._eos_token_ids:
                target.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)
        return True


def _pattern(spec: GrammarSpec) -> str:
    """The regular expression of a grammar. Raises GrammarError."""
    match spec.kind:
        case GrammarKind.JSON_SCHEMA:
            try:
                pattern: str = build_regex_from_schema(spec.source, "" if spec.compact else spec.whitespace)
            except ValueError as error:
                raise GrammarError(str(error)) from error
            return pattern
        case GrammarKind.REGEX:
            return unanchored(spec.source)
        case GrammarKind.CHOICE:
            return "|".join(map(re.escape, json.loads(spec.source)))
        case GrammarKind.EBNF | GrammarKind.LARK | GrammarKind.STRUCTURAL_TAG:
            raise GrammarError(f"outlines knows no {spec.kind.value}")
