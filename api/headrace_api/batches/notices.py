"""Notices: tells whoever wants to know, by a signed POST, that a batch has ended.

Each is told at least once, by whichever batch worker is alive: what is due is in Redis (``WebhookBook``), so that a
worker that dies over it leaves it to the next one. The event's id is always the same, for receivers to know it again.
"""

import asyncio
import logging
import random
from hashlib import blake2b
from importlib.metadata import version

import httpx
import msgspec

from headrace_api.operations.services import Services
from headrace_api.webhooks import signature
from headrace_shared.clock import wall_s
from headrace_shared.errors import UnavailableError
from headrace_shared.queue.batch_book import BatchState
from headrace_shared.queue.webhook_book import DueWebhook, WebhookOutcome

log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_LEASE_MS = 15_000
"""Longer than an attempt takes."""
_AT_ONCE = 32
_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 3600.0
_KEEP_TRYING_S = 86_400
_AGENT = f"Headrace/{version('headrace')}"


class _Ended(msgspec.Struct, frozen=True):
    id: str


class _Event(msgspec.Struct, frozen=True):
    """As OpenAI has it."""

    id: str
    created_at: int
    type: str
    data: _Ended
    object: str = "event"

    @classmethod
    def of(cls, state: BatchState) -> "_Event":
        digest = blake2b(f"{state.spec.id}:{state.status}".encode(), digest_size=12).hexdigest()
        ended_at = state.times[state.status]
        return cls(f"evt_{digest}", ended_at, f"batch.{state.status}", _Ended(state.spec.id))


class Notices:
    """One per batch worker. Without a secret it leaves all to those that have one."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._book = services.webhooks
        self._secret = services.settings.webhook_secret

    async def send_due(self) -> None:
        """One attempt for each that is due. Raises UnavailableError."""
        if self._secret is None or not (due := await self._book.take(_AT_ONCE, _LEASE_MS)):
            return
        # The environment's proxies and passwords are not for these; authorities of the machine are, beside the public.
        context = httpx.create_ssl_context(trust_env=False)
        context.load_default_certs()
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False, verify=context) as http:
            await asyncio.gather(*(self._tell(http, each) for each in due))

    async def _tell(self, http: httpx.AsyncClient, due: DueWebhook) -> None:
        try:
            state = await self._services.batches.find(due.batch_id)
            if state is None or state.spec.webhook_url is None:
                return
            error = await self._post(http, state.spec.webhook_url, _Event.of(state))
            await self._note(state, due.attempt, error)
        except UnavailableError:
            log.info("webhook is sent again later", extra={"batch": due.batch_id})

    async def _post(self, http: httpx.AsyncClient, url: str, event: _Event) -> str | None:
        """What went wrong, if anything did. What the receiver says besides its status is not read."""
        body, timestamp = msgspec.json.encode(event), str(wall_s())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": _AGENT,
            "webhook-id": event.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self._secret_text(), event.id, timestamp, body),
        }
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                http.stream("POST", url, content=body, headers=headers, timeout=_TIMEOUT_S) as response,
            ):
                return None if response.is_success else f"HTTP {response.status_code}"
        except (TimeoutError, httpx.TimeoutException):
            return f"no answer within {_TIMEOUT_S:.0f} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            log.info("webhook's receiver cannot be reached", extra={"event": event.id, "reason": repr(error)})
            return "cannot be reached"

    def _secret_text(self) -> str:
        return self._secret.get_secret_value() if self._secret is not None else ""

    async def _note(self, state: BatchState, attempt: int, error: str | None) -> None:
        batch_id = state.spec.id
        told = {"batch": batch_id, "attempt": attempt}
        if error is None:
            log.info("webhook was delivered", extra=told)
            await self._book.note(batch_id, WebhookOutcome.DELIVERED)
            return
        wait_s = wait_before_next(attempt, wall_s() - state.times[state.status])
        if wait_s is None:
            log.warning("webhook is given up", extra=told | {"reason": error})
            await self._book.note(batch_id, WebhookOutcome.GIVEN_UP, error)
            return
        log.info("webhook failed, and is sent again", extra=told | {"reason": error, "wait_s": round(wait_s, 1)})
        await self._book.note(batch_id, WebhookOutcome.FAILED, error, round(wait_s * 1000))


def wait_before_next(attempt: int, age_s: float) -> float | None:
    """How long to wait after so many attempts for a batch that ended so long ago; None: it has been tried for a day."""
    if age_s >= _KEEP_TRYING_S:
        return None
    longest = min(_FIRST_WAIT_S * 2.0 ** min(attempt - 1, 30), _LONGEST_WAIT_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, no secret
