"""Grammars by xgrammar."""

import json

import numpy as np
import xgrammar
from numpy.typing import NDArray

from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec
from headrace_worker.execute.grammar.backend import MOST_BLANKS, GrammarError, RawMatcher
from headrace_worker.execute.grammar.vocabulary import Vocabulary


class XgrammarBackend:
    """Compiles ahead of time, from milliseconds to seconds; masks are cheap afterwards."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        # A token without bytes is what the library takes for a special one.
        tokens = [
            b"" if token_id in vocabulary.special_ids else token for token_id, token in enumerate(vocabulary.tokens)
        ]
        self._eos_token_ids = vocabulary.eos_token_ids
        info = xgrammar.TokenizerInfo(
            tokens, xgrammar.VocabType.RAW, vocab_size=len(tokens), stop_token_ids=list(vocabulary.eos_token_ids)
        )
        # Threads come from our own pool, and so does the cache.
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(self, spec: GrammarSpec) -> "XgrammarGrammar":
        if spec.whitespace is not None:
            raise GrammarError("xgrammar knows no whitespace pattern")
        try:
            return XgrammarGrammar(self._compile(spec))
        # Everything the library refuses is a RuntimeError or one of its subclasses.
        except RuntimeError as error:
            raise GrammarError(_plain(error)) from error

    def _compile(self, spec: GrammarSpec) -> xgrammar.CompiledGrammar:
        compiler = self._compiler
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
                return compiler.compile_structural_tag(spec.source)


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

    def fill(self, bitmask: NDArray[np.int32], row: int) -> bool:
        self._matcher.fill_next_token_bitmask(bitmask, row)
        return True


def _plain(error: RuntimeError) -> str:
    """The library's words without the place in its source: ``[time] file:line: words``, first line."""
    line = next(iter(str(error).strip().splitlines()), "")
    before, _, words = line.partition(": ")
    return words if before.startswith("[") and words else line
