"""Chat completions: what the endpoint does, without HTTP."""

from dataclasses import dataclass, replace
from functools import partial

import msgspec

from headrace_api.directory import ServedModel
from headrace_api.jobs import Ticket, chat_job, told_logprobs
from headrace_api.operations.endpoint import (
    Endpoint,
    Prepared,
    Trace,
    collector_of,
    envelope,
    renderer_of,
    tells_timings,
    tickets,
    tokens_as_ids,
    usage_wanted,
)
from headrace_api.operations.reading import AnswerReading, read_answers
from headrace_api.operations.services import Services
from headrace_api.operations.tool_counts import counted
from headrace_api.operations.tool_use import ToolUse, tool_use
from headrace_api.output.call_ids import CallIdMinter
from headrace_api.output.chat import ChatAnswer, ChatShape, ChatStream
from headrace_api.output.message import MessageForm
from headrace_api.prompt.build import Prompt, chat_prompt, truncated
from headrace_api.schemas.base import JsonObject
from headrace_api.schemas.chat import ChatRequest
from headrace_shared.errors import InvalidRequestError
from headrace_shared.parse.tools.registry import CallIds
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.job import GenerateJob


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """One conversation ready for the queue, and how its answer is to be read; shared by every chat-like endpoint."""

    prompt: Prompt
    job: GenerateJob
    role: str
    """Whose turn the answer is."""
    form: MessageForm
    """What its messages are made of."""

    def form_with_calls(self, prefix: str) -> MessageForm:
        """The same with ids of calls that begin as another API's do, unless the model's family has its own."""
        return replace(self.form, call_ids=replace(self.form.call_ids, prefix=prefix))


async def plan_chat(body: ChatRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> ChatPlan:
    """Render, tokenize and check. Raises InvalidRequestError."""
    use = await tool_use(body, model, services)
    if use.reader is not None:
        name, streaming = model.card.name, bool(body.stream)
        use = replace(use, reader=counted(use.reader, services.metrics, name, ask.endpoint, streaming=streaming))
    [ticket] = tickets(ask, trace, services, use.constraint.told if use.constraint else None)
    prompt, reading, job = await services.tokenizers.run(_planned, body, model, use, ticket)
    form = MessageForm(
        parser=reading.parser,
        call_ids=CallIdMinter(ask.request_id, *_call_ids(body, model)),
        thinks=model.reasoning is not None,
        shows_reasoning=body.include_reasoning is not False,
        named=body.tool_mode == "named",
    )
    role = model.card.response_role if body.opens_reply else str(body.messages[-1]["role"])
    return ChatPlan(prompt, job, role, form)


async def chat_prompt_of(body: ChatRequest, model: ServedModel, services: Services) -> Prompt:
    """The prompt alone, of whatever length. Raises InvalidRequestError."""
    use = await tool_use(body, model, services)
    return await services.tokenizers.run(_prompt, body, model, use.shown)


async def _prepare(body: ChatRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> Prepared:
    plan = await plan_chat(body, ask, model, trace, services)
    shape = chat_shape(body, plan, ask, model, services)
    collector = collector_of(body, 1, partial(ChatAnswer, shape))
    return Prepared(ask, model.card, [plan.job], renderer_of(body, services, partial(ChatStream, shape)), collector)


def chat_shape(body: ChatRequest, plan: ChatPlan, ask: Ask, model: ServedModel, services: Services) -> ChatShape:
    """How the answer is told. Raises InvalidRequestError."""
    return ChatShape(
        envelope=envelope("chatcmpl", ask, body, model.card, services),
        tokenizer=model.tokenizer,
        role=plan.role,
        choices=body.choices,
        prompt_token_ids=plan.prompt.token_ids,
        form=plan.form,
        echo=_echoed(body, plan.role),
        top_logprobs=told_logprobs(plan.job, asked=bool(body.logprobs)),
        tokens_as_ids=tokens_as_ids(body, services),
        return_token_ids=bool(body.return_token_ids),
        include_usage=usage_wanted(body, services),
        continuous_usage=body.continuous_usage,
        prompt_details=services.settings.enable_prompt_tokens_details,
        timings=tells_timings(body, services),
    )


async def kept(body: ChatRequest, ask: Ask, services: Services) -> Ask:
    """With ``store`` the answer is kept as responses are. Raises InvalidRequestError where none is."""
    if not body.store:
        return ask
    keep_s = services.settings.response_store_ttl_s
    if not keep_s:
        raise InvalidRequestError("store: this server stores no answers; leave it out or send false.", param="store")
    return msgspec.structs.replace(ask, keep_s=keep_s)


CHAT = Endpoint("chat", ChatRequest, lambda _body: 1, _prepare, kept)


def _planned(
    body: ChatRequest, model: ServedModel, use: ToolUse, ticket: Ticket
) -> tuple[Prompt, AnswerReading, GenerateJob]:
    prompt = _prompt(body, model, use.shown)
    reading = read_answers(body, model, use, prompt)
    return prompt, reading, _job(body, model, prompt, reading, ticket)


def _prompt(body: ChatRequest, model: ServedModel, tools: list[JsonObject]) -> Prompt:
    template = model.template_for(tools=bool(tools))
    prompt = chat_prompt(body, model.card, model.tokenizer, template, tools)
    return truncated(prompt, body.truncate_prompt_tokens, body.truncation_side, model.card)


def _job(
    body: ChatRequest, model: ServedModel, prompt: Prompt, reading: AnswerReading, its_ticket: Ticket
) -> GenerateJob:
    if its_ticket.grammar is not None:
        its_ticket = replace(its_ticket, grammar=reading.waits.apply(its_ticket.grammar))
    job = chat_job(body, prompt, model.card, model.tokenizer, its_ticket)
    sampling, stopping = job.sampling, job.stopping
    if reading.thinking is not None:
        sampling = msgspec.structs.replace(sampling, thinking=reading.thinking)
    if reading.keeps_special_tokens:
        stopping = msgspec.structs.replace(stopping, skip_special_tokens=False)
    return msgspec.structs.replace(job, sampling=sampling, stopping=stopping)


def _call_ids(body: ChatRequest, model: ServedModel) -> tuple[CallIds, int]:
    style = model.tools.call_ids if model.tools else CallIds.DEFAULT
    return style, sum(len(message.get("tool_calls") or ()) for message in body.messages)


def _echoed(body: ChatRequest, role: str) -> str:
    """The last message's text, when it has the role of the reply."""
    last = body.messages[-1]
    if not body.echo or last["role"] != role:
        return ""
    content = last.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)
