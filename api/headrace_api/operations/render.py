"""A dry run: everything that happens to a request before it is put on the queue, and no more."""

import msgspec

from headrace_api.directory import ServedModel
from headrace_api.operations.call import Call
from headrace_api.operations.endpoint import Body, Endpoint, Trace
from headrace_api.operations.generation import new_ask
from headrace_api.operations.services import Services
from headrace_api.schemas.base import JsonObject
from headrace_api.schemas.render import Rendered, RenderedPrompt
from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.job import GenerateJob


async def render(endpoint: Endpoint[Body], body: Body, call: Call, services: Services) -> Rendered:
    """Raises what sending the request would, but for the limits of the queue and the client."""
    model = services.directory.resolve(body.model)
    ask = await new_ask(endpoint, body, call, services)
    prepared = await endpoint.prepare(body, ask, model, Trace(), services)
    prompts = await services.tokenizers.run(_shown, prepared.jobs, model)
    return Rendered(model=model.card.name, max_model_len=model.card.max_model_len, prompts=prompts)


def _shown(jobs: list[GenerateJob], model: ServedModel) -> list[RenderedPrompt]:
    shown = []
    for job in jobs:
        token_ids = list(unpack_ids(job.prompt))
        shown.append(
            RenderedPrompt(
                prompt=model.tokenizer.decode(token_ids, skip_special_tokens=False),
                token_ids=token_ids,
                choices=job.n,
                sampling=_fields(job.sampling),
                stopping=_fields(job.stopping),
            )
        )
    return shown


def _fields(spec: msgspec.Struct) -> JsonObject:
    """Defaults as well, which the wire leaves out."""
    return {name: msgspec.to_builtins(value) for name, value in msgspec.structs.asdict(spec).items()}
