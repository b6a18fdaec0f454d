"""POST /tokenize and POST /detokenize."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
from pydantic import Field

from headrace_api.schemas.base import JsonObject, OffValues, RequestModel
from headrace_api.schemas.chat import ReasoningEffort, TemplateKwargs
from headrace_api.schemas.conversation import Messages
from headrace_api.schemas.problems import Problem
from headrace_api.schemas.tools import Tools, tool_problems


class TokenizeRequest(RequestModel):
    """Either a ``prompt`` or ``messages``."""

    not_supported: ClassVar[Mapping[str, OffValues]] = {
        "media_io_kwargs": ({},),
        "mm_processor_kwargs": ({},),
    }

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: Annotated[bool | None, Field(description="Default: true for a prompt, false for messages.")] = (
        None
    )
    return_token_strs: bool | None = False
    add_generation_prompt: bool | None = True
    continue_final_message: bool | None = False
    documents: list[JsonObject] | None = None
    chat_template: str | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    reasoning_effort: ReasoningEffort | None = None
    tools: Tools | None = None

    def conflicts(self) -> list[Problem]:
        problems = []
        if (self.prompt is None) == (self.messages is None):
            problems.append(Problem("prompt", "send either prompt or messages"))
        if self.continue_final_message and self.opens_reply:
            problems.append(
                Problem(
                    "continue_final_message", "is not possible while add_generation_prompt is true; send it as false"
                )
            )
        return [*problems, *tool_problems(self.tools or [], None)]

    @property
    def opens_reply(self) -> bool:
        return self.add_generation_prompt is not False


class TokenizeAnswer(msgspec.Struct, frozen=True):
    """The token ids, and the context length that they are to fit into."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(RequestModel):
    """Body of POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class DetokenizeAnswer(msgspec.Struct, frozen=True):
    """The text."""

    prompt: str


class AddedToken(msgspec.Struct, frozen=True):
    """A token that is not made of others."""

    content: str
    special: bool


class TokenizerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of GET /tokenizer_info, by the names of a tokenizer_config.json; further special tokens by theirs."""

    tokenizer_class: str
    """Of the ``tokenizers`` library."""
    model_max_length: int
    vocab_size: int
    add_bos_token: bool | None
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    special_tokens: dict[str, str]
    """Those that chat templates may name, by the names that they use."""
    added_tokens_decoder: dict[int, AddedToken]
    chat_template: str | None
