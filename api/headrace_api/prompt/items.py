"""A conversation of items, as /v1/responses has them, as the body of a chat request."""

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace_api.schemas.base import JsonObject
from headrace_api.schemas.response_items import (
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    InputText,
    Item,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
    SentCall,
    SentCallOutput,
    SentItem,
    SentMessage,
    SentPart,
    SentReasoning,
    SentText,
)
from headrace_api.schemas.responses import AllowedFunctions, ChosenFunction, ResponsesRequest, ResponseTool

CHAT_NAMES = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "prompt": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    ".function.": ".",
    ".allowed_tools.": ".",
}
"""What the fields of the chat are called here."""
_AS_IT_IS = (
    "model", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "seed", "logit_bias", "stop", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
    "chat_template_kwargs", "cache_salt", "parallel_tool_calls",
)  # fmt: skip


def items_of(sent: str | Sequence[SentItem], request_id: str) -> list[Item]:
    """What a client sends, in the form that is kept and shown; ids are made of the request's."""
    if isinstance(sent, str):
        return [InputMessage(id=f"msg_{request_id}_in0", role="user", content=[InputText(sent)])] if sent else []
    return [_item(item, f"{request_id}_in{index}") for index, item in enumerate(sent)]


def _item(item: SentItem, name: str) -> Item:
    match item:
        case SentMessage(role="assistant"):
            return OutputMessage(id=f"msg_{name}", status="completed", content=[OutputText(_text(item.content))])
        case SentMessage():
            return InputMessage(id=f"msg_{name}", role=item.role, content=[InputText(_text(item.content))])
        case SentCall():
            return FunctionCall(
                id=f"fc_{name}", call_id=item.call_id, name=item.name, arguments=item.arguments, status="completed"
            )
        case SentCallOutput():
            return FunctionCallOutput(id=f"fco_{name}", call_id=item.call_id, output=_text(item.output))
        case SentReasoning():
            thoughts = item.content or item.summary
            content = [ReasoningText(thought.text) for thought in thoughts]
            return ReasoningItem(id=f"rs_{name}", content=content, status="completed")


def _text(content: str | Sequence[SentPart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, SentText) else part.refusal for part in content)


def chat_messages(instructions: str | None, items: Sequence[JsonObject]) -> list[JsonObject]:
    """The messages that ``items``, as JSON, come to. A turn's thoughts, words and calls become one message."""
    messages: list[JsonObject] = [] if not instructions else [{"role": "system", "content": instructions}]
    turn: JsonObject | None = None
    for item in items:
        kind = item["type"]
        if kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
            turn = None
        elif kind == "message" and item["role"] != "assistant":
            messages.append({"role": item["role"], "content": _joined(item)})
            turn = None
        else:
            if turn is None or _begins_anew(kind, turn):
                turn = {"role": "assistant", "content": None}
                messages.append(turn)
            _add(item, turn)
    return messages


def _begins_anew(kind: str, turn: JsonObject) -> bool:
    """Thoughts come before words and words before calls."""
    said, called = turn["content"] is not None, "tool_calls" in turn
    return called if kind == "message" else (said or called) if kind == "reasoning" else False


def _add(item: JsonObject, turn: JsonObject) -> None:
    match item["type"]:
        case "reasoning":
            turn["reasoning_content"] = turn.get("reasoning_content", "") + _joined(item)
        case "message":
            turn["content"] = (turn["content"] or "") + _joined(item)
        case _:
            function = {"name": item["name"], "arguments": item["arguments"]}
            turn.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": function})


def _joined(item: JsonObject) -> str:
    return "\n".join(part["text"] for part in item["content"])


def chat_body(body: ResponsesRequest, items: Sequence[JsonObject]) -> JsonObject:
    """Null fields stand for what was not asked for."""
    asked: JsonObject = {name: getattr(body, name) for name in _AS_IT_IS}
    asked["messages"] = chat_messages(body.instructions, items)
    asked["max_completion_tokens"] = body.max_output_tokens
    asked |= _tools(body.tools or [], body.tool_choice)
    if body.include:
        asked |= {"logprobs": True, "top_logprobs": body.top_logprobs}
    if body.reasoning is not None:
        asked["reasoning_effort"] = body.reasoning.effort
    if body.text is not None and body.text.format is not None:
        asked["response_format"] = _format(body)
    if body.structured_outputs is not None:
        asked["structured_outputs"] = body.structured_outputs.model_dump(by_alias=True, exclude_none=True)
    return asked


def without_oldest(messages: list[JsonObject], turns: int) -> list[JsonObject]:
    """Leaves out so many turns, each from what a user says to what is answered, but no instructions."""
    starts = turn_starts(messages)
    kept = [message for message in messages[: starts[0]] if message["role"] in ("system", "developer")]
    return [*kept, *messages[starts[turns] :]]


def turn_starts(messages: Sequence[JsonObject]) -> list[int]:
    """Where turns begin; at least one place."""
    return [place for place, message in enumerate(messages) if message["role"] == "user"] or [0]


def _format(body: ResponsesRequest) -> JsonObject | None:
    asked = body.text.format if body.text else None
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return {"type": "json_object"}
    schema = {"name": asked.name, "schema": asked.schema_, "strict": asked.strict, "description": asked.description}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def _tools(tools: Sequence[ResponseTool], choice: str | ChosenFunction | AllowedFunctions | None) -> JsonObject:
    if not tools:
        return {}
    chosen: Any = choice or "auto"
    if isinstance(choice, ChosenFunction):
        chosen = _named(choice)
    elif isinstance(choice, AllowedFunctions):
        allowed = {"mode": choice.mode, "tools": [_named(each) for each in choice.tools]}
        chosen = {"type": "allowed_tools", "allowed_tools": allowed}
    functions = [tool.model_dump(exclude={"type"}, exclude_none=True) for tool in tools]
    return {"tools": [{"type": "function", "function": each} for each in functions], "tool_choice": chosen}


def _named(choice: ChosenFunction) -> JsonObject:
    return {"type": "function", "function": {"name": choice.name}}


def as_json(items: Sequence[Item]) -> list[JsonObject]:
    """As they are kept."""
    builtins: list[JsonObject] = msgspec.to_builtins(items)
    return builtins
