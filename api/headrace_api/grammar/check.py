"""GrammarChecker: whether a grammar compiles, found out before anything is queued."""

import asyncio
import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import llguidance

from headrace_api.grammar import structural_tag
from headrace_api.grammar.json_schema import parts
from headrace_api.grammar.translate import Constraint
from headrace_api.schemas.problems import Problem, refuse
from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind, GrammarSpec

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_THREADS = 2
_MOST_KEPT = 1024
_LONGEST_MESSAGE = 300


class GrammarChecker:
    """Compiles grammars in threads, over a vocabulary of single bytes; what it finds is kept."""

    def __init__(self, most_bytes: int, timeout_s: float) -> None:
        self._most_bytes = most_bytes
        self._timeout_s = timeout_s
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")
        self._kept: OrderedDict[bytes, str | None] = OrderedDict()

    async def check(self, constraint: Constraint) -> None:
        """Raises InvalidRequestError that says what is wrong with the grammar, and where."""
        if constraint.whitespace_param is not None and constraint.spec.whitespace is not None:
            pattern = GrammarSpec(GrammarKind.REGEX, constraint.spec.whitespace)
            await self.check(Constraint(constraint.whitespace_param, pattern))
        spec, param = constraint.spec, constraint.param
        size = len(spec.source.encode(errors="replace"))
        if size > self._most_bytes:
            raise refuse([Problem(param, f"should have at most {self._most_bytes} bytes, got {size}")])
        digest = spec.digest
        if digest not in self._kept:
            self._kept[digest] = await self._find(constraint)
        self._kept.move_to_end(digest)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        wrong = self._kept[digest]
        if wrong is not None:
            raise refuse([Problem(param, wrong)])

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _find(self, constraint: Constraint) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._executor, self._problem, constraint.spec)
        except TimeoutError:
            # Not kept: it may only have been a busy moment.
            raise refuse([Problem(constraint.param, "is too complex: it takes too long to compile")]) from None

    def _problem(self, spec: GrammarSpec) -> str | None:
        match spec.kind:
            case GrammarKind.JSON_SCHEMA:
                return self._schema_problem(json.loads(spec.source), spec)
            case GrammarKind.STRUCTURAL_TAG:
                return self._tag_problem(json.loads(spec.source))
            case GrammarKind.CHOICE:
                return None
            case GrammarKind.EBNF:
                return _named("grammar", self._error("gbnf", spec.source))
            case GrammarKind.LARK:
                return _named("grammar", self._error("lark", spec.source))
            case GrammarKind.REGEX:
                return _named("regular expression", self._error("regex", spec.source))

    def _schema_problem(self, schema: Any, spec: GrammarSpec) -> str | None:
        error = self._schema_error(schema, spec)
        if error is None:
            return None
        path, error = self._innermost(schema, error, spec)
        return f"cannot be enforced{f' at {path}' if path else ''}: {error}"

    def _innermost(self, schema: Any, error: str, spec: GrammarSpec) -> tuple[str, str]:
        """The smallest part of a schema that is wrong by itself, and what is wrong with it."""
        shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
        path, whole = "", schema
        while isinstance(whole, dict):
            for name, part in parts(whole):
                alone = part if not isinstance(part, dict) or name.startswith(tuple(shared)) else {**shared, **part}
                found = self._schema_error(alone, spec) if isinstance(part, dict) else None
                if found is not None and found == error:
                    path, whole = f"{path}.{name}" if path else name, part
                    break
            else:
                break
        return path, error

    def _schema_error(self, schema: Any, spec: GrammarSpec) -> str | None:
        options: JsonCompileOptions = {}
        if spec.whitespace is not None:
            options["whitespace_pattern"] = spec.whitespace
        if spec.backend is not GrammarBackend.GUIDANCE:
            # What is left to xgrammar has been found to be within its means.
            options["lenient"] = True
        return self._compile(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options))

    def _tag_problem(self, tag: Any) -> str | None:
        for path, format_ in structural_tag.formats(tag):
            error = None
            if "json_schema" in format_:
                spec = GrammarSpec(GrammarKind.JSON_SCHEMA, "", GrammarBackend.XGRAMMAR)
                error = self._schema_problem(format_["json_schema"], spec)
            elif format_["type"] == "regex":
                error = _named("regular expression", self._error("regex", str(format_.get("pattern"))))
            elif format_["type"] == "grammar":
                error = _named("grammar", self._error("gbnf", str(format_.get("grammar"))))
            if error is not None:
                return f"{path}: {error}"
        return None

    def _error(self, form: llguidance.GrammarFormat, source: str) -> str | None:
        try:
            grammar = llguidance.grammar_from(form, source)
        except ValueError as error:
            return str(error)
        return self._compile(grammar)

    def _compile(self, grammar: str) -> str | None:
        # Unlike the library's own validation, this lets go of the interpreter meanwhile.
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        return _shortened(matcher.get_error()) if matcher.is_error() else None

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))


class _Bytes:
    """A tokenizer whose tokens are the single bytes."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def _named(what: str, error: str | None) -> str | None:
    return None if error is None else f"is not a {what} that can be used: {error}"


def _shortened(error: str) -> str:
    """The library's words on one line."""
    line = " ".join(error.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."
