"""/v1/messages: a chat in the form of Anthropic's API, without HTTP."""

from functools import partial

from headrace_api.directory import ServedModel
from headrace_api.operations.chat import plan_chat
from headrace_api.operations.endpoint import Endpoint, Prepared, Trace
from headrace_api.operations.renamed import renamed
from headrace_api.operations.services import Services
from headrace_api.output.messages import MessageAnswer, MessageShape, MessageStream
from headrace_api.prompt.build import chat_prompt
from headrace_api.prompt.from_messages import CHAT_NAMES, chat_body
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.messages import CountTokensRequest, MessagesRequest, TokenCount
from headrace_shared.protocol.ask import Ask


async def _prepare(body: MessagesRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> Prepared:
    with renamed(CHAT_NAMES):
        plan = await plan_chat(ChatRequest.of(chat_body(body)), ask, model, trace, services)
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
    with renamed(CHAT_NAMES):
        chat = ChatRequest.of(chat_body(body))
        prompt = await services.tokenizers.run(chat_prompt, chat, model.card, model.tokenizer, model.template)
    return TokenCount(len(prompt.token_ids))
