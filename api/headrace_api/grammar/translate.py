"""From a request's constraint to the GrammarSpec that its worker gets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace_api.grammar import structural_tag
from headrace_api.grammar.exactness import inexact_part, is_plain
from headrace_api.grammar.extras import EXTRAS, unenforced_part
from headrace_api.grammar.json_schema import TooDeepError, tidy
from headrace_api.schemas.base import JsonObject
from headrace_api.schemas.problems import Problem, refuse
from headrace_api.schemas.structured import StructuredRequest
from headrace_shared.errors import InvalidRequestError
from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind, GrammarSpec

_OPTIONS = ("disable-additional-properties", "disable-any-whitespace", "no-fallback")
_KINDS = {
    "json": GrammarKind.JSON_SCHEMA,
    "regex": GrammarKind.REGEX,
    "choice": GrammarKind.CHOICE,
    "grammar": GrammarKind.LARK,
    "structural_tag": GrammarKind.STRUCTURAL_TAG,
}
"""By the last part of a field's name; a grammar's notation is found out later."""
_BACKENDS = frozenset(backend.value for backend in GrammarBackend)
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar, and the parameter that asked for it."""

    param: str
    spec: GrammarSpec
    whitespace_param: str | None = None
    """The one that ``spec.whitespace`` came from."""

    @property
    def told(self) -> GrammarSpec:
        """For the worker, so that what it finds wrong is told of the parameter."""
        return msgspec.structs.replace(self.spec, asked_as=self.param)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request says of how its grammar is to be enforced."""

    backend: GrammarBackend
    compact: bool
    close_all: bool
    whitespace: str | None


_NO_WISH = _Wish(GrammarBackend.AUTO, compact=False, close_all=False, whitespace=None)


def constraint_of(body: StructuredRequest, available: Sequence[str]) -> Constraint | None:
    """The constraint of a request without conflicts; None when it has none.

    ``available``: the model's back-ends, the preferred one first. May take milliseconds for a large schema. Raises
    InvalidRequestError for what they cannot do.
    """
    # A newer worker may have backends that this node has not heard of.
    available = [name for name in available if name in _BACKENDS]
    wish = _wish(body, available)
    constraints = body.constraints()
    if not constraints:
        return None
    param = constraints[0]
    if not available:
        raise _refusal(param, "is not possible: this model's workers cannot constrain their answers")
    kind, value = _asked(body, param)
    if param == "response_format" and kind is GrammarKind.JSON_SCHEMA and body.response_format is not None:
        param = "response_format.json_schema.schema" if body.response_format.json_schema else param
    whitespace_param = body.whitespace_pattern[0] if body.whitespace_pattern else None
    return Constraint(param, _spec(param, kind, value, wish), whitespace_param)


def schema_spec(param: str, schema: JsonObject) -> GrammarSpec:
    """The grammar of a schema that no field but ``param`` says anything of. Raises InvalidRequestError."""
    return _schema_spec(param, _read(param, schema), _NO_WISH)


def tag_spec(param: str, tag: JsonObject) -> GrammarSpec:
    """Likewise of a structural tag."""
    return _tag_spec(param, _read(param, tag), _NO_WISH)


def _wish(body: StructuredRequest, available: Sequence[str]) -> _Wish:
    name, _, listed = (body.guided_decoding_backend or GrammarBackend.AUTO).partition(":")
    options = [option.strip() for option in listed.split(",") if option.strip()]
    param = "guided_decoding_backend"
    names = [GrammarBackend.AUTO.value, *available]
    if name not in names:
        how = f"; its workers need headrace[{name}] for that" if name in EXTRAS else ""
        raise _refusal(param, f"should be {_either(names)} on this server, got {name[:40]!r}{how}")
    for option in options:
        if option not in _OPTIONS:
            raise _refusal(param, f"has the options {_either(_OPTIONS)}, got {option[:40]!r}")
    if name == GrammarBackend.AUTO and available and ("no-fallback" in options or len(available) == 1):
        name = available[0]
    more = body.structured_outputs
    pattern = body.whitespace_pattern
    return _Wish(
        backend=GrammarBackend(name),
        compact="disable-any-whitespace" in options or bool(more and more.disable_any_whitespace),
        close_all="disable-additional-properties" in options or bool(more and more.disable_additional_properties),
        whitespace=pattern[1] if pattern else None,
    )


def _asked(body: StructuredRequest, param: str) -> tuple[GrammarKind, Any]:
    """The kind of the constraint and its source, JSON not yet read."""
    if param == "response_format":
        return _asked_openai(body)
    name = param.removeprefix("guided_").removeprefix("structured_outputs.")
    if name == "json_object":
        return GrammarKind.JSON_SCHEMA, _ANY_OBJECT
    if param.startswith("guided_"):
        return _KINDS[name], getattr(body, param)
    return _KINDS[name], getattr(body.structured_outputs, "json_" if name == "json" else name)


def _asked_openai(body: StructuredRequest) -> tuple[GrammarKind, Any]:
    asked = body.response_format
    assert asked is not None  # noqa: S101 the caller has seen it
    if asked.type == "structural_tag":
        return GrammarKind.STRUCTURAL_TAG, asked.model_dump(include={"format", "structures", "triggers"})
    if asked.json_schema is not None and asked.type == "json_schema":
        return GrammarKind.JSON_SCHEMA, asked.json_schema.schema_
    return GrammarKind.JSON_SCHEMA, _ANY_OBJECT


def _spec(param: str, kind: GrammarKind, value: Any, wish: _Wish) -> GrammarSpec:
    match kind:
        case GrammarKind.JSON_SCHEMA:
            return _schema_spec(param, _read(param, value), wish)
        case GrammarKind.STRUCTURAL_TAG:
            return _tag_spec(param, _read(param, value), wish)
        case GrammarKind.CHOICE:
            return GrammarSpec(kind, json.dumps(list(dict.fromkeys(value)), ensure_ascii=False), wish.backend)
        case GrammarKind.REGEX:
            return _regex_spec(param, value, wish)
        case GrammarKind.EBNF | GrammarKind.LARK:
            if wish.backend in EXTRAS:
                name = wish.backend.value
                raise _refusal(param, f"the backend {name} knows no grammars; use xgrammar, guidance or auto")
            return GrammarSpec(GrammarKind.EBNF if "::=" in value else GrammarKind.LARK, value, wish.backend)


def _schema_spec(param: str, schema: Any, wish: _Wish) -> GrammarSpec:
    try:
        tidy(schema, close_all=wish.close_all)
        source = json.dumps(schema, ensure_ascii=False)
        inexact = inexact_part(schema, source)
    except TooDeepError as error:
        raise _refusal(param, str(error)) from None
    backend = wish.backend
    if backend in EXTRAS:
        _refuse_unenforced(param, schema, wish)
        source = json.dumps(schema, ensure_ascii=False)
    elif inexact is not None or wish.whitespace is not None:
        if backend is GrammarBackend.XGRAMMAR:
            what = "a whitespace pattern" if inexact is None else inexact
            raise _refusal(param, f"the backend xgrammar does not enforce {what}; use guidance or auto")
        backend = GrammarBackend.GUIDANCE
    return GrammarSpec(GrammarKind.JSON_SCHEMA, source, backend, wish.whitespace, wish.compact)


def _refuse_unenforced(param: str, schema: Any, wish: _Wish) -> None:
    if wish.whitespace is not None and wish.backend is GrammarBackend.LM_FORMAT_ENFORCER:
        part: str | None = "a whitespace pattern"
    else:
        part = unenforced_part(schema, wish.backend)
    if part is not None:
        raise _refusal(param, f"the backend {wish.backend.value} does not enforce {part}; use guidance or auto")


def _regex_spec(param: str, pattern: str, wish: _Wish) -> GrammarSpec:
    if "\0" in pattern:
        raise _refusal(param, "should not have a NUL character")
    backend = wish.backend
    if not is_plain(pattern):
        if backend is GrammarBackend.XGRAMMAR:
            raise _refusal(param, "the backend xgrammar does not know everything in this pattern; use guidance or auto")
        backend = backend if backend in EXTRAS else GrammarBackend.GUIDANCE
    return GrammarSpec(GrammarKind.REGEX, pattern, backend)


def _tag_spec(param: str, tag: Any, wish: _Wish) -> GrammarSpec:
    """Only xgrammar knows tags, so that every schema in one has to be of those that it enforces."""
    if wish.backend not in (GrammarBackend.AUTO, GrammarBackend.XGRAMMAR):
        raise _refusal(param, f"the backend {wish.backend.value} knows no structural tags; use xgrammar or auto")
    try:
        tag = structural_tag.modern(tag)
        for path, format_ in structural_tag.formats(tag):
            if "json_schema" not in format_:
                continue
            schema = format_["json_schema"]
            tidy(schema, close_all=wish.close_all)
            inexact = inexact_part(schema, json.dumps(schema))
            if inexact is not None:
                raise _refusal(param, f"{path}.json_schema: {inexact} cannot be enforced inside a structural tag")
    except ValueError as error:
        raise _refusal(param, str(error)) from None
    return GrammarSpec(GrammarKind.STRUCTURAL_TAG, json.dumps(tag, ensure_ascii=False), GrammarBackend.XGRAMMAR)


def _read(param: str, value: Any) -> Any:
    """JSON text read; an object as it is, but our own to change."""
    try:
        read = json.loads(value if isinstance(value, str) else json.dumps(value))
    except (ValueError, RecursionError) as error:
        raise _refusal(param, f"is not valid JSON: {error}") from None
    if not isinstance(read, dict):
        raise _refusal(param, "should be a JSON object")
    return read


def _either(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _refusal(param: str, message: str) -> InvalidRequestError:
    return refuse([Problem(param, message)])
