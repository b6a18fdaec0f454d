"""The messages of a conversation: open for what templates know, strict in what they have in common."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from headrace_api.schemas.base import JsonObject

_SAY_SOMETHING = frozenset({"system", "developer", "user", "tool"})
"""Only an assistant may have nothing to say but calls; roles that nobody knows are for templates to judge."""


def _message(message: JsonObject) -> JsonObject:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ValueError("a message needs a role, a non-empty string")
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict | str) for part in content):
            raise ValueError("a part of content should be an object or a string")
    elif not isinstance(content, str | None):
        raise ValueError("content should be a string, a list of parts or null")
    elif content is None and role in _SAY_SOMETHING:
        raise ValueError(f"a message of role {role!r} needs content: a string or a list of parts")
    for name in ("reasoning", "reasoning_content", "tool_call_id"):
        if not isinstance(message.get(name), str | None):
            raise ValueError(f"{name} should be a string or null")
    _check_calls(message.get("tool_calls"))
    return message


def _check_calls(calls: Any) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise ValueError("tool_calls should be a list or null")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise ValueError(f"tool_calls[{index}] should be an object with a function")
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise ValueError(f"tool_calls[{index}].function.name should be a non-empty string")
        if not isinstance(function.get("arguments"), str | dict | None):
            raise ValueError(f"tool_calls[{index}].function.arguments should be a string of JSON")
        if not isinstance(call.get("id"), str | None):
            raise ValueError(f"tool_calls[{index}].id should be a string")


Messages = Annotated[list[Annotated[JsonObject, AfterValidator(_message)]], Field(min_length=1)]
