"""Items of batches: requests that nobody waits for, answered as the endpoint would have answered them."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace_api.answer_log import answer_log
from headrace_api.dispatch import Generation, Terms, merge
from headrace_api.errors import error_body, messages_error_body, status_of
from headrace_api.operations.anthropic import MESSAGES
from headrace_api.operations.endpoint import Endpoint, Prepared, Trace
from headrace_api.operations.generation import enqueue
from headrace_api.operations.request_log import log_prompts
from headrace_api.operations.requests import CANCELLED_BY_HAND
from headrace_api.operations.services import Services
from headrace_api.schemas.problems import Problem, refuse
from headrace_api.schemas.queued import QueuedRequest
from headrace_api.tenants import NOBODY, Caller, TenantLimits
from headrace_shared.clock import mono_s
from headrace_shared.errors import ErrorCode, HeadraceError, InternalError, UnavailableError
from headrace_shared.protocol.ask import Ask
from headrace_shared.queue.batch_book import BatchUsage
from headrace_shared.telemetry.context import request_scope

log = logging.getLogger(__name__)

_FORGOTTEN_AT_ONCE = 32
_LATER = frozenset({ErrorCode.OVERLOADED, ErrorCode.UNAVAILABLE, ErrorCode.MODEL_NOT_FOUND})
"""Failures of the moment: an item has time."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is to be answered. It depends on the batch alone: whoever asks again asks for the same."""

    endpoint: Endpoint[Any]
    request_id: str
    """The same request again, when it is known already: then that one is followed."""
    body: bytes
    created: int
    owner: str
    tenant: str
    priority: int
    """That of all items of the batch now."""
    usual_priority: int
    """What that was at first: the most urgent that an item may ask for."""
    timeout_s: float
    linked: str | None = None
    """As in ``JobHeader``."""


@dataclass(frozen=True, slots=True)
class ItemAnswer:
    """An answer that will not change any more."""

    status: int
    body: bytes
    usage: BatchUsage = field(default_factory=BatchUsage)
    trail: tuple[str, Ask] | None = None
    """The queue, and what is kept there of the request: to be forgotten when the answer is safe elsewhere."""


class NotNowError(Exception):
    """It may work later; ``spent``: only under another request id, as this one has ended."""

    def __init__(self, reason: str, *, spent: bool) -> None:
        super().__init__(reason)
        self.spent = spent


async def answer(item: Item, services: Services) -> ItemAnswer:
    """Ask, and wait for the answer or the error that the endpoint would have given. Raises NotNowError.

    Cancelled, it stops waiting; the request goes on.
    """
    with request_scope(item.request_id, None):
        try:
            return await _answered(item, services)
        except HeadraceError as error:
            if error.code in _LATER:
                raise NotNowError(error.message, spent=False) from error
            return _refusal(item, error)
        except NotNowError:
            raise
        except Exception:
            log.exception("item of a batch failed", extra={"request_id": item.request_id})
            return _refusal(item, InternalError("item failed"))


async def cost_tokens(item: Item, services: Services) -> int:
    """What it may take, 0 for what would be refused."""
    try:
        prepared, _ = await _prepared(item, services)
    except HeadraceError:
        return 0
    return prepared.cost_tokens


async def forget(trails: Sequence[tuple[str, Ask]], services: Services) -> None:
    """Answers that are safe elsewhere need no log in Redis. What cannot be forgotten now goes by itself, later."""
    try:
        for start in range(0, len(trails), _FORGOTTEN_AT_ONCE):
            part = trails[start : start + _FORGOTTEN_AT_ONCE]
            await asyncio.gather(*(services.queue.forget(queue, ask) for queue, ask in part))
    except UnavailableError:
        log.info("requests of a batch are kept for a while", extra={"requests": len(trails)})


async def stop(request_id: str, services: Services) -> bool:
    """End an item's request, wherever it is; whether there was one. Raises UnavailableError."""
    found = await services.queue.find(await services.directory.queues(), request_id)
    if found is None:
        return False
    queue, ask = found
    await asyncio.gather(*(services.queue.cancel(queue, job_id, "the batch has ended") for job_id in ask.job_ids))
    return True


async def _answered(item: Item, services: Services) -> ItemAnswer:
    arrived_s = mono_s()
    prepared, body = await _prepared(item, services)
    timeout_s = item.timeout_s if body.timeout is None else min(item.timeout_s, body.timeout)
    timeline = services.timelines.begin(prepared.ask, prepared.card.name, arrived_s, (None, None))
    answers = answer_log(services.settings, prepared.card.name, stream=False)
    terms = Terms(prepared.card.name, arrived_s, timeout_s, linger_s=0.0, timeline=timeline, answers=answers)
    try:
        if services.settings.enable_log_requests:
            model = await services.directory.of_queue(prepared.card.queue)
            await services.tokenizers.run(log_prompts, prepared, model, services.settings)
        timeline.prepared(prepared.jobs, item.body)
        generations = await enqueue(prepared, terms, services)
    except BaseException as error:
        timeline.refused(error)
        raise
    timeline.enqueued(prepared.card.queue, len(prepared.jobs))
    try:
        return await _collected(prepared, generations)
    except HeadraceError as error:
        for generation in generations:
            if not generation.over:
                await services.queue.cancel(generation.queue, generation.request_id, "another prompt has failed")
        if any(generation.failed for generation in generations) and _may_be_repeated(error):
            raise NotNowError(error.message, spent=True) from error
        raise
    finally:
        for generation in generations:
            await generation.aclose()


async def _prepared(item: Item, services: Services) -> tuple[Prepared, QueuedRequest]:
    body: QueuedRequest = item.endpoint.body.parse(item.body)
    _check(body, item, ranked=services.settings.scheduling_policy == "priority")
    caller = Caller(item.tenant, TenantLimits(), item.owner)
    model = services.directory.resolve(body.model)
    prompts = item.endpoint.prompts(body)
    ask = Ask(
        endpoint=item.endpoint.name,
        request_id=item.request_id,
        body=item.body,
        created=item.created,
        owner=item.owner,
        job_ids=(item.request_id,) if prompts == 1 else tuple(f"{item.request_id}-{n}" for n in range(prompts)),
        tenant=caller.named(None if item.tenant == NOBODY else item.tenant, body.end_user).tenant,
        priority=item.priority + (0 if body.priority is None else body.priority - item.usual_priority),
        # It goes on when the batch worker dies: the next one follows it from its beginning.
        detached=True,
        background=True,
    )
    ask = await item.endpoint.complete(body, ask, services)
    return await item.endpoint.prepare(body, ask, model, Trace(linked=item.linked), services), body


def _check(body: QueuedRequest, item: Item, *, ranked: bool) -> None:
    """Raises InvalidRequestError for what only makes sense where somebody waits."""
    problems = []
    for name in ("stream", "background"):
        if getattr(body, name, False):
            problems.append(
                Problem(name, "should be false or left out in a batch, whose answers are fetched as a file")
            )
    if body.request_id is not None:
        problems.append(Problem("request_id", "should be left out in a batch, whose items have a custom_id"))
    if body.priority and not ranked:
        problems.append(Problem("priority", "should be 0 or left out, as this server serves who came first"))
    elif body.priority is not None and body.priority < item.usual_priority:
        problems.append(
            Problem(
                "priority",
                f"should be at least {item.usual_priority} in this batch, or left out, got {body.priority}",
            )
        )
    if problems:
        raise refuse(problems)


async def _collected(prepared: Prepared, generations: list[Generation]) -> ItemAnswer:
    collector = prepared.collector()
    async with aclosing(merge(generations)) as merged:
        async for prompt, events in merged:
            collector.feed(prompt, events)
    whole = collector.finish()
    finished = [generation.finished for generation in generations if generation.finished is not None]
    usage = BatchUsage(
        input=sum(each.prompt_tokens for each in finished),
        cached=sum(each.cached_tokens for each in finished),
        output=sum(each.completion_tokens for each in finished),
        reasoning=_reasoning_tokens(whole),
    )
    # A response that is stored can be asked for later.
    trail = None if prepared.ask.keep_s else (prepared.card.queue, prepared.ask)
    return ItemAnswer(200, msgspec.json.encode(whole), usage, trail)


def _reasoning_tokens(whole: msgspec.Struct) -> int:
    """As the answer itself tells them."""
    usage = getattr(whole, "usage", None)
    for name in ("completion_tokens_details", "output_tokens_details"):
        tokens = getattr(getattr(usage, name, None), "reasoning_tokens", None)
        if isinstance(tokens, int):
            return tokens
    return 0


def _may_be_repeated(error: HeadraceError) -> bool:
    """Whether a request that has ended so is worth another one; what somebody has cancelled on purpose is not."""
    return error.code in _LATER or (error.code is ErrorCode.CANCELLED and error.message != CANCELLED_BY_HAND)


def _refusal(item: Item, error: HeadraceError) -> ItemAnswer:
    body: msgspec.Struct = messages_error_body(error) if item.endpoint is MESSAGES else error_body(error)
    return ItemAnswer(status_of(error), msgspec.json.encode(body))
