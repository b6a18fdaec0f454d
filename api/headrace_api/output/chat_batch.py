"""Events to the answer of a batch of conversations: one body, whose choices are the conversations'."""

from collections.abc import Sequence

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from headrace_api.output.chat import ChatAnswer, ChatShape
from headrace_api.output.data_stream import DataStream
from headrace_api.output.event_ids import EventIds
from headrace_api.schemas.base import CompletionTokensDetails, PromptTokensDetails, Usage
from headrace_api.schemas.chat import ChatCompletion
from headrace_shared.protocol.event import Event


class ChatBatchAnswer:
    """Collects one answer for each shape. ``feed`` takes a conversation's events in order, ``finish`` gives the body."""

    def __init__(self, shapes: Sequence[ChatShape]) -> None:
        self._answers = [ChatAnswer(shape) for shape in shapes]

    def feed(self, prompt: int, events: Sequence[Event]) -> None:
        self._answers[prompt].feed(0, events)

    def finish(self) -> ChatCompletion:
        answers = [answer.finish() for answer in self._answers]
        choices = [replace(answer.choices[0], index=index) for index, answer in enumerate(answers)]
        usage = _sum([answer.usage for answer in answers])
        # Which prompt it is of could not be told.
        return replace(answers[0], choices=choices, usage=usage, prompt_token_ids=None)


class ChatBatchStream(DataStream):
    """Tells the whole body as one event: batches are not streamed, but any answer can be told again as a stream."""

    def __init__(self, shapes: Sequence[ChatShape], ids: EventIds) -> None:
        super().__init__(ids)
        self._answer = ChatBatchAnswer(shapes)

    def feed(self, prompt: int, events: Sequence[Event]) -> bytes:
        self._answer.feed(prompt, events)
        return b""

    def finish(self) -> bytes:
        return self._ids.frame(0, self._answer.finish()) + self._ids.done()


def _sum(usages: Sequence[Usage]) -> Usage:
    cached = [each.prompt_tokens_details for each in usages]
    thought = [each.completion_tokens_details for each in usages]
    return Usage(
        prompt_tokens=sum(each.prompt_tokens for each in usages),
        total_tokens=sum(each.total_tokens for each in usages),
        completion_tokens=sum(each.completion_tokens for each in usages),
        prompt_tokens_details=_cached(cached),
        completion_tokens_details=_thought(thought),
    )


def _cached(details: Sequence[PromptTokensDetails | UnsetType]) -> PromptTokensDetails | UnsetType:
    told = [each.cached_tokens for each in details if not isinstance(each, UnsetType)]
    return PromptTokensDetails(sum(told)) if told else UNSET


def _thought(details: Sequence[CompletionTokensDetails | UnsetType]) -> CompletionTokensDetails | UnsetType:
    told = [each.reasoning_tokens for each in details if not isinstance(each, UnsetType)]
    return CompletionTokensDetails(sum(told)) if told else UNSET
