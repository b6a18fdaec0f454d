"""Ask: what a client asked for, kept beside its jobs until their results expire.

With it and the token log any API node can tell the answer again, from the beginning or from any point.
"""

import msgspec


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """One HTTP request; it may have put several jobs on the queue."""

    endpoint: str
    """Which answer it gets: ``chat``, ``completions``, ``messages`` or ``responses``."""
    request_id: str
    """Base of its jobs' ids, and what clients name it by."""
    body: bytes
    """The JSON as it was received: preparing it again gives the same jobs and the same rendering."""
    created: int
    """The answer's ``created``, seconds since 1970."""
    owner: str = ""
    """Tenant that may read and cancel it; empty when the server asks for no key."""
    job_ids: tuple[str, ...] = ()
    """The jobs' request ids, in the order of the prompts."""
    tenant: str = "-"
    """Whose share its jobs take; as in their headers, like the following."""
    priority: int = 0
    detached: bool = False
    background: bool = False
    history: bytes = b""
    """What a response goes on from: the items of the conversation before its own input, a JSON list."""
    keep_s: int = 0
    """How long its results are kept after its end, where that is longer than those of others."""
