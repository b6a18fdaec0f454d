"""BlockReader: an answer as a row of blocks, each of them text, thoughts or one call of a tool.

The APIs that tell answers as blocks name them and their parts differently; how an answer falls into them is said here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from headrace_api.output.message import MessageForm
from headrace_shared.parse.message import MessagePiece
from headrace_shared.parse.reasoning.parser import Reasoning
from headrace_shared.parse.tools.parser import CallArguments, CallStart, Content
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, TokenLogprob


class BlockKind(StrEnum):
    """What a block is."""

    TEXT = "text"
    THOUGHTS = "thoughts"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Opened:
    """A block begins; the one before is closed. ``index`` counts an answer's blocks from 0."""

    index: int
    kind: BlockKind
    name: str = ""
    """The tool's, of a call."""
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Grew:
    """More of the block that is open."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens since the text before."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing more of the open block will come; ``whole``: all of it."""

    block: Opened
    whole: str
    logprobs: tuple[TokenLogprob, ...] = ()
    complete: bool = True
    """False: the answer was cut within it."""


Step = Opened | Grew | Closed


class BlockReader:
    """Reads one choice. An answer without anything is one empty block of text."""

    def __init__(self, form: MessageForm) -> None:
        self.completion_tokens = 0
        self.thought_tokens = 0
        self.cached_tokens = 0
        self.calls = 0
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self._form = form
        self._parser = form.parser()
        self._open: Opened | None = None
        self._texts: list[str] = []
        self._entries: list[TokenLogprob] = []
        self._waiting: list[TokenLogprob] = []
        self._begun = False
        self._unknown_tokens = 0
        self._blocks = 0
        self._flushed = False

    def feed(self, events: Sequence[Event]) -> Iterator[Step]:
        """What ``events`` add, in order."""
        for event in events:
            if isinstance(event, Delta):
                yield from self._delta(event)
            elif isinstance(event, Finished):
                self.cached_tokens = event.cached_tokens

    def finish(self) -> Iterator[Step]:
        """Closes what no event has closed. To be called once."""
        yield from self._flush()
        if self._blocks == 0:
            yield self._opened(BlockKind.TEXT)
            yield from self._close(complete=self.complete)

    def break_off(self) -> Iterator[Step]:
        """The same for an answer that ends without an end."""
        self.finish_reason = None
        yield from self._flush()

    @property
    def complete(self) -> bool:
        """Whether the answer has come to an end of its own."""
        return self.finish_reason not in (FinishReason.LENGTH, None)

    def _delta(self, event: Delta) -> Iterator[Step]:
        thinking = self._parser.thinking
        pieces = self._parser.feed(event.text)
        thinking = thinking or self._parser.thinking or any(isinstance(piece, Reasoning) for piece in pieces)
        self._count(len(event.token_ids), thinking=thinking)
        self._begun = self._begun or thinking or bool(pieces)
        self._waiting += event.logprobs or ()
        if thinking and not self._form.shows_reasoning:
            self._waiting = []
        yield from self._steps(pieces)
        if event.finish_reason is not None:
            self.finish_reason, self.stop_reason = event.finish_reason, event.stop_reason
            yield from self._flush()

    def _count(self, tokens: int, *, thinking: bool) -> None:
        """What comes before it is known what it is, a marker for instance, counts as what it turns out to be."""
        self.completion_tokens += tokens
        if thinking:
            self.thought_tokens += tokens + self._unknown_tokens
        self._unknown_tokens = 0 if self._begun or thinking else self._unknown_tokens + tokens

    def _flush(self) -> Iterator[Step]:
        if not self._flushed:
            self._flushed = True
            yield from self._steps(self._parser.finish())
            yield from self._close(complete=self.complete)

    def _steps(self, pieces: Iterable[MessagePiece]) -> Iterator[Step]:
        for piece in pieces:
            match piece:
                case CallStart(index, name):
                    yield from self._close()
                    self.calls += 1
                    yield self._opened(BlockKind.CALL, name, self._form.call_ids.mint(0, index, name))
                case CallArguments(_, text):
                    yield self._grown(text)
                case Content(text):
                    yield from self._said(BlockKind.TEXT, text)
                case Reasoning(text):
                    if self._form.shows_reasoning:
                        yield from self._said(BlockKind.THOUGHTS, text)

    def _said(self, kind: BlockKind, text: str) -> Iterator[Step]:
        if self._open is None or self._open.kind is not kind:
            yield from self._close()
            yield self._opened(kind)
        yield self._grown(text)

    def _opened(self, kind: BlockKind, name: str = "", call_id: str = "") -> Opened:
        self._open = Opened(self._blocks, kind, name, call_id)
        self._blocks += 1
        return self._open

    def _grown(self, text: str) -> Grew:
        entries, self._waiting = self._waiting, []
        self._texts.append(text)
        self._entries += entries
        return Grew(text, tuple(entries))

    def _close(self, *, complete: bool = True) -> Iterator[Step]:
        if self._open is not None:
            yield Closed(self._open, "".join(self._texts), tuple(self._entries), complete)
        self._open, self._texts, self._entries = None, [], []
