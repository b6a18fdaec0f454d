"""QueuedRequest: what every body that is put on the queue says of its way there."""

from typing import Annotated

from pydantic import Field

from headrace_api.schemas.base import RequestModel
from headrace_shared.ids import LONGEST_CLIENT_ID

LONGEST_NAME = 128
"""Of a tenant, in characters."""


class QueuedRequest(RequestModel):
    """The APIs word the rest differently."""

    model: Annotated[str | None, Field(description="May be left out while one model is served.")] = None
    stream: bool | None = False
    priority: Annotated[
        int | None,
        Field(ge=-(2**53) + 1, le=2**53 - 1, description="Lower goes first; default 0. Redis orders by doubles."),
    ] = None
    timeout: Annotated[
        float | None,
        Field(gt=0, description="Seconds after which the request is given up; the header X-Request-Timeout as well."),
    ] = None
    request_id: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=LONGEST_CLIENT_ID,
            description="Base of the answer's id, unless the header X-Request-Id is sent.",
        ),
    ] = None

    @property
    def tier_priority(self) -> int:
        """The priority without a wish for one."""
        return 0

    @property
    def end_user(self) -> str | None:
        """For whom the client asks, as it says."""
        return None
