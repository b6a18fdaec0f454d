"""Tools in requests and answers: what a model may call, and what it has called."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BaseModel, Discriminator, Field, Tag

from headrace_api.schemas.base import JsonObject, Part
from headrace_api.schemas.problems import Problem

MOST_TOOLS = 1024
ToolName = Annotated[str, Field(pattern=r"^[\w.-]{1,128}$")]


class ToolFunction(Part):
    """A function that the model may call."""

    name: ToolName
    description: str | None = None
    parameters: Annotated[
        JsonObject | None, Field(description="JSON schema of its arguments; left out: it takes none.")
    ] = None
    strict: Annotated[
        bool | None, Field(description="Hold the model to the schema whenever it decides to call this function.")
    ] = False


class FunctionTool(Part):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: ToolFunction

    def for_template(self) -> JsonObject:
        """As chat templates know it: without what is meant for the server."""
        function: JsonObject = {
            "name": self.function.name,
            "description": self.function.description,
            "parameters": self.function.parameters,
            **(self.function.model_extra or {}),
        }
        return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


class FunctionName(Part):
    """Names one of the request's functions."""

    name: ToolName


class FunctionChoice(Part):
    """The function that has to be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedTools(Part):
    """The part of the request's tools that may be called this time."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(min_length=1)]


class AllowedToolsChoice(Part):
    """``tool_choice`` with only a part of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _kind_of_choice(value: Any) -> str:
    if not isinstance(value, dict | BaseModel):
        return "mode"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "allowed_tools" if kind == "allowed_tools" else "function"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[FunctionChoice, Tag("function")]
    | Annotated[AllowedToolsChoice, Tag("allowed_tools")],
    Discriminator(_kind_of_choice),
]
Tools = Annotated[list[FunctionTool], Field(min_length=1, max_length=MOST_TOOLS)]


def tool_problems(tools: list[FunctionTool], choice: object) -> Iterator[Problem]:
    """What is wrong between tools, and between them and the ``tool_choice``."""
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.function.name in names:
            yield Problem(f"tools[{index}].function.name", f"is there twice, got {tool.function.name!r}")
        names.add(tool.function.name)
    if not tools and choice not in (None, "none"):
        yield Problem("tool_choice", "is only allowed with tools")
        return
    named: dict[str, str] = {}
    if isinstance(choice, FunctionChoice):
        named["tool_choice.function.name"] = choice.function.name
    elif isinstance(choice, AllowedToolsChoice):
        for index, each in enumerate(choice.allowed_tools.tools):
            named[f"tool_choice.allowed_tools.tools[{index}].function.name"] = each.function.name
    for path, name in named.items():
        if name not in names:
            yield Problem(path, f"should be the name of one of the tools, got {name!r}")


class CalledFunction(msgspec.Struct, frozen=True):
    """``arguments`` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model wants to be made."""

    id: str
    type: str = "function"
    function: CalledFunction


class CalledFunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` is in a call's first fragment; those of ``arguments`` are to be joined."""

    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A fragment of the call numbered ``index``; ``id`` and ``type`` are in its first one."""

    index: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    function: CalledFunctionDelta
