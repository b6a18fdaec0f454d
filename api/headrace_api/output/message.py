"""MessageReader: the events of one choice into what they add to its message; the same streamed and collected."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace_api.output.call_ids import CallIdMinter
from headrace_api.schemas.tools import CalledFunction, CalledFunctionDelta, ToolCall, ToolCallDelta
from headrace_shared.parse.message import MessageParser, MessagePiece
from headrace_shared.parse.reasoning import Reasoning
from headrace_shared.parse.tools.parser import CallArguments, CallStart, Content
from headrace_shared.protocol.event import Delta, FinishReason, TokenLogprob

TOOL_CALLS = "tool_calls"
"""The finish reason of a choice that ended with calls."""


@dataclass(frozen=True, slots=True)
class MessageForm:
    """What the messages of an answer are made of, and what of it the client gets to see."""

    parser: Callable[[], MessageParser] = MessageParser
    """Makes the parser of one choice."""
    call_ids: CallIdMinter = field(default_factory=CallIdMinter)
    thinks: bool = False
    """Whether the model is known to think."""
    shows_reasoning: bool = True
    named: bool = False
    """Whether the client has said which function to call: then a call is no finish reason, and the text is empty."""


@dataclass(slots=True)
class MessagePart:
    """What one event adds."""

    reasoning: str = ""
    content: str = ""
    calls: list[ToolCallDelta] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    """The tokens that may be seen: all, unless they are of thoughts that the client does not want."""
    entries: list[TokenLogprob] = field(default_factory=list)
    """Their log-probabilities."""
    finish_reason: str | None = None

    @property
    def shows(self) -> bool:
        return bool(self.reasoning or self.content or self.calls)


class MessageReader:
    """Reads one choice, an event at a time."""

    def __init__(self, form: MessageForm, choice: int) -> None:
        self._form = form
        self._choice = choice
        self._parser = form.parser()
        self._calls = 0
        self._begun = False
        """It is known what the first tokens are."""
        self._unknown: list[Delta] = []
        """Those until then: a marker, or what begins like one."""
        self.reasoning_tokens = 0
        """Of the events so far."""

    def feed(self, event: Delta) -> MessagePart:
        """What the event adds; with its finish reason all that was held back."""
        before = self._parser.thinking
        pieces = self._parser.feed(event.text)
        thinking = before or self._parser.thinking or any(isinstance(piece, Reasoning) for piece in pieces)
        ended = event.finish_reason is not None
        if ended:
            pieces += self._parser.finish()
        part = self._part(pieces)
        self._begun = self._begun or thinking or ended or bool(pieces)
        self._add_tokens(part, event, thinking=thinking)
        if event.finish_reason is not None:
            part.finish_reason = self._finish_reason(event.finish_reason)
        return part

    def finish(self) -> MessagePart:
        """For a choice that no event has ended: what was held back."""
        part = self._part(self._parser.finish())
        part.finish_reason = FinishReason.LENGTH
        return part

    def _add_tokens(self, part: MessagePart, event: Delta, *, thinking: bool) -> None:
        """Tokens of which it is not known what they are wait, unless all are seen anyway, until it is."""
        events = [*self._unknown, event]
        self._unknown = [] if self._begun else events
        if thinking:
            self.reasoning_tokens += sum(len(each.token_ids) for each in events)
        if self._form.shows_reasoning or not self._form.thinks:
            events = [event]
        elif thinking or not self._begun:
            return
        for each in events:
            part.token_ids += each.token_ids
            part.entries += each.logprobs or ()

    def _finish_reason(self, reason: FinishReason) -> str:
        if reason is FinishReason.STOP and self._calls and not self._form.named:
            return TOOL_CALLS
        return reason

    def _part(self, pieces: Sequence[MessagePiece]) -> MessagePart:
        part = MessagePart()
        for piece in pieces:
            match piece:
                case Reasoning(text):
                    part.reasoning += text if self._form.shows_reasoning else ""
                case Content(text):
                    part.content += text
                case CallStart() | CallArguments():
                    self._add_call(part, piece)
        return part

    def _add_call(self, part: MessagePart, piece: CallStart | CallArguments) -> None:
        if isinstance(piece, CallStart):
            self._calls += 1
            call_id = self._form.call_ids.mint(self._choice, piece.index, piece.name)
            function = CalledFunctionDelta(name=piece.name, arguments="")
            part.calls.append(ToolCallDelta(index=piece.index, id=call_id, type="function", function=function))
        elif part.calls and part.calls[-1].index == piece.index:
            part.calls[-1] = _longer(part.calls[-1], piece.text)
        else:
            function = CalledFunctionDelta(arguments=piece.text)
            part.calls.append(ToolCallDelta(index=piece.index, function=function))


class Message:
    """The parts of one choice put together."""

    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: dict[int, ToolCallDelta] = {}

    def add(self, part: MessagePart) -> None:
        self._reasoning.append(part.reasoning)
        self._content.append(part.content)
        for call in part.calls:
            begun = self._calls.get(call.index)
            self._calls[call.index] = call if begun is None else _longer(begun, call.function.arguments or "")

    @property
    def reasoning(self) -> str | None:
        return "".join(self._reasoning) or None

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def calls(self) -> list[ToolCall]:
        return [
            ToolCall(
                id=str(call.id), function=CalledFunction(str(call.function.name), str(call.function.arguments or ""))
            )
            for call in self._calls.values()
        ]


def _longer(call: ToolCallDelta, more: str) -> ToolCallDelta:
    function = CalledFunctionDelta(name=call.function.name, arguments=(call.function.arguments or "") + more)
    return ToolCallDelta(index=call.index, id=call.id, type=call.type, function=function)
