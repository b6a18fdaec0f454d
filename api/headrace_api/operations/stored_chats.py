"""Chat completions that were asked for with ``store: true``, fetched and deleted.

As with responses nothing is written when one is complete: the Ask and the token log are the record.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from headrace_api.dispatch import Terms
from headrace_api.operations.answering import collect
from headrace_api.operations.asks import attach, find_ask
from headrace_api.operations.call import Call
from headrace_api.operations.chat import CHAT
from headrace_api.operations.chat_batch import CHAT_BATCH
from headrace_api.operations.endpoint import Endpoint, Trace
from headrace_api.operations.services import Services
from headrace_api.schemas.chat import ChatCompletion, ChatRequest
from headrace_api.schemas.stored_chats import DeletedChat, MessageList, StoredMessage
from headrace_shared.errors import NotFoundError
from headrace_shared.protocol.ask import Ask
from headrace_shared.queue.status import RequestPhase

_ENDPOINTS: Mapping[str, Endpoint[Any]] = {endpoint.name: endpoint for endpoint in (CHAT, CHAT_BATCH)}


async def retrieve(completion_id: str, call: Call, services: Services) -> ChatCompletion:
    """The answer. Raises NotFoundError, also while it is not complete, and UnavailableError."""
    queue, ask = await _find(completion_id, call, services)
    states = [await services.queue.state(queue, job_id) for job_id in ask.job_ids]
    if not all(state is not None and state.phase is RequestPhase.FINISHED for state in states):
        raise NotFoundError(f"The chat completion {completion_id[:80]!r} has no answer.")
    model = await services.directory.of_queue(queue)
    endpoint = _ENDPOINTS[ask.endpoint]
    body = endpoint.body.parse(ask.body)
    prepared = await endpoint.prepare(body, ask, model, Trace(), services)
    terms = Terms(model.card.name, call.arrived_s, call.timeout_s, services.settings.disconnect_linger_s)
    generations = await attach(prepared, terms, services)
    try:
        answer = await collect(prepared, generations)
    finally:
        for generation in generations:
            generation.keep()
            await generation.aclose()
    assert isinstance(answer, ChatCompletion)  # noqa: S101 both endpoints' answers are
    return replace(answer, metadata=body.metadata or {})


async def delete(completion_id: str, call: Call, services: Services) -> DeletedChat:
    """Forget it; if it runs still, it is stopped. Raises NotFoundError, UnavailableError."""
    queue, ask = await _find(completion_id, call, services)
    for job_id in ask.job_ids:
        await services.queue.cancel(queue, job_id, "the chat completion was deleted")
    await services.queue.forget(queue, ask)
    return DeletedChat(id=f"chatcmpl-{ask.request_id}")


async def messages(
    completion_id: str, page: tuple[int, str, str | None], call: Call, services: Services
) -> MessageList:
    """What it answers. ``page``: how many, ``asc`` or ``desc``, after which id. Raises NotFoundError, UnavailableError."""
    limit, order, after = page
    _, ask = await _find(completion_id, call, services)
    body = ChatRequest.parse(ask.body) if ask.endpoint == CHAT.name else None
    if body is None:
        raise NotFoundError(f"The batch {completion_id[:80]!r} has several conversations, which are not listed.")
    listed = [
        StoredMessage(
            id=f"chatcmpl-{ask.request_id}-{number}",
            role=str(message["role"]),
            content=message.get("content"),
            name=message.get("name", UNSET),
        )
        for number, message in enumerate(body.messages)
    ]
    if order == "desc":
        listed.reverse()
    place = next((place for place, each in enumerate(listed) if each.id == after), None)
    if after is not None and place is None:
        raise NotFoundError(f"after: {after[:80]!r} is no message of this chat completion.")
    rest = listed if place is None else listed[place + 1 :]
    shown = rest[:limit]
    return MessageList(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=len(rest) > limit,
    )


async def _find(completion_id: str, call: Call, services: Services) -> tuple[str, Ask]:
    queue, ask = await find_ask(completion_id, call.caller.owner, services)
    if ask.endpoint not in _ENDPOINTS or not ask.keep_s:
        raise NotFoundError(f"There is no stored chat completion {completion_id[:80]!r}, or it is no longer kept.")
    return queue, ask
