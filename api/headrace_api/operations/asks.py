"""Coming back to what was asked: finding an Ask, and following its jobs from their beginning."""

from headrace_api.dispatch import Generation, Terms
from headrace_api.operations.endpoint import Prepared
from headrace_api.operations.services import Services
from headrace_shared.errors import NotFoundError
from headrace_shared.protocol.ask import Ask

_PREFIXES = ("chatcmpl-", "cmpl-", "msg_", "resp_")


async def find_ask(name: str, owner: str | None, services: Services) -> tuple[str, Ask]:
    """By the request's id, or its answer's; and the queue that it is on. ``owner`` None: whoever it belongs to.

    Raises NotFoundError; what belongs to others is not told from what does not exist.
    """
    names = [name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)]
    queues = await services.directory.queues()
    for each in (*names, name):
        found = await services.queue.find(queues, each)
        if found is not None and owner in (None, found[1].owner):
            return found
    raise NotFoundError(f"There is no request {name[:80]!r}, or its result is no longer kept.")


async def attach(prepared: Prepared, terms: Terms, services: Services) -> list[Generation]:
    """All jobs, to be closed by the caller. Raises UnavailableError."""
    generations: list[Generation] = []
    try:
        for job in prepared.jobs:
            generations.append(await services.dispatcher.attach(job, terms))
    except BaseException:
        for generation in generations:
            await generation.aclose()
        raise
    return generations
