"""Text completions: what the endpoint does, without HTTP."""

from functools import partial
from itertools import takewhile

from headrace_api.directory import ServedModel
from headrace_api.jobs import Ticket, completion_job, told_logprobs
from headrace_api.operations.endpoint import (
    Endpoint,
    Prepared,
    Trace,
    collector_of,
    envelope,
    grammar_of,
    renderer_of,
    tells_timings,
    tickets,
    tokens_as_ids,
    usage_wanted,
)
from headrace_api.operations.services import Services
from headrace_api.output.completions import CompletionAnswer, CompletionShape, CompletionStream, EchoedPrompt
from headrace_api.prompt.build import Prompt, completion_prompt, truncated
from headrace_api.prompt.fill_in import fill_in_ids
from headrace_api.schemas.completions import CompletionRequest, PromptItem
from headrace_shared.protocol.ask import Ask
from headrace_shared.protocol.job import GenerateJob


async def _prepare(body: CompletionRequest, ask: Ask, model: ServedModel, trace: Trace, services: Services) -> Prepared:
    its_tickets = tickets(ask, trace, services, await grammar_of(body, model.card, services))
    prompts, jobs = await services.tokenizers.run(_prompts_and_jobs, body, model, its_tickets)
    shape = CompletionShape(
        envelope=envelope("cmpl", ask, body, model.card, services),
        tokenizer=model.tokenizer,
        prompts=prompts,
        choices=body.choices,
        logprobs=told_logprobs(jobs[0], asked=body.logprobs is not None),
        echo=bool(body.echo),
        tokens_as_ids=tokens_as_ids(body, services),
        return_token_ids=bool(body.return_token_ids),
        prompt_logprobs=body.prompt_logprobs is not None,
        skip_special_tokens=body.skip_special_tokens is not False,
        include_usage=usage_wanted(body, services),
        continuous_usage=body.continuous_usage,
        prompt_details=services.settings.enable_prompt_tokens_details,
        timings=tells_timings(body, services),
    )
    collector = collector_of(body, len(prompts), partial(CompletionAnswer, shape))
    return Prepared(ask, model.card, jobs, renderer_of(body, services, partial(CompletionStream, shape)), collector)


COMPLETIONS = Endpoint("completions", CompletionRequest, lambda body: len(body.prompt), _prepare)


def _prompts_and_jobs(
    body: CompletionRequest, model: ServedModel, tickets: list[Ticket]
) -> tuple[list[EchoedPrompt], list[GenerateJob]]:
    prompts = [_prompt(body, item, model) for item in body.prompt]
    jobs = [
        completion_job(body, prompt, model.card, model.tokenizer, its_ticket)
        for prompt, its_ticket in zip(prompts, tickets, strict=True)
    ]
    return [_echoed(body, prompt, model) for prompt in prompts], jobs


def _prompt(body: CompletionRequest, item: PromptItem, model: ServedModel) -> Prompt:
    add_special_tokens = body.add_special_tokens is not False
    if body.suffix and isinstance(item, str):
        prompt = Prompt(fill_in_ids(item, body.suffix, model.tokenizer, add_special_tokens=add_special_tokens))
    else:
        prompt = completion_prompt(item, model.card, model.tokenizer, add_special_tokens=add_special_tokens)
    return truncated(prompt, body.truncate_prompt_tokens, body.truncation_side, model.card)


def _echoed(body: CompletionRequest, prompt: Prompt, model: ServedModel) -> EchoedPrompt:
    """The prompt as the client wrote it; ids with all their tokens, special ones too."""
    ids, tokenizer = prompt.token_ids, model.tokenizer
    if not body.echo:
        return EchoedPrompt(ids)
    if prompt.text is None:
        return EchoedPrompt(ids, tokenizer.decode(ids, skip_special_tokens=False))
    rest, unseen = prompt.text, 0
    for token_id in takewhile(tokenizer.special_ids.__contains__, ids):
        shown = tokenizer.token_text(token_id)
        unseen += not rest.startswith(shown)
        rest = rest.removeprefix(shown)
    return EchoedPrompt(ids, prompt.text, unseen)
