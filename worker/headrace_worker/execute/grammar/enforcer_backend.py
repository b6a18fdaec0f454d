"""Grammars by lm-format-enforcer: parsers that know which characters may come, walked along a tree of the tokens."""

import json
import logging
import sys
from collections.abc import Hashable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from lmformatenforcer import (
    CharacterLevelParser,
    CharacterLevelParserConfig,
    JsonSchemaParser,
    RegexParser,
    StringParser,
    UnionParser,
)
from numpy.typing import NDArray

from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec
from headrace_worker.execute.grammar.automaton import try_interegular, unanchored
from headrace_worker.execute.grammar.backend import MOST_BLANKS, GrammarError, RawMatcher
from headrace_worker.execute.grammar.strict_json import StrictJson
from headrace_worker.execute.grammar.token_tree import CharacterParser, Place, TokenTree
from headrace_worker.execute.grammar.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_MOST_MASKS = 1024
_MOST_ITEMS = 20
"""Of an array whose schema gives no limit: the library's own default."""


class EnforcerBackend:
    """Compiles at once but for regular expressions, and works out masks in Python: the slowest of all."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def compile(self, spec: GrammarSpec) -> "EnforcerGrammar":
        try_interegular(_patterns(spec))
        config = CharacterLevelParserConfig(
            alphabet=self._tree.alphabet,
            max_consecutive_whitespaces=sys.maxsize,
            force_json_field_order=False,
            max_json_array_length=_MOST_ITEMS,
        )
        try:
            place = Place(_parser(spec, config))
        except Exception as error:  # the library raises plain ones for a schema that it cannot follow
            raise GrammarError(str(error)) from error
        return EnforcerGrammar(place, self._tree, self._vocabulary.eos_token_ids)

    @cached_property
    def _tree(self) -> TokenTree:
        return TokenTree(self._vocabulary)


class EnforcerGrammar:
    """A RawGrammar, whose places with a key have their masks kept."""

    def __init__(self, start: Place, tree: TokenTree, eos_token_ids: tuple[int, ...]) -> None:
        self.start = start
        self.tree = tree
        self._eos_token_ids = eos_token_ids
        self._masks: dict[Hashable, NDArray[np.int32]] = {}

    def matcher(self) -> RawMatcher:
        return _Matcher(self)

    def mask(self, place: Place) -> NDArray[np.int32]:
        """The tokens that may come next, one bit each."""
        key = place.key
        found = self._masks.get(key) if key is not None else None
        if found is None:
            found = self.tree.mask(place, self._eos_token_ids)
            if key is not None and len(self._masks) < _MOST_MASKS:
                self._masks[key] = found
        return found


class _Matcher:
    def __init__(self, grammar: EnforcerGrammar) -> None:
        self._grammar = grammar
        self._place = grammar.start

    def accept(self, token_id: int) -> bool:
        place = self._grammar.tree.after(self._place, token_id)
        self._place = place or self._place
        return place is not None

    def possible(self, token_ids: list[int]) -> int:
        here: Place | None = self._place
        for count, token_id in enumerate(token_ids):
            here = self._grammar.tree.after(here, token_id) if here is not None else None
            if here is None:
                return count
        return len(token_ids)

    def fill(self, bitmask: NDArray[np.int32], row: int) -> bool:
        try:
            bitmask[row] = self._grammar.mask(self._place)
        except Exception:
            # The library raises plain exceptions, and this is the engine's thread.
            log.exception("lm-format-enforcer has given up")
            return False
        return True


class Plain:
    """A CharacterParser: one of the library's, as it is."""

    def __init__(self, parser: CharacterLevelParser) -> None:
        self._parser = parser

    def allowed(self) -> set[str]:
        return set(self._parser.get_allowed_characters())

    def followed_by(self, character: str) -> "Plain":
        return Plain(self._parser.add_character(character))

    def can_end(self) -> bool:
        return bool(self._parser.can_end())

    def most_free_characters(self) -> None:
        return None

    def key(self) -> Hashable | None:
        key: Hashable | None = self._parser.cache_key()
        return key


def _patterns(spec: GrammarSpec) -> list[str]:
    """Every regular expression in a grammar, as the library will read it."""
    if spec.kind is GrammarKind.REGEX:
        return [unanchored(spec.source)]
    return list(_json_patterns(json.loads(spec.source))) if spec.kind is GrammarKind.JSON_SCHEMA else []


def _json_patterns(value: Any) -> Iterator[str]:
    """Also what only looks like one, inside a constant: to try it does no harm."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key == "pattern" and isinstance(part, str):
                yield unanchored(part)
            else:
                yield from _json_patterns(part)
    elif isinstance(value, list):
        for part in value:
            yield from _json_patterns(part)


def _parser(spec: GrammarSpec, config: CharacterLevelParserConfig) -> CharacterParser:
    """At the place before the first character. Raises any Exception."""
    match spec.kind:
        case GrammarKind.JSON_SCHEMA:
            parser = JsonSchemaParser(json.loads(spec.source), config)
            # The library keeps these for ever and for any vocabulary; here they belong to the grammar, and are
            # there before the first token.
            parser.context.regex_parser_cache = {
                pattern: RegexParser(pattern, config) for pattern in _patterns(spec) if pattern
            }
            type(parser.context).regex_parser_cache.clear()
            return StrictJson(parser, 0 if spec.compact else MOST_BLANKS)
        case GrammarKind.REGEX:
            return Plain(RegexParser(unanchored(spec.source), config))
        case GrammarKind.CHOICE:
            return Plain(UnionParser([StringParser(choice) for choice in json.loads(spec.source)]))
        case GrammarKind.EBNF | GrammarKind.LARK | GrammarKind.STRUCTURAL_TAG:
            raise GrammarError(f"lm-format-enforcer knows no {spec.kind.value}")
