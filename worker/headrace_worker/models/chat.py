"""render_chat: a conversation's prompt, by a chat template and transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> str:
    """Contents may be texts or lists of parts of the type ``text``, which are joined by line feeds.

    Raises ValueError for another part, and for what the template refuses.
    """
    if not messages:
        raise ValueError("messages must not be empty")
    conversation = [{**message, "content": _text(message.get("content"))} for message in messages]
    try:
        rendered, _ = render_jinja_template(
            [conversation],
            tools=list(tools) if tools else None,
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **variables,
        )
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template refuses the messages: {error}") from error
    text: str = rendered[0]
    return text


def _text(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise ValueError("only parts of the type text can be answered")
    return "\n".join(part["text"] for part in content)
