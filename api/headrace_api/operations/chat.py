"""Chat completions: what the endpoint does, without HTTP."""

from dataclasses import dataclass

from headrace_api.directory import ServedModel
from headrace_api.jobs import Ticket, chat_job
from headrace_api.operations.generation import (
    Call,
    GenerationStream,
    collect,
    envelope,
    grammar_of,
    open_stream,
    queue_id,
    ticket,
)
from headrace_api.operations.services import Services
from headrace_api.output.chat import ChatAnswer, ChatShape, ChatStream
from headrace_api.prompt.build import Prompt, chat_prompt
from headrace_api.schemas.chat import ChatCompletion, ChatRequest
from headrace_shared.protocol.job import GenerateJob


@dataclass(frozen=True, slots=True)
class _Prepared:
    model: ServedModel
    job: GenerateJob
    shape: ChatShape


async def complete(body: ChatRequest, call: Call, services: Services) -> ChatCompletion:
    """The whole answer at once. Raises HeadraceError."""
    prepared = await _prepare(body, call, services)
    return await collect([prepared.job], prepared.model.card, ChatAnswer(prepared.shape), call, services)


async def stream(body: ChatRequest, call: Call, services: Services) -> GenerationStream:
    """The answer as frames. Raises HeadraceError for what is known before the first token."""
    prepared = await _prepare(body, call, services)
    return await open_stream([prepared.job], prepared.model.card, ChatStream(prepared.shape), call, services)


async def _prepare(body: ChatRequest, call: Call, services: Services) -> _Prepared:
    model = services.directory.resolve(body.model)
    request_id = queue_id(call, body)
    grammar = await grammar_of(body, model.card, services)
    its_ticket = ticket(call, request_id, services, grammar)
    prompt, job = await services.tokenizers.run(_prompt_and_job, body, model, its_ticket)
    role = model.card.response_role if body.opens_reply else str(body.messages[-1]["role"])
    shape = ChatShape(
        envelope=envelope("chatcmpl", request_id, body.model, model.card),
        tokenizer=model.tokenizer,
        role=role,
        choices=body.choices,
        prompt_token_ids=prompt.token_ids,
        echo=_echoed(body, role),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
        return_token_ids=bool(body.return_token_ids),
        include_usage=body.include_usage,
        continuous_usage=body.continuous_usage,
    )
    return _Prepared(model, job, shape)


def _prompt_and_job(body: ChatRequest, model: ServedModel, its_ticket: Ticket) -> tuple[Prompt, GenerateJob]:
    prompt = chat_prompt(body, model.card, model.tokenizer, model.template, body.documents)
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
