"""ToolUse: what a request lets its model do with tools, and the grammar that follows from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headrace_api.directory import ServedModel
from headrace_api.grammar.calls import CallGrammar, argument_constraints, calls_or, forced_calls, strict_calls
from headrace_api.grammar.translate import Constraint, constraint_of
from headrace_api.operations.services import Services
from headrace_api.schemas.base import JsonObject
from headrace_api.schemas.chat import ChatRequest, ToolMode
from headrace_api.schemas.problems import Problem, refuse
from headrace_api.schemas.tools import FunctionTool
from headrace_shared.parse.tools.forced import NamedCallParser, required_calls
from headrace_shared.parse.tools.parser import ToolParser
from headrace_shared.parse.tools.registry import ToolKind
from headrace_shared.parse.tools.tool import Tool

ToolReader = Callable[[str], ToolParser]
"""Makes the parser of one choice from the end of its prompt."""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One request's."""

    shown: list[JsonObject]
    """The tools that the prompt describes, as templates know them."""
    constraint: Constraint | None
    """What the answer must look like, already checked."""
    reader: ToolReader | None
    """None: calls are not looked for."""
    most_calls: int | None
    """Calls that are told; None: all."""
    holds_calls: bool
    """The grammar is one of calls, and says nothing of the answer proper."""
    keeps_special_tokens: bool
    """Whether calls are marked by special tokens, which the worker must then write."""


@dataclass(frozen=True, slots=True)
class _Grammar:
    constraint: Constraint | None
    to_check: list[Constraint]
    native: bool = False
    holds_calls: bool = False


async def tool_use(body: ChatRequest, model: ServedModel, services: Services) -> ToolUse:
    """Raises InvalidRequestError for what this model cannot do, and for grammars that no worker could use."""
    mode = body.tool_mode
    if mode == "auto":
        _check_auto(model)
    tools = {index: _tool(tool) for index, tool in body.allowed_tools.items()}
    parallel = body.parallel_tool_calls is not False
    grammar = _Grammar(None, [])
    if body.tools or body.constraints() or body.guided_decoding_backend is not None:
        grammar = await services.tokenizers.run(_grammar, body, model, tools, parallel)
    for constraint in grammar.to_check:
        await services.grammars.check(constraint)
    forced = mode in ("required", "named")
    native = grammar.native or not forced
    kind = model.tools if native else None
    shown = body.allowed_tools if mode != "none" or model.card.keeps_unused_tools else {}
    return ToolUse(
        shown=[tool.for_template() for tool in shown.values()],
        constraint=grammar.constraint,
        reader=_reader(mode, list(tools.values()), kind) if shown else None,
        most_calls=0 if mode == "none" else 1 if mode == "named" or not parallel else None,
        holds_calls=grammar.holds_calls,
        keeps_special_tokens=bool(shown and kind and kind.keeps_special_tokens),
    )


def _grammar(body: ChatRequest, model: ServedModel, tools: Mapping[int, Tool], parallel: bool) -> _Grammar:
    available = model.card.grammar_backends
    answer = constraint_of(body, available)
    own = [answer] if answer is not None else []
    form = model.tools.form if model.tools else None
    mode = body.tool_mode
    if mode in ("required", "named"):
        calls: CallGrammar = forced_calls(mode, list(tools.values()), form, available, parallel=parallel)
        return _Grammar(calls.constraint, [*own, *argument_constraints(tools), calls.constraint], calls.native, True)
    if mode == "none":
        return _Grammar(answer, own)
    strict = {index: tool for index, tool in tools.items() if tool.strict}
    constraint = strict_calls(tools, form, available, parallel=parallel) if strict else None
    checks = [*own, *argument_constraints(strict)]
    if answer is None:
        return _Grammar(constraint, checks if constraint is None else [*checks, constraint], holds_calls=True)
    apart = model.reasoning is not None and model.reasoning.answer_after is not None
    either = calls_or(answer, list(tools.values()), form, parallel=parallel) if form and not apart else None
    # Where one grammar cannot hold both, the form that was asked for goes before the calls.
    return _Grammar(either or answer, [*checks, either or answer])


def _check_auto(model: ServedModel) -> None:
    if not model.card.auto_tool_choice:
        why = "the model is served with --no-enable-auto-tool-choice"
    elif model.tools is None:
        why = "the form of this model's calls is not known; start its worker with --tool-call-parser"
    else:
        return
    raise refuse([Problem("tool_choice", f"auto is not possible: {why}, or send none, required or a function")])


def _reader(mode: ToolMode, tools: list[Tool], kind: ToolKind | None) -> ToolReader | None:
    if kind is not None:
        return lambda tail: kind.factory(tools, tail)
    if mode == "named":
        return lambda _tail: NamedCallParser(tools[0].name)
    return (lambda _tail: required_calls()) if mode == "required" else None


def _tool(tool: FunctionTool) -> Tool:
    function = tool.function
    return Tool(function.name, function.description or "", function.parameters, bool(function.strict))
