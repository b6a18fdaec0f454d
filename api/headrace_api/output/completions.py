"""Events to a text completion: as chunks while they come, or collected into one body."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import UNSET, UnsetType

from headrace_api.output.data_stream import DataStream
from headrace_api.output.envelope import Envelope
from headrace_api.output.event_ids import EventIds
from headrace_api.output.logprobs import CompletionLogprobWriter, TokenNames, joined, prompt_logprobs
from headrace_api.output.timings import Timings
from headrace_api.schemas.base import PromptLogprobs, Usage
from headrace_api.schemas.completions import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
)
from headrace_shared.protocol.event import Delta, Event, Finished, FinishReason, PromptScored, TokenLogprob
from headrace_shared.text.detokenizer import Detokenizer
from headrace_shared.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EchoedPrompt:
    """One prompt: its ids, and the text that echo shows ("" without echo)."""

    token_ids: list[int]
    echo: str = ""
    unseen: int = 0
    """How many of the first ids stand for nothing in that text, as a beginning-of-text token that was added to it."""


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """How the client wants its answer."""

    envelope: Envelope
    tokenizer: Tokenizer
    prompts: list[EchoedPrompt]
    choices: int
    """Per prompt."""
    logprobs: int | None = None
    echo: bool = False
    tokens_as_ids: bool = False
    return_token_ids: bool = False
    prompt_logprobs: bool = False
    """Whether they are shown; echo with logprobs has them computed as well."""
    skip_special_tokens: bool = True
    include_usage: bool = False
    continuous_usage: bool = False
    prompt_details: bool = False
    """Whether the usage tells of cached tokens."""
    timings: bool = False
    """Whether the request's timings are told."""

    @property
    def prompt_tokens(self) -> int:
        return sum(len(prompt.token_ids) for prompt in self.prompts)


class _Choice:
    """One continuation: adds what echo shows and turns wire logprobs into lists, delta by delta."""

    def __init__(self, shape: CompletionShape, prompt: EchoedPrompt) -> None:
        self._shape = shape
        self._prompt = prompt
        self.begun = False
        self._writer: CompletionLogprobWriter | None = None
        self.ended = False

    def open(self, scored: Sequence[TokenLogprob | None] | None) -> tuple[str, CompletionLogprobs | None]:
        """What comes before the first token: the echoed prompt and its logprobs."""
        self.begun = True
        shape, prompt = self._shape, self._prompt
        if shape.logprobs is None:
            return prompt.echo, None
        echoed = None
        if shape.echo:
            entries = scored if scored is not None else [None] * len(prompt.token_ids)
            echoed = self._new_writer([], 0, skip_special_tokens=False).write(prompt.token_ids, entries, prompt.unseen)
        skips = shape.skip_special_tokens
        self._writer = self._new_writer(prompt.token_ids, len(prompt.echo), skip_special_tokens=skips)
        return prompt.echo, echoed

    def add(self, event: Delta, scored: Sequence[TokenLogprob | None] | None) -> tuple[str, CompletionLogprobs | None]:
        """The text and lists that a delta adds."""
        self.ended |= event.finish_reason is not None
        before, lists = ("", None) if self.begun else self.open(scored)
        if self._writer is not None and event.logprobs:
            new = self._writer.write(event.token_ids, event.logprobs)
            lists = new if lists is None else joined([lists, new])
        return before + event.text, lists

    def _new_writer(self, seen: list[int], offset: int, *, skip_special_tokens: bool) -> CompletionLogprobWriter:
        shape = self._shape
        detokenizer = Detokenizer(shape.tokenizer, seen, skip_special_tokens=skip_special_tokens)
        names = TokenNames(shape.tokenizer, as_ids=shape.tokens_as_ids)
        return CompletionLogprobWriter(names, shape.logprobs or 0, detokenizer, offset)


class CompletionStream(DataStream):
    """Renders the chunks of all prompts and choices. ``finish`` gives what ends the stream.

    A prompt's chunks depend on its own events alone, not on how many come at once nor on the other prompts.
    """

    def __init__(self, shape: CompletionShape, ids: EventIds) -> None:
        super().__init__(ids)
        self._shape = shape
        self._timings = Timings(wanted=shape.timings)
        self._choices = [_Choice(shape, prompt) for prompt in shape.prompts for _ in range(shape.choices)]
        self._scored: dict[int, Sequence[TokenLogprob | None]] = {}
        self._completion_tokens = [0] * len(shape.prompts)
        self._cached_tokens: int | None = 0 if shape.prompt_details else None

    def feed(self, prompt: int, events: Sequence[Event]) -> bytes:
        """The frames for ``events`` of the prompt numbered ``prompt``; b"" when there is nothing to show."""
        frames: list[bytes] = []
        self._timings.feed(events)
        for event in events:
            match event:
                case Delta():
                    choice = self._delta(prompt, event)
                    if choice is not None:
                        frames.append(self._chunk(prompt, choice, self._usage_so_far(prompt)))
                case PromptScored():
                    self._scored[prompt] = event.entries
                case Finished() if self._cached_tokens is not None:
                    self._cached_tokens += event.cached_tokens
        return b"".join(frames)

    def finish(self) -> bytes:
        """Ends choices that no event has ended, tells the usage if it was asked for, and says DONE."""
        shape = self._shape
        frames = []
        for index, choice in enumerate(self._choices):
            if not choice.ended:
                prompt, own_index = divmod(index, shape.choices)
                last = self._delta(prompt, Delta(own_index, [], "", finish_reason=FinishReason.LENGTH))
                frames.append(self._chunk(0, last, self._usage_so_far(prompt)))
        if shape.include_usage:
            usage = Usage.of(shape.prompt_tokens, sum(self._completion_tokens), self._cached_tokens)
            frames.append(self._chunk(0, None, usage))
        return b"".join([*frames, self._ids.done()])

    def _delta(self, prompt: int, event: Delta) -> CompletionChunkChoice | None:
        shape = self._shape
        self._completion_tokens[prompt] += len(event.token_ids)
        index = prompt * shape.choices + event.choice
        first = not self._choices[index].begun
        text, logprobs = self._choices[index].add(event, self._scored.get(prompt))
        ended = event.finish_reason is not None
        if not (text or ended or logprobs or shape.return_token_ids):
            return None
        return CompletionChunkChoice(
            index,
            text,
            logprobs,
            event.finish_reason,
            event.stop_reason if ended else UNSET,
            event.token_ids if shape.return_token_ids else UNSET,
            shape.prompts[prompt].token_ids if first and shape.return_token_ids else UNSET,
        )

    def _usage_so_far(self, prompt: int) -> Usage | UnsetType | None:
        """The prompt's own: what others have had by now is a matter of time."""
        if not self._shape.continuous_usage:
            return None if self._shape.include_usage else UNSET
        return Usage.of(len(self._shape.prompts[prompt].token_ids), self._completion_tokens[prompt])

    def _chunk(self, counted: int, choice: CompletionChunkChoice | None, usage: Usage | UnsetType | None) -> bytes:
        """One choice's event; None: the usage event. ``counted``: the prompt that it counts for."""
        envelope = self._shape.envelope
        return self._ids.frame(
            counted,
            CompletionChunk(
                id=envelope.id,
                created=envelope.created,
                model=envelope.model,
                system_fingerprint=envelope.system_fingerprint,
                service_tier=envelope.service_tier,
                choices=[] if choice is None else [choice],
                usage=usage,
                metrics=self._timings.metrics if choice is None else UNSET,
            ),
        )


@dataclass(slots=True)
class _Collected:
    choice: _Choice
    text: list[str] = field(default_factory=list)
    lists: list[CompletionLogprobs] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = FinishReason.LENGTH
    stop_reason: str | int | None = None

    def add(self, event: Delta, scored: Sequence[TokenLogprob | None] | None) -> None:
        text, lists = self.choice.add(event, scored)
        self.text.append(text)
        self.token_ids += event.token_ids
        if lists is not None:
            self.lists.append(lists)
        if event.finish_reason is not None:
            self.finish_reason = event.finish_reason
            self.stop_reason = event.stop_reason


class CompletionAnswer:
    """Collects the answers to all prompts. ``finish`` gives the body."""

    def __init__(self, shape: CompletionShape) -> None:
        self._shape = shape
        self._timings = Timings(wanted=shape.timings)
        self._choices = [_Collected(_Choice(shape, prompt)) for prompt in shape.prompts for _ in range(shape.choices)]
        self._scored: dict[int, Sequence[TokenLogprob | None]] = {}
        self._cached_tokens: int | None = 0 if shape.prompt_details else None

    def feed(self, prompt: int, events: Sequence[Event]) -> None:
        self._timings.feed(events)
        for event in events:
            match event:
                case Delta():
                    index = prompt * self._shape.choices + event.choice
                    self._choices[index].add(event, self._scored.get(prompt))
                case PromptScored():
                    self._scored[prompt] = event.entries
                case Finished() if self._cached_tokens is not None:
                    self._cached_tokens += event.cached_tokens

    def finish(self) -> Completion:
        shape = self._shape
        completion_tokens = sum(len(choice.token_ids) for choice in self._choices)
        return Completion(
            id=shape.envelope.id,
            created=shape.envelope.created,
            model=shape.envelope.model,
            system_fingerprint=shape.envelope.system_fingerprint,
            service_tier=shape.envelope.service_tier,
            choices=[self._choice(index, choice) for index, choice in enumerate(self._choices)],
            usage=Usage.of(shape.prompt_tokens, completion_tokens, self._cached_tokens),
            metrics=self._timings.metrics,
        )

    def _choice(self, index: int, choice: _Collected) -> CompletionChoice:
        shape = self._shape
        prompt = index // shape.choices
        if not choice.choice.ended:
            choice.add(
                Delta(index % shape.choices, [], "", finish_reason=FinishReason.LENGTH), self._scored.get(prompt)
            )
        return CompletionChoice(
            index,
            "".join(choice.text),
            joined(choice.lists) if shape.logprobs is not None else None,
            choice.finish_reason,
            choice.stop_reason,
            self._shown_prompt_logprobs(prompt),
            choice.token_ids if shape.return_token_ids else None,
            shape.prompts[prompt].token_ids if shape.return_token_ids else None,
        )

    def _shown_prompt_logprobs(self, prompt: int) -> PromptLogprobs | None:
        if not self._shape.prompt_logprobs or prompt not in self._scored:
            return None
        return prompt_logprobs(self._scored[prompt], self._shape.tokenizer)
