"""A conversation in Anthropic's form as the body of a chat request."""

import json
from collections.abc import Sequence
from typing import Any

from headrace_api.schemas.anthropic import (
    ClientTool,
    Conversation,
    MessagesRequest,
    TextPart,
    Thinking,
    ThinkingPart,
    ToolChoice,
    ToolResultPart,
    ToolUsePart,
    Turn,
)
from headrace_api.schemas.base import JsonObject
from headrace_shared.errors import InvalidRequestError

CHAT_NAMES = {
    "max_completion_tokens": "max_tokens",
    "prompt": "messages",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "thinking_token_budget": "thinking.budget_tokens",
    ".function.parameters": ".input_schema",
    ".function.": ".",
}
"""What the fields of the chat are called here."""
_ERROR_MARK = "Error: "
"""Chat templates have no other way to tell a failed tool's words from a result."""
_SAYS = {
    "user": (TextPart, ToolResultPart),
    "assistant": (TextPart, ThinkingPart, ToolUsePart),
    "system": (TextPart,),
}


def chat_body(body: Conversation) -> JsonObject:
    """Null fields stand for what was not asked for. Raises InvalidRequestError."""
    messages = [] if not body.system else [{"role": "system", "content": _text(body.system)}]
    for index, turn in enumerate(body.messages):
        messages += _messages(turn, f"messages[{index}]")
    # A last word of the assistant's is the beginning of the answer.
    begun = body.messages[-1].role == "assistant"
    asked: JsonObject = {
        "model": body.model,
        "messages": messages,
        "add_generation_prompt": not begun,
        "continue_final_message": begun,
        **_tools(body.tools, body.tool_choice),
        **_thinking(body.thinking),
    }
    if body.output_config is not None:
        asked["reasoning_effort"] = body.output_config.effort
        if body.output_config.format is not None:
            schema = {"name": "output", "schema": body.output_config.format.schema_, "strict": True}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    if isinstance(body, MessagesRequest):
        asked |= {
            "max_completion_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
        }
    return asked


def _messages(turn: Turn, param: str) -> list[JsonObject]:
    """Results of tools are messages of their own, before what the user says to them."""
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    for index, part in enumerate(turn.content):
        if not isinstance(part, _SAYS[turn.role]):
            raise InvalidRequestError(
                f"{param}.content[{index}]: a message of the role {turn.role} may not hold a block of type {part.type}.",
                param=f"{param}.content[{index}]",
            )
    results = [_result(part) for part in turn.content if isinstance(part, ToolResultPart)]
    texts = [part for part in turn.content if isinstance(part, TextPart)]
    calls = [_call(part) for part in turn.content if isinstance(part, ToolUsePart)]
    thoughts = [part.thinking for part in turn.content if isinstance(part, ThinkingPart)]
    said: JsonObject = {"role": turn.role, "content": _text(texts) if texts else None}
    if calls:
        said["tool_calls"] = calls
    if thoughts:
        said["reasoning_content"] = "\n".join(thoughts)
    if results and not texts:
        return results
    return [*results, {**said, "content": said["content"] or ""} if not calls else said]


def _text(content: str | Sequence[TextPart]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _result(part: ToolResultPart) -> JsonObject:
    mark = _ERROR_MARK if part.is_error else ""
    return {"role": "tool", "tool_call_id": part.tool_use_id, "content": mark + _text(part.content or "")}


def _call(part: ToolUsePart) -> JsonObject:
    function = {"name": part.name, "arguments": json.dumps(part.input, ensure_ascii=False)}
    return {"id": part.id, "type": "function", "function": function}


def _tools(tools: Sequence[ClientTool] | None, choice: ToolChoice | None) -> JsonObject:
    if not tools:
        return {}
    asked: JsonObject = {"tools": [{"type": "function", "function": _function(tool)} for tool in tools]}
    if choice is None:
        return asked | {"tool_choice": "auto"}
    named: dict[str, Any] = {"type": "function", "function": {"name": choice.name}}
    choices: dict[str, Any] = {"auto": "auto", "any": "required", "tool": named, "none": "none"}
    asked["tool_choice"] = choices[choice.type]
    if choice.disable_parallel_tool_use:
        asked["parallel_tool_calls"] = False
    return asked


def _function(tool: ClientTool) -> JsonObject:
    function: JsonObject = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


def _thinking(thinking: Thinking | None) -> JsonObject:
    """Templates name the switch one way or the other; those that do not read it are not told."""
    if thinking is None or thinking.type == "adaptive":
        return {}
    enabled = thinking.type == "enabled"
    asked: JsonObject = {"chat_template_kwargs": {"enable_thinking": enabled, "thinking": enabled}}
    # A model that thinks nevertheless does so for itself.
    return asked | ({"thinking_token_budget": thinking.budget_tokens} if enabled else {"include_reasoning": False})
