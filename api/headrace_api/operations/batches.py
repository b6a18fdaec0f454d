"""Batches: many requests in one file, worked on when there is room."""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from headrace_api.errors import error_body
from headrace_api.operations.anthropic import MESSAGES
from headrace_api.operations.call import Call
from headrace_api.operations.chat import CHAT
from headrace_api.operations.chat_batch import CHAT_BATCH
from headrace_api.operations.completions import COMPLETIONS
from headrace_api.operations.endpoint import Endpoint
from headrace_api.operations.files import INPUT
from headrace_api.operations.responses import RESPONSES
from headrace_api.operations.services import Services
from headrace_api.schemas import batches as schemas
from headrace_api.schemas.batches import Batch, BatchList, BatchRequest
from headrace_api.settings import ApiSettings
from headrace_api.webhooks import problem_with
from headrace_shared.clock import wall_s
from headrace_shared.errors import HeadraceError, InvalidRequestError, NotFoundError, UnavailableError
from headrace_shared.queue.batch_book import OVER, BatchSpec, BatchState, BatchStatus
from headrace_shared.queue.pages import Page

ENDPOINTS: Mapping[str, Endpoint[Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions/batch": CHAT_BATCH,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
}
"""What items can be for."""
_LOOK_S = 0.5


async def create(body: BatchRequest, tenant: str | None, call: Call, services: Services) -> Batch:
    """Put a batch down to be worked on. ``tenant``: as a header names it.

    Raises InvalidRequestError, NotFoundError, UnavailableError.
    """
    if body.endpoint not in ENDPOINTS:
        raise InvalidRequestError(
            f"endpoint: should be one of {', '.join(ENDPOINTS)}, got {body.endpoint[:80]!r}.", param="endpoint"
        )
    webhook_url = _webhook_url(body.webhook_url, services.settings)
    caller = call.caller.named(tenant, None)
    try:
        file = await services.files.get(body.input_file_id, caller.owner)
    except NotFoundError as error:
        raise NotFoundError(f"input_file_id: {error.message}", param="input_file_id") from None
    if file.purpose != INPUT:
        raise InvalidRequestError(
            f"input_file_id: should be a file with the purpose {INPUT!r}, and this one has {file.purpose!r}.",
            param="input_file_id",
        )
    now_s = wall_s()
    spec = BatchSpec(
        id=f"batch_{secrets.token_hex(12)}",
        owner=caller.owner,
        tenant=caller.tenant,
        endpoint=body.endpoint,
        input_file_id=file.id,
        completion_window=body.completion_window,
        created_at=now_s,
        expires_at=now_s + body.window_s,
        priority=_priority(call, services.settings.batch_priority, services),
        late_priority=_priority(call, min(1, services.settings.batch_priority), services),
        metadata=body.metadata,
        output_ttl_s=body.output_expires_after.seconds if body.output_expires_after else None,
        most_items=caller.limits.batch_items,
        most_tokens=caller.limits.batch_tokens,
        traceparent=call.traceparent,
        webhook_url=webhook_url,
    )
    await services.batches.create(spec)
    await services.batch_jobs.announce(spec.id)
    return await retrieve(spec.id, call, services)


async def retrieve(batch_id: str, call: Call, services: Services) -> Batch:
    """Raises NotFoundError, UnavailableError."""
    return shown(await services.batches.get(batch_id, _managed_by(call)))


async def listed(page: Page, call: Call, services: Services) -> BatchList:
    """One's own batches. Raises InvalidRequestError, UnavailableError."""
    states, more = await services.batches.listed(call.caller.owner, page)
    return BatchList(
        data=[shown(state) for state in states],
        first_id=states[0].spec.id if states else None,
        last_id=states[-1].spec.id if states else None,
        has_more=more,
    )


async def cancel(batch_id: str, call: Call, services: Services) -> Batch:
    """Stop it; what it has done so far is kept. A second time changes nothing.

    Raises NotFoundError, InvalidRequestError when it is done already, UnavailableError.
    """
    state = await services.batches.get(batch_id, _managed_by(call))
    if not await services.batches.move(batch_id, None, BatchStatus.CANCELLING):
        state = await services.batches.get(batch_id, _managed_by(call))
        if state.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise InvalidRequestError(f"Only a batch that is not done can be cancelled; this one is {state.status}.")
    await services.batch_jobs.announce(batch_id)
    return await retrieve(batch_id, call, services)


async def watch(batch_id: str, call: Call, services: Services) -> "BatchWatch":
    """Its changes, as events. The caller must ``aclose`` it. Raises NotFoundError, UnavailableError."""
    state = await services.batches.get(batch_id, _managed_by(call))
    return BatchWatch(state, services)


class BatchWatch:
    """A FrameSource: the batch as it is, and again whenever it has changed; the last event is its end.

    Each looks for itself, twice a second: what is read is one small hash, and those who watch are few.
    """

    def __init__(self, state: BatchState, services: Services) -> None:
        self._id = state.spec.id
        self._next: BatchState | None = state
        self._told = b""
        self._over = False
        self._services = services

    async def next_frames(self) -> bytes:
        """As FrameSource."""
        while not self._over:
            try:
                state = self._next or await self._services.batches.get(self._id, None)
            except UnavailableError:
                state = None
            except HeadraceError as error:
                self._over = True
                return _event(error_body(error))
            self._next = None
            if state is not None and (event := _event(shown(state))) != self._told:
                self._over = state.status in OVER
                self._told = event
                return event
            await asyncio.sleep(_LOOK_S)
        return b""

    def farewell(self) -> bytes:
        """As FrameSource."""
        return _event(error_body(UnavailableError("The server is shutting down; ask another one.")))

    async def aclose(self) -> None:
        """As FrameSource."""


def _event(body: msgspec.Struct) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _managed_by(call: Call) -> str | None:
    """Whose batches the caller may see and cancel; None: everybody's."""
    return None if call.caller.admin else call.caller.owner


def _webhook_url(asked: str | None, settings: ApiSettings) -> str | None:
    """Whom to tell a batch's end. Raises InvalidRequestError."""
    if asked is None:
        return settings.webhook_url
    if not settings.webhook_hosts:
        problem = "is not possible here; who runs this server can allow it with --webhook-secret and --webhook-hosts"
    else:
        problem = problem_with(asked, settings.webhook_hosts) or ""
    if problem:
        raise InvalidRequestError(f"webhook_url: {problem}.", param="webhook_url")
    return asked


def _priority(call: Call, usual: int, services: Services) -> int:
    return call.caller.limits.priority(None, usual) if services.settings.scheduling_policy == "priority" else 0


def shown(state: BatchState) -> Batch:
    """As clients see it."""
    spec, usage, times, webhook = state.spec, state.usage, state.times, state.webhook
    errors = [
        schemas.BatchError(code=each.code, line=each.line, message=each.message, param=each.param)
        for each in state.problems
    ]
    return Batch(
        id=spec.id,
        endpoint=spec.endpoint,
        model=state.model,
        errors=schemas.BatchErrors(data=errors) if errors else None,
        input_file_id=spec.input_file_id,
        completion_window=spec.completion_window,
        status=state.status,
        output_file_id=state.output_file_id,
        error_file_id=state.error_file_id,
        created_at=spec.created_at,
        in_progress_at=times.get(BatchStatus.IN_PROGRESS),
        expires_at=spec.expires_at,
        finalizing_at=times.get(BatchStatus.FINALIZING),
        completed_at=times.get(BatchStatus.COMPLETED),
        failed_at=times.get(BatchStatus.FAILED),
        expired_at=times.get(BatchStatus.EXPIRED),
        cancelling_at=times.get(BatchStatus.CANCELLING),
        cancelled_at=times.get(BatchStatus.CANCELLED),
        request_counts=schemas.RequestCounts(total=state.total, completed=state.completed, failed=state.failed),
        usage=schemas.BatchTokens(
            input_tokens=usage.input,
            input_tokens_details=schemas.InputDetails(usage.cached),
            output_tokens=usage.output,
            output_tokens_details=schemas.OutputDetails(usage.reasoning),
            total_tokens=usage.input + usage.output,
        ),
        metadata=spec.metadata,
        webhook=schemas.Webhook(status=webhook.status, attempts=webhook.attempts, error=webhook.error)
        if webhook
        else None,
    )
