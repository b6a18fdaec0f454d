"""AnswerReading: how the raw answers to one prompt are taken apart."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from headrace_api.directory import ServedModel
from headrace_api.operations.tool_use import ToolUse
from headrace_api.prompt.build import Prompt
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.problems import Problem, refuse
from headrace_shared.parse.message import MessageParser
from headrace_shared.parse.reasoning import ReasoningKind, ReasoningParser
from headrace_shared.protocol.grammar import GrammarSpec
from headrace_shared.protocol.sampling import ThinkingSpec


@dataclass(frozen=True, slots=True)
class GrammarWaits:
    """What a grammar waits for, as in ``GrammarSpec``."""

    after: str | None = None
    also_after: tuple[str, ...] = ()
    unless_begun: tuple[str, ...] = ()

    def apply(self, grammar: GrammarSpec) -> GrammarSpec:
        return msgspec.structs.replace(
            grammar, after=self.after, also_after=self.also_after, unless_begun=self.unless_begun
        )


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """One request's."""

    parser: Callable[[], MessageParser]
    """Makes the parser of one choice."""
    keeps_special_tokens: bool
    """Whether the worker has to write special tokens, for the parser to see its markers."""
    waits: GrammarWaits
    thinking: ThinkingSpec | None
    """None: the model may think as long as it likes."""


def read_answers(body: ChatRequest, model: ServedModel, use: ToolUse, prompt: Prompt) -> AnswerReading:
    """Whether the model thinks first can depend on how its prompt ends. Raises InvalidRequestError."""
    kind = model.reasoning
    tail = prompt.tail(model.tokenizer) if kind is not None or use.reader is not None else ""
    thoughts = _Thoughts.of(kind, body, tail) if kind is not None else None
    skips = body.skip_special_tokens is not False
    keeps = skips and (use.keeps_special_tokens or (kind is not None and kind.keeps_special_tokens))

    def parser() -> MessageParser:
        return MessageParser(
            thoughts.parser() if thoughts is not None else None,
            use.reader(tail) if use.reader is not None else None,
            model.special_tokens if keeps else None,
            use.most_calls,
        )

    return AnswerReading(
        parser=parser,
        keeps_special_tokens=keeps,
        waits=thoughts.before_grammar(use) if thoughts is not None else GrammarWaits(),
        thinking=_thinking(body, model, thoughts),
    )


@dataclass(frozen=True, slots=True)
class _Thoughts:
    """How answers to one prompt begin."""

    kind: ReasoningKind
    head: str
    """The end of the prompt, without what the client has the model continue."""
    said: str
    """That, which is the beginning of the answer."""
    opened: bool
    """The model is thinking, or always begins so."""
    over: bool
    """The prompt has ended the thinking."""

    @classmethod
    def of(cls, kind: ReasoningKind, body: ChatRequest, tail: str) -> "_Thoughts":
        said = _last_text(body) if body.continue_final_message else ""
        head = tail.rstrip().removesuffix(said) if said else tail
        said = tail[len(head) :] if said and len(head) < len(tail.rstrip()) else ""
        opened = _parser(kind, head, said).thinking
        closed = head.rstrip().endswith(kind.ends)
        return cls(kind, head, said, opened=opened, over=not opened and (closed or bool(said)))

    def parser(self) -> ReasoningParser:
        return _parser(self.kind, self.head, self.said)

    def before_grammar(self, use: ToolUse) -> GrammarWaits:
        kind = self.kind
        if self.over:
            return GrammarWaits()
        if kind.answer_after is not None and not use.holds_calls:
            return GrammarWaits(kind.answer_after)
        return GrammarWaits(kind.ends[0], kind.ends[1:], () if self.opened else kind.starts)


def _parser(kind: ReasoningKind, head: str, said: str) -> ReasoningParser:
    parser = kind.factory(head)
    parser.feed(said)
    return parser


def _thinking(body: ChatRequest, model: ServedModel, thoughts: _Thoughts | None) -> ThinkingSpec | None:
    budget = body.thinking_token_budget
    if budget is None or budget == -1:
        return None
    if thoughts is None:
        raise refuse(
            [
                Problem(
                    "thinking_token_budget", f"is not possible: {model.card.name!r} is not known to think; leave it out"
                )
            ]
        )
    kind = thoughts.kind
    if thoughts.over:
        return None
    return ThinkingSpec(
        budget_tokens=budget,
        end_ids=tuple(model.tokenizer.encode(kind.ends[0], add_special_tokens=False)),
        ends=(*kind.ends, *kind.ended_by),
        starts=kind.starts,
        opened=thoughts.opened,
    )


def _last_text(body: ChatRequest) -> str:
    content = body.messages[-1].get("content")
    return content.strip() if isinstance(content, str) else ""
