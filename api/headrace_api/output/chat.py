"""Events to a chat answer: as chunks while they come, or collected into one body."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType

from headrace_api.output.data_stream import DataStream
from headrace_api.output.envelope import Envelope
from headrace_api.output.event_ids import EventIds
from headrace_api.output.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from headrace_api.output.message import Message, MessageForm, MessagePart, MessageReader
from headrace_api.output.timings import Timings
from headrace_api.schemas.base import PromptLogprobs, Usage
from headrace_api.schemas.chat import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
)
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, PromptScored, TokenLogprob
from headrace_shared.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatShape:
    """How the client wants its answer."""

    envelope: Envelope
    tokenizer: Tokenizer
    role: str
    choices: int
    prompt_token_ids: list[int]
    form: MessageForm = field(default_factory=MessageForm)
    echo: str = ""
    """Put before every choice's text."""
    top_logprobs: int | None = None
    """None: no logprobs."""
    tokens_as_ids: bool = False
    return_token_ids: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    prompt_details: bool = False
    """Whether the usage tells of cached tokens."""
    timings: bool = False
    """Whether the request's timings are told."""

    def logprobs(self, entries: Sequence[TokenLogprob] | None) -> ChatLogprobs | None:
        if self.top_logprobs is None or not entries:
            return None
        return chat_logprobs(entries, TokenNames(self.tokenizer, as_ids=self.tokens_as_ids), self.top_logprobs)

    def readers(self) -> list[MessageReader]:
        """One for each choice."""
        return [MessageReader(self.form, choice) for choice in range(self.choices)]

    def usage(self, completion_tokens: int, cached_tokens: int | None, readers: Sequence[MessageReader]) -> Usage:
        reasoning = sum(reader.reasoning_tokens for reader in readers) if self.form.thinks else None
        return Usage.of(len(self.prompt_token_ids), completion_tokens, cached_tokens, reasoning)


class ChatStream(DataStream):
    """Renders one answer's chunks. ``feed`` takes events in order, ``finish`` gives what ends the stream.

    The chunks depend on the events alone, not on how many come at once: told again they are the same.
    """

    def __init__(self, shape: ChatShape, ids: EventIds) -> None:
        super().__init__(ids)
        self._shape = shape
        self._timings = Timings(wanted=shape.timings)
        self._opened = False
        self._readers = shape.readers()
        self._completion_tokens = 0
        self._cached_tokens: int | None = None
        self._open_choices = set(range(shape.choices))

    def feed(self, _prompt: int, events: Sequence[Event]) -> bytes:
        """The frames for ``events``; b"" when there is nothing to show. A chat has only prompt 0."""
        frames: list[bytes] = []
        self._timings.feed(events)
        for event in events:
            if isinstance(event, Delta):
                if not self._opened:
                    self._opened = True
                    frames += self._opening()
                frames += self._delta(event)
            elif isinstance(event, Finished) and self._shape.prompt_details:
                self._cached_tokens = event.cached_tokens
        return b"".join(frames)

    def finish(self) -> bytes:
        """Ends choices that no event has ended, tells the usage if it was asked for, and says DONE."""
        frames = [] if self._opened else self._opening()
        for index in sorted(self._open_choices):
            delta = _told(self._readers[index].finish())
            frames.append(self._chunk(ChatChunkChoice(index, delta, None, FinishReason.LENGTH, None)))
        if self._shape.include_usage:
            frames.append(self._chunk(None))
        return b"".join([*frames, self._ids.done()])

    def _opening(self) -> list[bytes]:
        shape = self._shape
        ids = shape.prompt_token_ids if shape.return_token_ids else UNSET
        frames = [
            self._chunk(ChatChunkChoice(index, ChatDelta(role=shape.role, content="")), prompt_token_ids=ids)
            for index in range(shape.choices)
        ]
        if shape.echo:
            frames += [
                self._chunk(ChatChunkChoice(index, ChatDelta(content=shape.echo))) for index in range(shape.choices)
            ]
        return frames

    def _delta(self, event: Delta) -> list[bytes]:
        self._completion_tokens += len(event.token_ids)
        ended = event.finish_reason is not None
        part = self._readers[event.choice].feed(event)
        logprobs = self._shape.logprobs(part.entries)
        token_ids = part.token_ids if self._shape.return_token_ids else UNSET
        if not (part.shows or ended or logprobs or token_ids):
            return []
        if ended:
            self._open_choices.discard(event.choice)
        choice = ChatChunkChoice(
            event.choice,
            _told(part),
            logprobs,
            part.finish_reason,
            event.stop_reason if ended else UNSET,
            token_ids,
        )
        return [self._chunk(choice)]

    def _chunk(self, choice: ChatChunkChoice | None, *, prompt_token_ids: list[int] | UnsetType = UNSET) -> bytes:
        """One choice's event; None: the usage event."""
        envelope = self._shape.envelope
        return self._ids.frame(
            0,
            ChatChunk(
                id=envelope.id,
                created=envelope.created,
                model=envelope.model,
                system_fingerprint=envelope.system_fingerprint,
                service_tier=envelope.service_tier,
                choices=[] if choice is None else [choice],
                usage=self._usage() if choice is None or self._shape.continuous_usage else self._no_usage,
                metrics=self._timings.metrics if choice is None else UNSET,
                prompt_token_ids=prompt_token_ids,
            ),
        )

    @property
    def _no_usage(self) -> UnsetType | None:
        return None if self._shape.include_usage else UNSET

    def _usage(self) -> Usage:
        return self._shape.usage(self._completion_tokens, self._cached_tokens, self._readers)


def _told(part: MessagePart) -> ChatDelta:
    """Only what there is; for want of anything else an empty text."""
    return ChatDelta(
        content=part.content if part.content or not part.shows else UNSET,
        reasoning=part.reasoning or UNSET,
        reasoning_content=part.reasoning or UNSET,
        tool_calls=part.calls or UNSET,
    )


@dataclass(slots=True)
class _Choice:
    reader: MessageReader
    message: Message = field(default_factory=Message)
    token_ids: list[int] = field(default_factory=list)
    entries: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    def add(self, event: Delta) -> None:
        part = self.reader.feed(event)
        self.message.add(part)
        self.token_ids += part.token_ids
        self.entries += part.entries
        if part.finish_reason is not None:
            self.finish_reason = part.finish_reason
            self.stop_reason = event.stop_reason

    def close(self) -> None:
        """To be called once, when no event follows."""
        if self.finish_reason is None:
            self.message.add(self.reader.finish())
            self.finish_reason = FinishReason.LENGTH


class ChatAnswer:
    """Collects one answer. ``feed`` takes events in order, ``finish`` gives the body."""

    def __init__(self, shape: ChatShape) -> None:
        self._shape = shape
        self._timings = Timings(wanted=shape.timings)
        self._choices = [_Choice(reader) for reader in shape.readers()]
        self._completion_tokens = 0
        self._prompt_logprobs: PromptLogprobs | None = None
        self._cached_tokens: int | None = None

    def feed(self, _prompt: int, events: Sequence[Event]) -> None:
        """A chat has only prompt 0."""
        self._timings.feed(events)
        for event in events:
            match event:
                case Delta():
                    self._completion_tokens += len(event.token_ids)
                    self._choices[event.choice].add(event)
                case PromptScored():
                    self._prompt_logprobs = prompt_logprobs(event.entries, self._shape.tokenizer)
                case Finished() if self._shape.prompt_details:
                    self._cached_tokens = event.cached_tokens

    def finish(self) -> ChatCompletion:
        shape = self._shape
        return ChatCompletion(
            id=shape.envelope.id,
            created=shape.envelope.created,
            model=shape.envelope.model,
            system_fingerprint=shape.envelope.system_fingerprint,
            service_tier=shape.envelope.service_tier,
            choices=[self._choice(index, choice) for index, choice in enumerate(self._choices)],
            usage=shape.usage(
                self._completion_tokens, self._cached_tokens, [choice.reader for choice in self._choices]
            ),
            metrics=self._timings.metrics,
            prompt_logprobs=self._prompt_logprobs,
            prompt_token_ids=shape.prompt_token_ids if shape.return_token_ids else None,
        )

    def _choice(self, index: int, choice: _Choice) -> ChatChoice:
        shape = self._shape
        choice.close()
        return ChatChoice(
            index,
            self._message(choice),
            shape.logprobs(choice.entries),
            choice.finish_reason or FinishReason.LENGTH,
            choice.stop_reason,
            choice.token_ids if shape.return_token_ids else None,
        )

    def _message(self, choice: _Choice) -> ChatMessage:
        message = choice.message
        text = self._shape.echo + message.content
        reasoning = message.reasoning if self._shape.form.thinks else UNSET
        return ChatMessage(
            self._shape.role,
            text if text or self._shape.form.named or not (choice.reader.reasoning_tokens or message.calls) else None,
            reasoning=reasoning,
            reasoning_content=reasoning,
            tool_calls=message.calls or UNSET,
        )
