"""Events to a response: as typed events while they come, or collected into one object."""

from collections.abc import Iterable, Sequence

from msgspec import UNSET, UnsetType

from headrace_api.errors import public_message
from headrace_api.output.blocks import BlockReader, Closed, Step
from headrace_api.output.event_ids import EventIds
from headrace_api.output.response_shape import ResponseShape
from headrace_api.output.response_writer import EventWriter
from headrace_api.schemas.response_events import ErrorEvent, ResponseEvent
from headrace_api.schemas.response_items import OutputItem
from headrace_api.schemas.responses import Response
from headrace_shared.errors import HeadraceError
from headrace_shared.protocol.event import Event


class ResponseAnswer:
    """Collects one response. ``feed`` takes events in order, ``finish`` or ``failed`` gives the object."""

    def __init__(self, shape: ResponseShape) -> None:
        self._shape = shape
        self._reader = BlockReader(shape.form)
        self._output: list[OutputItem] = []

    def feed(self, _prompt: int, events: Sequence[Event]) -> None:
        """A response has only prompt 0."""
        self._add(self._reader.feed(events))

    def finish(self) -> Response:
        self._add(self._reader.finish())
        return self._shape.ended(self._reader, self._output)

    def failed(self, error: HeadraceError) -> Response:
        """When it has ended without an answer."""
        self._add(self._reader.break_off())
        return self._shape.failed(self._reader, self._output, error)

    def _add(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if isinstance(step, Closed):
                status = "completed" if step.complete else "incomplete"
                self._output.append(self._shape.item(step.block, step.whole, step.logprobs, status))


class ResponseStream:
    """Renders one response's events, which depend on the request's events alone. There is no DONE."""

    def __init__(self, shape: ResponseShape, ids: EventIds) -> None:
        self._shape = shape
        self._ids = ids
        self._reader = BlockReader(shape.form)
        self._writer = EventWriter(shape, ids)
        self._begun = False

    def open(self) -> bytes:
        """What runs in the background may wait for long; its status says so until it is begun."""
        blank = self._shape.blank
        if blank.status == "queued":
            return self._whole("created", blank) + self._whole("queued", blank)
        self._begun = True
        return self._whole("created", blank) + self._whole("in_progress", blank)

    def feed(self, _prompt: int, events: Sequence[Event]) -> bytes:
        """The frames for ``events``; b"" when there is nothing to show. A response has only prompt 0."""
        return self._beginning() + self._writer.frames(self._reader.feed(events))

    def finish(self) -> bytes:
        closing = self._beginning() + self._writer.frames(self._reader.finish())
        ended = self._shape.ended(self._reader, self._writer.output)
        return closing + self._whole(ended.status, ended)

    def fail(self, error: HeadraceError) -> bytes:
        """The log says so, and says it to everybody: an event like the others."""
        broken = self._beginning() + self._writer.frames(self._reader.break_off())
        return broken + self._whole("failed", self._shape.failed(self._reader, self._writer.output, error))

    def break_off(self, error: HeadraceError, resume: str | UnsetType = UNSET) -> bytes:
        event = ErrorEvent(
            sequence_number=max(self._ids.last_sent - 1, 0),
            code=error.code.value,
            message=public_message(error),
            param=error.param,
            resume=resume,
        )
        return self._ids.broken_off(event, "error")

    def _beginning(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._whole("in_progress", self._shape.in_progress())

    def _whole(self, name: str, response: Response) -> bytes:
        return self._writer.frame(ResponseEvent, f"response.{name}", response=response)
