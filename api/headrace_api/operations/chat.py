"""Chat completions: what the endpoint does, without HTTP."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from headrace_api.directory import ServedModel
from headrace_api.jobs import Ticket, chat_job
from headrace_api.operations.endpoint import (
    Endpoint,
    Prepared,
    Trace,
    collector_of,
    envelope,
    grammar_of,
    tells_timings,
    tickets,
    tokens_as_ids,
)
from headrace_api.operations.services import Services
from headrace_api.output.chat import ChatAnswer, ChatShape, ChatStream
from headrace_api.parse.message import MessageParser
from headrace_api.prompt.build import Prompt, chat_prompt, truncated
from headrace_api.schemas.chat import ChatRequest
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.job import GenerateJob


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """One conversation ready for the queue, and how its answer is to be read; shared by every chat-like endpoint."""

    prompt: Prompt
    job: GenerateJob
    role: str
    """Whose turn the answer is."""
    parser: Callable[[], MessageParser]
    """Makes the parser of one choice."""


async def plan_chat(body: ChatRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> ChatPlan:
    """Render, tokenize and check. Raises InvalidRequestError."""
    [ticket] = tickets(ask, trace, services, await grammar_of(body, model.card, services))
    prompt, job = await services.tokenizers.run(_prompt_and_job, body, model, ticket)
    role = model.card.response_role if body.opens_reply else str(body.messages[-1]["role"])
    return ChatPlan(prompt, job, role, MessageParser)


async def _prepare(body: ChatRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> Prepared:
    plan = await plan_chat(body, ask, model, trace, services)
    shape = ChatShape(
        envelope=envelope("chatcmpl", ask, body, model.card),
        tokenizer=model.tokenizer,
        role=plan.role,
        choices=body.choices,
        prompt_token_ids=plan.prompt.token_ids,
        echo=_echoed(body, plan.role),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        tokens_as_ids=tokens_as_ids(body, services),
        return_token_ids=bool(body.return_token_ids),
        include_usage=body.include_usage,
        continuous_usage=body.continuous_usage,
        prompt_details=services.settings.enable_prompt_tokens_details,
        timings=tells_timings(body, services),
    )
    collector = collector_of(body, 1, partial(ChatAnswer, shape))
    return Prepared(ask, model.card, [plan.job], partial(ChatStream, shape), collector)


CHAT = Endpoint("chat", ChatRequest, lambda _body: 1, _prepare)


def _prompt_and_job(body: ChatRequest, model: ServedModel, its_ticket: Ticket) -> tuple[Prompt, GenerateJob]:
    prompt = chat_prompt(body, model.card, model.tokenizer, model.template, body.documents)
    prompt = truncated(prompt, body.truncate_prompt_tokens, body.truncation_side, model.card)
    return prompt, chat_job(body, prompt, model.card, model.tokenizer, its_ticket)


def _echoed(body: ChatRequest, role: str) -> str:
    """The last message's text, when it has the role of the reply."""
    last = body.messages[-1]
    if not body.echo or last["role"] != role:
        return ""
    content = last.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)
