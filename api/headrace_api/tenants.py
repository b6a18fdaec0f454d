"""Tenants: on whose account a request runs, and what they may do."""

import hashlib
from dataclasses import dataclass, fields, replace

from headrace_api.key_file import NamedKey
from headrace_api.schemas.queued import LONGEST_NAME
from headrace_api.settings import ApiSettings
from headrace_shared.errors import InvalidRequestError

NOBODY = "-"


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    priority_min: int | None = None
    priority_max: int | None = None
    file_bytes: int | None = None
    """Of all uploads together."""
    batch_items: int | None = None
    """Of all batches together that are not done, like the tokens."""
    batch_tokens: int | None = None

    @classmethod
    def of_settings(cls, settings: ApiSettings) -> "TenantLimits":
        return cls(**{limit.name: getattr(settings, limit.name) for limit in fields(cls)})

    def refined(self, key: NamedKey) -> "TenantLimits":
        """What the key's own entry says goes first."""
        own = key.model_dump(exclude={"key", "admin"}, exclude_none=True)
        return replace(self, **own)

    def priority(self, asked: int | None, usual: int = 0) -> int:
        """The priority that a request gets; without a wish the allowed one that is nearest to ``usual``.

        Raises InvalidRequestError when ``asked`` is outside of what is allowed.
        """
        least = -(2**53) if self.priority_min is None else self.priority_min
        most = 2**53 if self.priority_max is None else self.priority_max
        nearest = min(max(usual if asked is None else asked, least), most)
        if asked is not None and asked != nearest:
            bounds = [] if self.priority_min is None else [f"at least {least}"]
            bounds += [] if self.priority_max is None else [f"at most {most}"]
            raise InvalidRequestError(
                f"priority: should be {' and '.join(bounds)} for this client, got {asked}.", param="priority"
            )
        return nearest


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. ``owner``: by whose key it may be seen and cancelled; "" when the server has no keys."""

    tenant: str
    limits: TenantLimits
    owner: str = ""
    admin: bool = False
    """May manage the requests of all owners, and the dead letters."""

    @classmethod
    def with_key(cls, tenant: str, limits: TenantLimits, *, admin: bool = False) -> "Caller":
        return cls(tenant, limits, tenant, admin)

    def named(self, header: str | None, user: str | None) -> "Caller":
        """A client without a key may say for whom it asks, by the header or the body's ``user``.

        Raises InvalidRequestError when the name is too long or has control characters.
        """
        if self.owner:
            return self
        param, name = ("X-Headrace-Tenant", header) if header is not None else ("user", user or NOBODY)
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
            raise InvalidRequestError(
                f"{param}: should be 1 to {LONGEST_NAME} characters without control characters.", param=param
            )
        return replace(self, tenant=name)


def tenant_of_key(key: str) -> str:
    """The tenant of a key that has no name: short, and nothing of the key can be read from it."""
    return "key-" + hashlib.sha256(b"tenant:" + key.encode()).hexdigest()[:12]
