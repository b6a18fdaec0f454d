"""Grammars that hold an answer to calls of tools: in the form of the model's family, else as plain JSON."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from headrace_api.grammar.exactness import inexact_part
from headrace_api.grammar.json_schema import TooDeepError, tidy
from headrace_api.grammar.translate import Constraint, schema_spec, tag_spec
from headrace_api.schemas.problems import Problem, refuse
from headrace_shared.errors import InvalidRequestError
from headrace_shared.parse.tools.call_form import CallForm
from headrace_shared.parse.tools.tool import Tool
from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind, GrammarSpec

_NOTHING: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """What an answer with calls must look like."""

    constraint: Constraint
    native: bool
    """Calls are in the family's own form; if not, they are plain JSON."""


def argument_constraints(tools: Mapping[int, Tool]) -> list[Constraint]:
    """The schemas of the tools alone, by place in the request, so that what is wrong with one is said of that one."""
    return [
        Constraint(param, schema_spec(param, tool.parameters))
        for index, tool in tools.items()
        if tool.parameters is not None
        for param in (f"tools[{index}].function.parameters",)
    ]


def forced_calls(
    mode: Literal["required", "named"],
    tools: Sequence[Tool],
    form: CallForm | None,
    available: Collection[str],
    *,
    parallel: bool,
) -> CallGrammar:
    """Calls and nothing else. ``available``: the model's back-ends. Raises InvalidRequestError."""
    if not available:
        raise refuse([Problem("tool_choice", "is not possible: this model's workers cannot constrain their answers")])
    held = [replace(tool, parameters=tool.parameters or _NOTHING, strict=True) for tool in tools]
    if form is not None and GrammarBackend.XGRAMMAR in available and not any(map(_inexact, held)):
        spec = tag_spec("tool_choice", {"format": form.required(held, parallel=parallel and mode == "required")})
        return CallGrammar(Constraint("tool_choice", spec), native=True)
    schema = _arguments(held[0]) if mode == "named" else _array(held, parallel=parallel)
    return CallGrammar(Constraint("tool_choice", schema_spec("tool_choice", schema)), native=False)


def strict_calls(
    tools: Mapping[int, Tool], form: CallForm | None, available: Collection[str], *, parallel: bool
) -> Constraint:
    """Free text in which calls of strict tools obey their schemas. Raises InvalidRequestError that names those that cannot."""
    problems = []
    for index, tool in tools.items():
        param = f"tools[{index}].function"
        if not tool.strict:
            continue
        if GrammarBackend.XGRAMMAR not in available:
            problems.append(
                Problem(f"{param}.strict", "is not possible: this model's workers cannot constrain their answers")
            )
        elif form is None:
            problems.append(
                Problem(
                    f"{param}.strict", "is not possible with this model; leave it out, or force a call by tool_choice"
                )
            )
        elif (part := _inexact(tool)) is not None:
            problems.append(
                Problem(f"{param}.parameters", f"{part} cannot be enforced inside a call; leave strict out")
            )
    if problems or form is None:
        raise refuse(problems)
    first = next(index for index, tool in tools.items() if tool.strict)
    param = f"tools[{first}].function.strict"
    return Constraint(param, tag_spec(param, {"format": form.auto(list(tools.values()), parallel=parallel)}))


def calls_or(answer: Constraint, tools: Sequence[Tool], form: CallForm, *, parallel: bool) -> Constraint | None:
    """Either calls or an answer of the other form; None where no one grammar can hold both."""
    other = _as_format(answer.spec)
    if other is None:
        return None
    # What nobody has asked to be strict has not been looked at either.
    tools = [tool if tool.strict else replace(tool, parameters=None) for tool in tools]
    either = {"type": "or", "elements": [form.required(tools, parallel=parallel), other]}
    try:
        return Constraint(answer.param, tag_spec(answer.param, {"format": either}))
    except InvalidRequestError:
        return None


def _as_format(spec: GrammarSpec) -> dict[str, Any] | None:
    """A grammar as part of a structural tag."""
    if (
        spec.backend not in (GrammarBackend.AUTO, GrammarBackend.XGRAMMAR)
        or spec.whitespace is not None
        or spec.compact
    ):
        return None
    match spec.kind:
        case GrammarKind.JSON_SCHEMA:
            return {"type": "json_schema", "json_schema": json.loads(spec.source)}
        case GrammarKind.REGEX:
            return {"type": "regex", "pattern": spec.source}
        case GrammarKind.CHOICE:
            choices = [{"type": "const_string", "value": value} for value in json.loads(spec.source)]
            return {"type": "or", "elements": choices}
        case GrammarKind.EBNF:
            return {"type": "grammar", "grammar": spec.source}
        case GrammarKind.STRUCTURAL_TAG:
            found: dict[str, Any] = json.loads(spec.source)["format"]
            return found
        case GrammarKind.LARK:
            return None


def _inexact(tool: Tool) -> str | None:
    """The first thing in a tool's schema that cannot be enforced inside a call."""
    if tool.parameters is None:
        return None
    source = json.dumps(tool.parameters)
    schema = json.loads(source)
    try:
        tidy(schema)
        return inexact_part(schema, source)
    except TooDeepError as error:
        return str(error)


def _arguments(tool: Tool) -> dict[str, Any]:
    return {**(tool.parameters or _NOTHING), "type": "object"}


def _array(tools: Sequence[Tool], *, parallel: bool) -> dict[str, Any]:
    """Every schema stands under ``$defs``, where its own references are led to."""
    definitions = {f"call{index}": _moved(_arguments(tool), f"#/$defs/call{index}") for index, tool in enumerate(tools)}
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "parameters": {"$ref": f"#/$defs/call{index}"}},
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for index, tool in enumerate(tools)
    ]
    one = {} if parallel else {"maxItems": 1}
    return {"type": "array", "minItems": 1, **one, "items": {"anyOf": calls}, "$defs": definitions}


def _moved(part: Any, place: str) -> Any:
    """A schema, or part of one, whose references to its root lead to ``place``."""
    if isinstance(part, list):
        return [_moved(each, place) for each in part]
    if not isinstance(part, dict):
        return part
    moved = {key: _moved(value, place) for key, value in part.items()}
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
