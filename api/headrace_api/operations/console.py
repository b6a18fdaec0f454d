"""The console: looking, and trying again what was given up."""

import logging

from headrace_api.console.feed import Audience, Viewer
from headrace_api.operations.call import Call
from headrace_api.operations.services import Services
from headrace_api.schemas.console import RetriedDeadLetter, RetryDeadLetter
from headrace_shared.errors import ForbiddenError, NotFoundError

log = logging.getLogger(__name__)


def watch(call: Call, services: Services) -> Viewer:
    """What the caller may see, second by second. The caller must ``aclose`` it."""
    return services.console.watch(Audience(call.caller.owner, call.caller.admin))


async def retry(body: RetryDeadLetter, call: Call, services: Services) -> RetriedDeadLetter:
    """Put a dead letter into its queue again, as ``headrace dlq retry`` does.

    Raises ForbiddenError, NotFoundError, InvalidRequestError when its job cannot be read, UnavailableError.
    """
    if not call.caller.admin:
        raise ForbiddenError('Dead letters are for administrators: keys with "admin": true in the keys file.')
    if body.queue not in await services.directory.queues():
        raise NotFoundError(f"There is no queue {body.queue!r}.", param="queue")
    request_id = await services.dead_letters.retry(body.queue, body.id)
    log.info("dead letter retried", extra={"queue": body.queue, "entry": body.id, "new_request": request_id})
    await services.console.look_at_letters()
    return RetriedDeadLetter(request_id=request_id)
