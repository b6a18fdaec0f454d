"""/v1/messages: a chat in the form of Anthropic's API, without HTTP."""

from collections.abc import Mapping
from functools import partial

from headrace_api.directory import ServedModel
from headrace_api.operations.chat import plan_chat
from headrace_api.operations.endpoint import Endpoint, Prepared, Trace
from headrace_api.operations.services import Services
from headrace_api.output.messages import MessageAnswer, MessageShape, MessageStream
from headrace_api.prompt.build import chat_prompt
from headrace_api.prompt.from_messages import CHAT_NAMES, chat_body
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.messages import CountTokensRequest, MessagesRequest, TokenCount
from headrace_shared.errors import InvalidRequestError
from headrace_shared.protocol.ask import Ask


async def _prepare(body: MessagesRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> Prepared:
    try:
        plan = await plan_chat(ChatRequest.of(chat_body(body)), ask, model, trace, services)
    except InvalidRequestError as error:
        raise renamed(error, CHAT_NAMES) from error
    shape = MessageShape(
        request_id=ask.request_id,
        model=body.model if body.model is not None else model.card.name,
        prompt_tokens=len(plan.prompt.token_ids),
        parser=plan.parser,
    )
    return Prepared(ask, model.card, [plan.job], partial(MessageStream, shape), partial(MessageAnswer, shape))


MESSAGES = Endpoint("messages", MessagesRequest, lambda _body: 1, _prepare)


async def count_tokens(body: CountTokensRequest, services: Services) -> TokenCount:
    """How long a prompt would be. Raises HeadraceError."""
    model = services.directory.resolve(body.model)
    try:
        chat = ChatRequest.of(chat_body(body))
        prompt = await services.tokenizers.run(chat_prompt, chat, model.card, model.tokenizer, model.template)
    except InvalidRequestError as error:
        raise renamed(error, CHAT_NAMES) from error
    return TokenCount(len(prompt.token_ids))


def renamed(error: InvalidRequestError, names: Mapping[str, str]) -> InvalidRequestError:
    """The error of a chat request in the words of the request that it was made of."""
    param = error.param or ""
    name = next((name for name in names if param == name or param.startswith((f"{name}.", f"{name}["))), None)
    if name is None:
        return error
    there = names[name] + param[len(name) :]
    message = there + error.message[len(param) :] if error.message.startswith(param) else error.message
    return InvalidRequestError(message, param=there, code=error.code)
