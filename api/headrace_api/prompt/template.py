"""ChatTemplate: messages to prompt text with a model's Jinja template, as transformers would."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta

from headrace_api.prompt.content_format import ContentFormat, detect_content_format
from headrace_api.prompt.sandbox import build_environment
from headrace_shared.errors import InvalidRequestError

MAX_RENDERED_CHARS = 16 * 1024 * 1024

_REFUSED_VARIABLES = frozenset(
    {"chat_template", "tokenize", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
)
# A message's reasoning goes by three names; templates may read any.
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """One compiled template. Rendering is CPU work and safe in any thread."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """``special_tokens``: ``bos_token`` and its like, by the names templates use.

        Raises InvalidRequestError (param ``chat_template``) when the source is no valid Jinja.
        """
        environment = build_environment()
        try:
            syntax = environment.parse(source)
            self._template = environment.from_string(source)
        # Python compiles what Jinja wrote, and has limits of its own: nesting, numbers, null bytes, memory.
        except (jinja2.TemplateError, SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
            raise InvalidRequestError(f"the chat template is not valid: {error}", param="chat_template") from error
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._variables = meta.find_undeclared_variables(syntax)
        self.content_format: ContentFormat = detect_content_format(syntax)
        self.knows_developer = "developer" in source
        """False: messages of that role are better sent as ``system``."""

    def reads(self, variable: str) -> bool:
        """Whether the template looks at such a variable."""
        return variable in self._variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text. All values are plain JSON values; none is changed.

        ``template_kwargs``: further variables; those the template does not read are dropped.
        ``continue_final_message`` cuts the text right after the last message's content.
        Raises InvalidRequestError: the template refused the messages or failed on them, or an
        option cannot be honoured.
        """
        if not messages:
            raise InvalidRequestError("messages must not be empty", param="messages")
        variables = {**self._special_tokens, **self._read_variables(template_kwargs or {})}
        chat = [_prepared(message) for message in messages]
        variables |= {"messages": chat, "tools": tools, "documents": documents}
        if not continue_final_message:
            return self._run(variables, add_generation_prompt)
        if add_generation_prompt:
            raise InvalidRequestError(
                "continue_final_message and add_generation_prompt exclude each other", param="continue_final_message"
            )
        final_text = self._tag_final_message(chat)
        return _cut_at_tag(self._run(variables, add_generation_prompt), final_text)

    def _read_variables(self, template_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        refused = sorted(_REFUSED_VARIABLES & template_kwargs.keys())
        if refused:
            raise InvalidRequestError(
                f"chat_template_kwargs must not set {', '.join(refused)}", param="chat_template_kwargs"
            )
        return {name: value for name, value in template_kwargs.items() if name in self._variables}

    def _run(self, variables: Mapping[str, Any], add_generation_prompt: bool) -> str:
        try:
            return self._collect(variables, add_generation_prompt)
        except jinja2.TemplateError as error:
            raise InvalidRequestError(str(error.message or error), param="messages") from error
        # What a template does to values of an unexpected type fails in as many ways as Python has.
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
            MemoryError,
        ) as error:
            raise InvalidRequestError(
                f"the chat template failed on these messages: {type(error).__name__}: {error}", param="messages"
            ) from error

    def _collect(self, variables: Mapping[str, Any], add_generation_prompt: bool) -> str:
        pieces = []
        length = 0
        for piece in self._template.generate(variables, add_generation_prompt=add_generation_prompt):
            length += len(piece)
            if length > MAX_RENDERED_CHARS:
                raise InvalidRequestError(
                    f"the chat template wrote more than {MAX_RENDERED_CHARS} characters", param="messages"
                )
            pieces.append(piece)
        return "".join(pieces)

    def _tag_final_message(self, chat: list[dict[str, Any]]) -> str:
        """Mark the end of the last message's text and return that text."""
        content = chat[-1].get("content")
        if content is None or "content" not in self.source:
            raise InvalidRequestError(
                "continue_final_message needs a last message with content that the chat template shows",
                param="continue_final_message",
            )
        if isinstance(content, str):
            chat[-1]["content"] = content + _CONTINUE_TAG
            return content
        for part in reversed(content):
            if "text" in part:
                text: str = part["text"]
                part["text"] = text + _CONTINUE_TAG
                return text
        raise InvalidRequestError(
            "continue_final_message needs a last message with text to continue", param="continue_final_message"
        )


def _prepared(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without empty fields (templates test for a field's presence) and with the reasoning under each name."""
    prepared = {key: copy.deepcopy(value) for key, value in message.items() if value is not None}
    reasoning = next((prepared[key] for key in _REASONING_FIELDS if key in prepared), None)
    if reasoning is not None:
        prepared = {"thinking": reasoning, **prepared, "reasoning_content": reasoning}
    return prepared


def _cut_at_tag(rendered: str, final_text: str) -> str:
    tag = _CONTINUE_TAG.strip()
    if final_text.strip() not in rendered or tag not in rendered:
        raise InvalidRequestError(
            "the chat template does not show the last message as it is, so it cannot be continued",
            param="continue_final_message",
        )
    end = rendered.rindex(tag)
    before = rendered[:end]
    # A template that trims the message took the tag's space, so the text's own end was to be trimmed as well.
    return before if rendered.startswith(_CONTINUE_TAG, end) else before.rstrip()
