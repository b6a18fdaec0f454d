"""AnswerReading: how the raw answers to one prompt are taken apart."""

from collections.abc import Callable
from dataclasses import dataclass

from headrace_api.directory import ServedModel
from headrace_api.operations.tool_use import ToolUse
from headrace_api.parse.message import MessageParser
from headrace_api.parse.reasoning import ReasoningParser
from headrace_api.prompt.build import Prompt
from headrace_api.schemas.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """One request's."""

    parser: Callable[[], MessageParser]
    """Makes the parser of one choice."""
    keeps_special_tokens: bool
    """Whether the worker has to write special tokens, for the parser to see its markers."""
    grammar_after: str | None
    """The text that a grammar waits for; None: it begins at once."""


def read_answers(body: ChatRequest, model: ServedModel, use: ToolUse, prompt: Prompt) -> AnswerReading:
    """Whether the model thinks first can depend on how its prompt ends."""
    kind = model.reasoning
    tail = prompt.tail(model.tokenizer)
    # What the client has the model continue is the beginning of the answer.
    said = _last_text(body) if body.continue_final_message else ""
    said = said if tail.endswith(said) else ""
    head = tail.removesuffix(said)
    skips = body.skip_special_tokens is not False
    keeps = skips and (use.keeps_special_tokens or (kind is not None and kind.keeps_special_tokens))
    dropped = model.special_tokens if keeps else None

    def reasoning() -> ReasoningParser | None:
        if kind is None:
            return None
        parser = kind.factory(head)
        if said:
            parser.feed(said)
        return parser

    def parser() -> MessageParser:
        tools = use.reader(tail) if use.reader else None
        return MessageParser(reasoning(), tools, dropped)

    begun = reasoning()
    return AnswerReading(
        parser=parser,
        keeps_special_tokens=keeps,
        grammar_after=kind.end if kind is not None and begun is not None and begun.thinking else None,
    )


def _last_text(body: ChatRequest) -> str:
    content = body.messages[-1].get("content")
    return content.strip() if isinstance(content, str) else ""
