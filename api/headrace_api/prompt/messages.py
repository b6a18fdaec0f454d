"""Chat messages in the one form that templates are written for."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headrace_api.prompt.content_format import ContentFormat
from headrace_shared.errors import InvalidRequestError

_TEXT_KEY = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_MEDIA_TYPES = frozenset(
    {
        "image",
        "image_url",
        "input_image",
        "image_embeds",
        "audio",
        "audio_url",
        "input_audio",
        "video",
        "video_url",
        "file",
    }
)


def normalise(
    messages: Sequence[Mapping[str, Any]], content_format: ContentFormat, *, knows_developer: bool = False
) -> list[dict[str, Any]]:
    """Copies of the messages as a template expects them; the given ones stay untouched.

    Content becomes a string (parts joined by a newline) or a list of text parts, after
    ``content_format``; missing content, as beside tool calls, becomes an empty one, which every template can show. Arguments of tool calls become objects;
    what is not a JSON object stays a string, for models do produce that and must see it again.
    The role ``developer`` becomes ``system`` unless the template knows it. Reasoning gets both names that it goes by.

    Raises InvalidRequestError, naming the part, for a part that is not text.
    """
    return [
        _normalise_message(message, f"messages[{index}]", content_format, knows_developer)
        for index, message in enumerate(messages)
    ]


def _normalise_message(
    message: Mapping[str, Any], param: str, content_format: ContentFormat, knows_developer: bool
) -> dict[str, Any]:
    normal = dict(message)
    normal["content"] = _normalise_content(message.get("content"), f"{param}.content", content_format)
    if message.get("role") == "developer" and not knows_developer:
        normal["role"] = "system"
    if message.get("tool_calls"):
        normal["tool_calls"] = [_with_parsed_arguments(call) for call in message["tool_calls"]]
    else:
        # Templates ask whether there are calls by whether there is the field.
        normal.pop("tool_calls", None)
    reasoning = next((message[name] for name in ("reasoning", "reasoning_content") if message.get(name)), None)
    if reasoning is not None:
        normal |= {"reasoning": reasoning, "reasoning_content": reasoning}
    return normal


def _normalise_content(content: Any, param: str, content_format: ContentFormat) -> str | list[dict[str, str]]:
    if content is None:
        texts = []
    elif isinstance(content, str):
        texts = [content]
    elif isinstance(content, list):
        texts = [_text_of(part, f"{param}[{index}]") for index, part in enumerate(content)]
    else:
        raise InvalidRequestError("a message's content must be a string or a list of parts", param=param)
    if content_format == "openai":
        return [{"type": "text", "text": text} for text in texts]
    return "\n".join(texts)


def _text_of(part: Any, param: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise InvalidRequestError("a content part must be an object with a type", param=param)
    kind = str(part.get("type"))
    if kind in _MEDIA_TYPES:
        raise InvalidRequestError(f"{param}: this model takes text only, not a part of type {kind!r}", param=param)
    key = _TEXT_KEY.get(kind)
    if key is None:
        raise InvalidRequestError(f"unknown type of content part: {part.get('type')!r}", param=param)
    text = part.get(key)
    if not isinstance(text, str):
        raise InvalidRequestError(f"a part of type {kind!r} needs a string {key!r}", param=param)
    return text


def with_short_ids(messages: Sequence[Mapping[str, Any]], size: int) -> list[dict[str, Any]]:
    """The messages with ids of calls cut to their last ``size`` letters and digits, for templates that refuse others."""

    def short(call_id: Any) -> Any:
        return "".join(filter(str.isalnum, call_id))[-size:].rjust(size, "0") if isinstance(call_id, str) else call_id

    shortened = []
    for message in messages:
        copy = dict(message)
        if "tool_call_id" in copy:
            copy["tool_call_id"] = short(copy["tool_call_id"])
        if copy.get("tool_calls"):
            copy["tool_calls"] = [{**call, "id": short(call.get("id"))} for call in copy["tool_calls"]]
        shortened.append(copy)
    return shortened


def _with_parsed_arguments(call: Any) -> Any:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return call
    function = dict(call["function"])
    function["arguments"] = _parsed(function.get("arguments"))
    return {**call, "function": function}


def _parsed(arguments: Any) -> Any:
    if arguments is None or arguments == "":
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
