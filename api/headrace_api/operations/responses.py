"""/v1/responses: a chat as a response, which may be kept, and gone on from."""

from dataclasses import dataclass
from functools import partial

import msgspec

from headrace_api.directory import ServedModel
from headrace_api.dispatch import Generation, Terms
from headrace_api.jobs import resolved
from headrace_api.operations.asks import attach, find_ask
from headrace_api.operations.chat import ChatPlan, plan_chat
from headrace_api.operations.endpoint import Endpoint, Prepared, Trace
from headrace_api.operations.renamed import renamed
from headrace_api.operations.services import Services
from headrace_api.output.response_shape import ResponseShape
from headrace_api.output.responses import ResponseAnswer, ResponseStream
from headrace_api.prompt.items import CHAT_NAMES, as_json, chat_body, items_of, turn_starts, without_oldest
from headrace_api.schemas.base import JsonObject
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.responses import Response, ResponsesRequest
from headrace_shared.clock import mono_s
from headrace_shared.errors import ErrorCode, HeadraceError, InvalidRequestError, NotFoundError
from headrace_shared.model_card import ModelCard
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.queue.status import RequestPhase

NAME = "responses"


@dataclass(frozen=True, slots=True)
class AskedResponse:
    """A response as it was asked for; what is known of it without its prompt."""

    body: ResponsesRequest
    ask: Ask
    model: ServedModel

    @property
    def queue(self) -> str:
        return self.model.card.queue

    @property
    def job_id(self) -> str:
        return self.ask.job_ids[0]

    @property
    def blank(self) -> Response:
        """As it is when it is put on the queue."""
        return _blank(self.body, self.ask, self.model.card)

    def items(self) -> list[JsonObject]:
        """All that it answers."""
        earlier = msgspec.json.decode(self.ask.history, type=list[JsonObject]) if self.ask.history else []
        return [*earlier, *as_json(items_of(self.body.input, self.ask.request_id))]


@dataclass(frozen=True, slots=True)
class PlannedResponse:
    """A response that could be put on the queue, or has been."""

    ask: Ask
    model: ServedModel
    job: GenerateJob
    shape: ResponseShape

    def prepared(self) -> Prepared:
        shape = self.shape
        return Prepared(
            self.ask,
            self.model.card,
            [self.job],
            partial(ResponseStream, shape),
            partial(ResponseAnswer, shape),
            receipt=shape.blank,
        )


async def plan(asked: AskedResponse, trace: Trace, services: Services) -> PlannedResponse:
    """Render, tokenize and check. Raises InvalidRequestError."""
    body, ask, model = asked.body, asked.ask, asked.model
    with renamed(CHAT_NAMES):
        planned = await _fitting_plan(asked, trace, services)
    shape = ResponseShape(
        request_id=ask.request_id,
        blank=asked.blank,
        prompt_tokens=len(planned.prompt.token_ids),
        form=planned.form_with_calls("call_"),
        tokenizer=model.tokenizer,
        top_logprobs=(body.top_logprobs or 0) if body.include else None,
    )
    return PlannedResponse(ask, model, planned.job, shape)


async def _prepare(body: ResponsesRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> Prepared:
    return (await plan(AskedResponse(body, ask, model), trace, services)).prepared()


async def _complete(body: ResponsesRequest, ask: Ask, services: Services) -> Ask:
    keep_s = services.settings.response_store_ttl_s if body.wants_store else 0
    if body.background and not keep_s:
        raise InvalidRequestError(
            "background: this server stores no responses, so it could not be fetched.", param="background"
        )
    history = b""
    if body.previous_response_id is not None:
        items = await _conversation(body.previous_response_id, ask.owner, services)
        history = msgspec.json.encode(items)
        if len(history) > services.settings.max_body_bytes:
            raise InvalidRequestError(
                f"previous_response_id: the conversation has come to {len(history)} bytes, more than this server keeps "
                f"({services.settings.max_body_bytes}); begin a new one.",
                param="previous_response_id",
            )
    return msgspec.structs.replace(ask, history=history, keep_s=keep_s, detached=ask.detached or bool(body.background))


RESPONSES = Endpoint(NAME, ResponsesRequest, lambda _body: 1, _prepare, _complete, lambda body: not body.background)


async def find_response(name: str, owner: str, services: Services) -> AskedResponse:
    """A response that is stored. Raises NotFoundError."""
    queue, ask = await find_ask(name, owner, services)
    if ask.endpoint != NAME or not ask.keep_s:
        raise NotFoundError(f"There is no stored response {name[:80]!r}, or it is no longer kept.")
    model = await services.directory.of_queue(queue)
    return AskedResponse(ResponsesRequest.parse(ask.body), ask, model)


async def told(asked: AskedResponse, timeout_s: float, services: Services) -> Response:
    """Its answer, to be waited for. Raises UnavailableError, DeadlineExceededError."""
    planned = await plan(asked, Trace(), services)
    terms = Terms(planned.model.card.name, mono_s(), timeout_s, services.settings.disconnect_linger_s)
    [generation] = await attach(planned.prepared(), terms, services)
    try:
        return await _told(planned.shape, generation)
    finally:
        generation.keep()
        await generation.aclose()


async def _told(shape: ResponseShape, generation: Generation) -> Response:
    answer = ResponseAnswer(shape)
    try:
        while events := await generation.next_events():
            answer.feed(0, events)
    except HeadraceError as error:
        if not generation.failed:
            raise
        return answer.failed(error)
    return answer.finish()


async def _conversation(name: str, owner: str, services: Services) -> list[JsonObject]:
    """All items up to the end of an earlier response. Raises InvalidRequestError when it has not come to one."""
    param = "previous_response_id"
    try:
        earlier = await find_response(name, owner, services)
    except NotFoundError as error:
        raise InvalidRequestError(f"{param}: {error.message}", param=param, code=ErrorCode.NOT_FOUND) from error
    state = await services.queue.state(earlier.queue, earlier.job_id)
    if state is None or state.phase is not RequestPhase.FINISHED:
        phase = "gone" if state is None else state.phase.value
        raise InvalidRequestError(f"{param}: the response {name[:80]!r} is {phase}, it has no answer.", param=param)
    response = await told(earlier, services.settings.request_timeout_s, services)
    return [*earlier.items(), *as_json(response.output)]


async def _fitting_plan(asked: AskedResponse, trace: Trace, services: Services) -> ChatPlan:
    """With ``truncation: auto`` and too long a conversation, without as few of the oldest turns as can be."""
    chat = chat_body(asked.body, asked.items())

    async def without(turns: int) -> ChatPlan:
        messages = without_oldest(chat["messages"], turns) if turns else chat["messages"]
        body = ChatRequest.of(chat | {"messages": messages})
        return await plan_chat(body, asked.ask, asked.model, trace, services)

    most = len(turn_starts(chat["messages"])) - 1
    try:
        return await without(0)
    except InvalidRequestError as error:
        if error.code is not ErrorCode.CONTEXT_LENGTH_EXCEEDED or asked.body.truncation != "auto" or most == 0:
            raise
    fewest = 1
    while fewest < most:
        middle = (fewest + most) // 2
        try:
            await without(middle)
        except InvalidRequestError as error:
            if error.code is not ErrorCode.CONTEXT_LENGTH_EXCEEDED:
                raise
            fewest = middle + 1
        else:
            most = middle
    return await without(fewest)


def _blank(body: ResponsesRequest, ask: Ask, card: ModelCard) -> Response:
    """Values that were left out are shown as they came to be."""
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    choice = body.tool_choice
    temperature = resolved(body.temperature, card.defaults.temperature, 1.0)
    return Response(
        id=f"resp_{ask.request_id}",
        created_at=ask.created,
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=body.model if body.model is not None else card.name,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning={"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        safety_identifier=body.safety_identifier,
        service_tier=body.service_tier if body.service_tier in ("flex", "priority") else "default",
        store=ask.keep_s > 0,
        temperature=temperature,
        text={"format": {"type": "text"}, "verbosity": "medium"} | text,
        tool_choice="auto" if choice is None else choice if isinstance(choice, str) else choice.model_dump(),
        tools=[tool.model_dump() for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=resolved(body.top_p, card.defaults.top_p, 1.0) if temperature else 1.0,
        truncation=body.truncation or "disabled",
        user=body.user,
        metadata=body.metadata or {},
    )
