"""Rates: how much each tenant may ask for per minute, counted in Redis for all API nodes together."""

import hashlib
from dataclasses import dataclass

from redis.asyncio import Redis

from headrace_shared.queue import keys
from headrace_shared.queue.scripts import Script, run_script


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a limit, and how long until all of it is back."""

    limit: int
    remaining: int
    reset_ms: int


@dataclass(frozen=True, slots=True)
class RateDecision:
    """``wait_ms`` 0: the request is accepted, and charged. A limit that is not set has no allowance."""

    wait_ms: int
    requests: Allowance | None
    tokens: Allowance | None


class Rates:
    """Every method raises UnavailableError when Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def charge(
        self, tenant: str, tokens: int, *, requests_per_minute: int | None, tokens_per_minute: int | None
    ) -> RateDecision:
        """Take one request with so many tokens from the tenant's rates, if both allow it.

        A minute's worth may be taken at once. Negative ``tokens`` give back what was not needed, and count no request.
        """
        requests, at_most = requests_per_minute or 0, tokens_per_minute or 0
        digest = hashlib.blake2b(tenant.encode(), digest_size=16).hexdigest()
        wait_ms, requests_left, requests_ms, tokens_left, tokens_ms = await run_script(
            self._redis, Script.RATE_LIMIT, keys.rate(digest), requests, at_most, tokens
        )
        return RateDecision(
            wait_ms,
            Allowance(requests, requests_left, requests_ms) if requests else None,
            Allowance(at_most, tokens_left, tokens_ms) if at_most else None,
        )
