"""/v1/messages: a chat in the form of Anthropic's API, without HTTP."""

from functools import partial

from headrace_api.directory import ServedModel
from headrace_api.operations.chat import chat_prompt_of, plan_chat
from headrace_api.operations.endpoint import Endpoint, Prepared, Trace
from headrace_api.operations.renamed import renamed
from headrace_api.operations.services import Services
from headrace_api.output.anthropic import MessageAnswer, MessageShape, MessageStream
from headrace_api.prompt.anthropic import CHAT_NAMES, chat_body
from headrace_api.schemas.anthropic import CountTokensRequest, MessagesRequest, TokenCount
from headrace_api.schemas.chat import ChatRequest
from headrace_shared.protocol.ask import Ask


async def _prepare(body: MessagesRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> Prepared:
    with renamed(CHAT_NAMES):
        plan = await plan_chat(ChatRequest.of(chat_body(body)), ask, model, trace, services)
    shape = MessageShape(
        request_id=ask.request_id,
        model=body.model if body.model is not None else model.card.name,
        prompt_tokens=len(plan.prompt.token_ids),
        form=plan.form_with_calls("toolu_"),
    )
    return Prepared(ask, model.card, [plan.job], partial(MessageStream, shape), partial(MessageAnswer, shape))


MESSAGES = Endpoint("messages", MessagesRequest, lambda _body: 1, _prepare)


async def count_tokens(body: CountTokensRequest, services: Services) -> TokenCount:
    """How long a prompt would be. Raises HeadraceError."""
    model = services.directory.resolve(body.model)
    with renamed(CHAT_NAMES):
        prompt = await chat_prompt_of(ChatRequest.of(chat_body(body)), model, services)
    return TokenCount(len(prompt.token_ids))
