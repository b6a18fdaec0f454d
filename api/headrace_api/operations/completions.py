"""Text completions: what the endpoint does, without HTTP."""

from dataclasses import dataclass

from headrace_api.directory import ServedModel
from headrace_api.jobs import Ticket, completion_job
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
from headrace_api.output.completions import CompletionAnswer, CompletionShape, CompletionStream, EchoedPrompt
from headrace_api.prompt.build import Prompt, completion_prompt
from headrace_api.schemas.completions import Completion, CompletionRequest
from headrace_shared.protocol.job import GenerateJob


@dataclass(frozen=True, slots=True)
class _Prepared:
    model: ServedModel
    jobs: list[GenerateJob]
    shape: CompletionShape


async def complete(body: CompletionRequest, call: Call, services: Services) -> Completion:
    """The whole answer at once. Raises HeadraceError."""
    prepared = await _prepare(body, call, services)
    return await collect(prepared.jobs, prepared.model.card, CompletionAnswer(prepared.shape), call, services)


async def stream(body: CompletionRequest, call: Call, services: Services) -> GenerationStream:
    """The answer as frames. Raises HeadraceError for what is known before the first token."""
    prepared = await _prepare(body, call, services)
    return await open_stream(prepared.jobs, prepared.model.card, CompletionStream(prepared.shape), call, services)


async def _prepare(body: CompletionRequest, call: Call, services: Services) -> _Prepared:
    model = services.directory.resolve(body.model)
    request_id = queue_id(call, body)
    grammar = await grammar_of(body, model.card, services)
    tickets = [
        ticket(call, f"{request_id}-{number}" if len(body.prompt) > 1 else request_id, services, grammar)
        for number in range(len(body.prompt))
    ]
    prompts, jobs = await services.tokenizers.run(_prompts_and_jobs, body, model, tickets)
    shape = CompletionShape(
        envelope=envelope("cmpl", request_id, body.model, model.card),
        tokenizer=model.tokenizer,
        prompts=prompts,
        choices=body.choices,
        logprobs=body.logprobs,
        echo=bool(body.echo),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
        return_token_ids=bool(body.return_token_ids),
        prompt_logprobs=body.prompt_logprobs is not None,
        skip_special_tokens=body.skip_special_tokens is not False,
        include_usage=body.include_usage,
        continuous_usage=body.continuous_usage,
    )
    return _Prepared(model, jobs, shape)


def _prompts_and_jobs(
    body: CompletionRequest, model: ServedModel, tickets: list[Ticket]
) -> tuple[list[EchoedPrompt], list[GenerateJob]]:
    add_special_tokens = body.add_special_tokens is not False
    prompts = [
        completion_prompt(item, model.card, model.tokenizer, add_special_tokens=add_special_tokens)
        for item in body.prompt
    ]
    jobs = [
        completion_job(body, prompt, model.card, model.tokenizer, its_ticket)
        for prompt, its_ticket in zip(prompts, tickets, strict=True)
    ]
    return [EchoedPrompt(prompt.token_ids, _echoed(body, prompt, model)) for prompt in prompts], jobs


def _echoed(body: CompletionRequest, prompt: Prompt, model: ServedModel) -> str:
    if not body.echo:
        return ""
    if prompt.text is not None:
        return prompt.text
    return model.tokenizer.decode(prompt.token_ids, skip_special_tokens=body.skip_special_tokens is not False)
