"""/v1/chat/completions/{id}: what can be done with chat completions that are stored."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from headrace_api.deps import ServicesDep, call_of, json_answer
from headrace_api.operations import stored_chats as operations
from headrace_api.routes.documented import answers
from headrace_api.schemas.chat import ChatCompletion
from headrace_api.schemas.stored_chats import DeletedChat, MessageList

router = APIRouter(prefix="/v1/chat/completions/{completion_id}", tags=["generation"])
_FAILURES = (400, 401, 404, 500, 503)


@router.get("", summary="Fetch a stored chat completion", responses=answers(ChatCompletion, failures=_FAILURES))
async def retrieve_chat_completion(completion_id: str, request: Request, services: ServicesDep) -> Response:
    """One that was created with ``store: true``, once it is complete."""
    return json_answer(await operations.retrieve(completion_id, call_of(request, services), services))


@router.delete("", summary="Delete a stored chat completion", responses=answers(DeletedChat, failures=_FAILURES))
async def delete_chat_completion(completion_id: str, request: Request, services: ServicesDep) -> Response:
    """One that runs is stopped."""
    return json_answer(await operations.delete(completion_id, call_of(request, services), services))


@router.get(
    "/messages",
    summary="List the messages that a stored chat completion answers",
    responses=answers(MessageList, failures=_FAILURES),
)
async def list_chat_messages(
    completion_id: str,
    request: Request,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "asc",
    after: Annotated[str | None, Query(description="The id of the last message known.")] = None,
) -> Response:
    """In their order, unless said otherwise."""
    page = (limit, order, after)
    return json_answer(await operations.messages(completion_id, page, call_of(request, services), services))
