"""DataStream: what the nameless event streams of OpenAI's older endpoints have in common."""

from msgspec import UNSET, UnsetType

from headrace_api.errors import error_body
from headrace_api.output.event_ids import EventIds
from headrace_shared.errors import HeadraceError


class DataStream:
    """Says nothing before the answer begins, and an error in OpenAI's form, then DONE, when there is none."""

    def __init__(self, ids: EventIds) -> None:
        self._ids = ids

    def open(self) -> bytes:
        return b""

    def fail(self, error: HeadraceError) -> bytes:
        return self._ids.error(error_body(error))

    def break_off(self, error: HeadraceError, resume: str | UnsetType = UNSET) -> bytes:
        return self._ids.error(error_body(error, resume))
