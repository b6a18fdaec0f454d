"""A request's prompt as token ids; CPU work, meant for the tokenizer threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ParamSpec, Protocol, TypeVar

from headrace_api.prompt.content_format import ContentFormat
from headrace_api.prompt.messages import normalise, with_short_ids
from headrace_api.prompt.template import ChatTemplate
from headrace_api.prompt.variables import template_variables
from headrace_api.schemas.base import JsonObject
from headrace_api.schemas.completions import PromptItem
from headrace_shared.errors import InvalidRequestError
from headrace_shared.model_card import ModelCard
from headrace_shared.parse.tools.registry import CallIds, tool_parser
from headrace_shared.text.tokenizer import Tokenizer

P = ParamSpec("P")
R = TypeVar("R")

_TAIL_CHARS = 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads. ``text``: what the client wrote or the template made of it; None for token ids."""

    token_ids: list[int]
    text: str | None = None

    def tail(self, tokenizer: Tokenizer) -> str:
        """Its end, as far as it says in which part of an answer the model begins."""
        if self.text is not None:
            return self.text[-_TAIL_CHARS:]
        return tokenizer.decode(self.token_ids[-_TAIL_CHARS // 4 :], skip_special_tokens=False)


class Conversation(Protocol):
    """The part of a request that a chat template needs; chat and tokenize requests have it."""

    messages: Any
    continue_final_message: bool | None
    add_special_tokens: bool | None
    chat_template: str | None
    chat_template_kwargs: JsonObject | None
    documents: list[JsonObject] | None

    @property
    def reasoning_effort(self) -> str | None: ...
    @property
    def opens_reply(self) -> bool: ...


class TokenizerPool:
    """Runs prompt building in threads, so that a long prompt never holds up other requests' streams."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="tokenizer")

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of ``work``, from a thread that knows which request it works for; its exceptions come out here."""
        assert not kwargs  # noqa: S101 - run_in_executor takes none; the signature only carries the types
        return await asyncio.get_running_loop().run_in_executor(
            self._executor, partial(copy_context().run, work, *args)
        )

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


def chat_prompt(
    conversation: Conversation,
    card: ModelCard,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    tools: list[JsonObject] | None = None,
) -> Prompt:
    """Messages through the template into token ids; ``tools`` as templates know them. Raises InvalidRequestError."""
    template = _chosen_template(conversation, card, template)
    messages = normalise(
        conversation.messages, _content_format(card, template), knows_developer=template.knows_developer
    )
    if card.tool_parser is not None and tool_parser(card.tool_parser).call_ids is CallIds.NINE_ALPHANUMERICS:
        messages = with_short_ids(messages, 9)
    text = template.render(
        messages,
        tools=tools or None,
        documents=conversation.documents,
        add_generation_prompt=conversation.opens_reply,
        continue_final_message=bool(conversation.continue_final_message),
        template_kwargs=template_variables(conversation, card, template),
    )
    return Prompt(tokenizer.encode(text, add_special_tokens=bool(conversation.add_special_tokens)), text)


def completion_prompt(item: PromptItem, card: ModelCard, tokenizer: Tokenizer, *, add_special_tokens: bool) -> Prompt:
    """A text or ready token ids. Raises InvalidRequestError for an id outside the vocabulary."""
    if isinstance(item, str):
        return Prompt(tokenizer.encode(item, add_special_tokens=add_special_tokens), item)
    check_token_ids(item, card, "prompt")
    return Prompt(item)


def truncated(prompt: Prompt, most: int | None, side: str | None, card: ModelCard) -> Prompt:
    """Cut to ``most`` tokens: on the left, as chats and completions need it, unless ``side`` is right.

    -1: what leaves room for one token of an answer. Raises InvalidRequestError when it is more than the model takes.
    """
    if most is None:
        return prompt
    if most > card.max_model_len:
        raise InvalidRequestError(
            f"truncate_prompt_tokens: should be at most {card.max_model_len}, the model's context, got {most}.",
            param="truncate_prompt_tokens",
        )
    most = card.max_model_len - 1 if most == -1 else most
    if len(prompt.token_ids) <= most:
        return prompt
    return Prompt(prompt.token_ids[:most] if side == "right" else prompt.token_ids[-most:])


def check_token_ids(token_ids: list[int], card: ModelCard, param: str) -> None:
    """Raises InvalidRequestError when some id is not in the model's vocabulary."""
    largest = max(token_ids, default=0)
    if largest >= card.vocab_size or min(token_ids, default=0) < 0:
        raise InvalidRequestError(
            f"{param}: token ids of this model lie between 0 and {card.vocab_size - 1}, got {largest}, "
            "which is out of vocabulary.",
            param=param,
        )


def special_tokens(card: ModelCard) -> dict[str, str]:
    """The special-token strings of a model by the names that templates use."""
    named = {"bos_token": card.bos_token, "eos_token": card.eos_token, **card.special_tokens}
    return {name: token for name, token in named.items() if token is not None}


def _chosen_template(conversation: Conversation, card: ModelCard, template: ChatTemplate | None) -> ChatTemplate:
    if conversation.chat_template is not None:
        if not card.trust_request_chat_template:
            raise InvalidRequestError(
                "chat_template: this server takes no chat templates from requests.", param="chat_template"
            )
        return _compiled(conversation.chat_template, tuple(special_tokens(card).items()))
    if template is None:
        raise InvalidRequestError(
            f"The model {card.name!r} has no chat template, so it cannot take messages; "
            "start its worker with --chat-template, or use /v1/completions.",
            param="messages",
        )
    return template


@lru_cache(maxsize=64)
def _compiled(source: str, tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(tokens))


def _content_format(card: ModelCard, template: ChatTemplate) -> ContentFormat:
    match card.content_format:
        case "string":
            return "string"
        case "openai":
            return "openai"
        case _:
            return template.content_format
