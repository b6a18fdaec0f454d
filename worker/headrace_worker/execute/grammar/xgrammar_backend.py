"""Grammars by xgrammar."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import xgrammar
from numpy.typing import NDArray

from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec
from headrace_worker.execute.grammar.backend import MOST_BLANKS, GrammarError, RawMatcher
from headrace_worker.execute.grammar.vocabulary import Vocabulary

_MOST_VOCABULARIES = 8


class XgrammarBackend:
    """Compiles ahead of time, from milliseconds to seconds; masks are cheap afterwards."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._names = {
            vocabulary.tokens[token_id].decode(): token_id
            for token_id in vocabulary.special_ids
            if token_id < len(vocabulary.tokens) and token_id not in vocabulary.eos_token_ids
        }
        self._compilers: dict[frozenset[int], xgrammar.GrammarCompiler] = {}

    def compile(self, spec: GrammarSpec) -> "XgrammarGrammar":
        if spec.whitespace is not None:
            raise GrammarError("xgrammar knows no whitespace pattern")
        try:
            return XgrammarGrammar(self._compile(spec))
        # Everything the library refuses is a RuntimeError or one of its subclasses.
        except RuntimeError as error:
            raise GrammarError(_plain(error)) from error

    def _compile(self, spec: GrammarSpec) -> xgrammar.CompiledGrammar:
        compiler = self._compiler(self._spelled(spec))
        match spec.kind:
            case GrammarKind.JSON_SCHEMA if spec.compact:
                return compiler.compile_json_schema(
                    spec.source, any_whitespace=False, separators=(",", ":"), strict_mode=False
                )
            case GrammarKind.JSON_SCHEMA:
                return compiler.compile_json_schema(spec.source, max_whitespace_cnt=MOST_BLANKS, strict_mode=False)
            case GrammarKind.REGEX:
                return compiler.compile_regex(spec.source)
            case GrammarKind.CHOICE:
                # A quoted string of the notation is written as in JSON.
                return compiler.compile_grammar("root ::= " + " | ".join(map(json.dumps, json.loads(spec.source))))
            case GrammarKind.EBNF:
                return compiler.compile_grammar(spec.source)
            case GrammarKind.LARK:
                return compiler.compile_lark(spec.source)
            case GrammarKind.STRUCTURAL_TAG:
                tag = json.loads(spec.source)
                _limit_blanks(tag)
                return compiler.compile_structural_tag(json.dumps(tag))

    def _spelled(self, spec: GrammarSpec) -> frozenset[int]:
        """The special tokens that a structural tag's texts spell: there they are text like any other."""
        if spec.kind is not GrammarKind.STRUCTURAL_TAG:
            return frozenset()
        texts = list(_texts(json.loads(spec.source)))
        return frozenset(id_ for name, id_ in self._names.items() if name and any(name in text for text in texts))

    def _compiler(self, spelled: frozenset[int]) -> xgrammar.GrammarCompiler:
        found = self._compilers.get(spelled)
        if found is not None:
            return found
        vocabulary = self._vocabulary
        # A token without bytes is what the library takes for a special one.
        tokens = [
            b"" if token_id in vocabulary.special_ids and token_id not in spelled else token
            for token_id, token in enumerate(vocabulary.tokens)
        ]
        info = xgrammar.TokenizerInfo(
            tokens, xgrammar.VocabType.RAW, vocab_size=len(tokens), stop_token_ids=list(vocabulary.eos_token_ids)
        )
        # Threads come from our own pool, and so does the cache.
        compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        if len(self._compilers) >= _MOST_VOCABULARIES:
            self._compilers.clear()
        self._compilers[spelled] = compiler
        return compiler


class XgrammarGrammar:
    """A RawGrammar."""

    def __init__(self, compiled: xgrammar.CompiledGrammar) -> None:
        self._compiled = compiled

    def matcher(self) -> RawMatcher:
        return _Matcher(xgrammar.GrammarMatcher(self._compiled))


class _Matcher:
    def __init__(self, matcher: xgrammar.GrammarMatcher) -> None:
        self._matcher = matcher

    def accept(self, token_id: int) -> bool:
        return bool(self._matcher.accept_token(token_id))

    def possible(self, token_ids: list[int]) -> int:
        accepted = 0
        for token_id in token_ids:
            if self._matcher.is_terminated() or not self._matcher.accept_token(token_id):
                break
            accepted += 1
        self._matcher.rollback(accepted)
        return accepted

    def fill(self, bitmask: NDArray[np.int32], row: int) -> bool:
        self._matcher.fill_next_token_bitmask(bitmask, row)
        return True


def _plain(error: RuntimeError) -> str:
    """The library's words without the place in its source: ``[time] file:line: words``, first line."""
    line = next(iter(str(error).strip().splitlines()), "")
    before, _, words = line.partition(": ")
    return words if before.startswith("[") and words else line


def _texts(value: Any) -> Iterator[str]:
    """The texts that a structural tag has the model write; schemas aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            if key != "json_schema":
                yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _limit_blanks(value: Any) -> None:
    """Gives the JSON inside a structural tag the limit that other JSON has, unless it has its own."""
    if isinstance(value, dict):
        if value.get("type") == "json_schema" and value.get("style", "json") == "json":
            value.setdefault("max_whitespace_cnt", MOST_BLANKS)
        for key, part in value.items():
            if key != "json_schema":
                _limit_blanks(part)
    elif isinstance(value, list):
        for part in value:
            _limit_blanks(part)
