"""RateLimiter: what each tenant has left of its minute, told in the headers that OpenAI's clients know."""

import asyncio
import logging
from collections.abc import MutableMapping

from headrace_api.tenants import Caller
from headrace_shared.errors import RateLimitedError, UnavailableError
from headrace_shared.queue.rates import Allowance, RateDecision, Rates

log = logging.getLogger(__name__)


class RateLimiter:
    """Asks Redis only for tenants that have a limit."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._under_way: set[asyncio.Task[None]] = set()

    async def admit(self, caller: Caller, tokens: int, headers: MutableMapping[str, str]) -> int:
        """Charge a request that may take so many tokens, and write down in ``headers`` what is left.

        Returns the tokens that were charged: at most a minute's worth. Raises RateLimitedError when it has to wait, UnavailableError when Redis is away.
        """
        limits = caller.limits
        if limits.requests_per_minute is None and limits.tokens_per_minute is None:
            return 0
        decision = await self._charge(caller, tokens)
        for name, allowance in (("requests", decision.requests), ("tokens", decision.tokens)):
            if allowance is not None:
                headers.update(_told(name, allowance))
        if decision.wait_ms:
            raise RateLimitedError(
                f"The rate limit of {caller.tenant!r} is used up: {_in_words(caller)} per minute.",
                retry_after_s=decision.wait_ms / 1000,
            )
        return min(tokens, limits.tokens_per_minute or 0)

    def give_back(self, caller: Caller, tokens: int) -> None:
        """Return tokens that were charged and not needed. Does not wait for Redis."""
        if caller.limits.tokens_per_minute is not None and tokens > 0:
            task = asyncio.create_task(self._give_back(caller, tokens))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _give_back(self, caller: Caller, tokens: int) -> None:
        try:
            await self._charge(caller, -tokens)
        except UnavailableError:
            log.warning("tokens could not be given back", extra={"tenant": caller.tenant, "tokens": tokens})

    async def _charge(self, caller: Caller, tokens: int) -> RateDecision:
        return await self._rates.charge(
            caller.tenant,
            tokens,
            requests_per_minute=caller.limits.requests_per_minute,
            tokens_per_minute=caller.limits.tokens_per_minute,
        )


def _told(name: str, allowance: Allowance) -> dict[str, str]:
    return {
        f"X-RateLimit-Limit-{name.title()}": str(allowance.limit),
        f"X-RateLimit-Remaining-{name.title()}": str(allowance.remaining),
        f"X-RateLimit-Reset-{name.title()}": duration(allowance.reset_ms),
    }


def _in_words(caller: Caller) -> str:
    limits = caller.limits
    parts = [] if limits.requests_per_minute is None else [f"{limits.requests_per_minute} requests"]
    return " and ".join(parts + ([] if limits.tokens_per_minute is None else [f"{limits.tokens_per_minute} tokens"]))


def duration(milliseconds: int) -> str:
    """As OpenAI writes it: ``120ms``, ``1.5s``, ``1m0s``."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest_ms = divmod(milliseconds, 60_000)
    seconds = f"{rest_ms / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds
