"""Jobs: what an API node asks of a worker."""

import msgspec

from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec


class JobHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the queue needs to know of any job, whatever its kind."""

    request_id: str
    queue: str
    """Which queue it travels on: ``ModelCard.queue`` of the model that serves it."""
    priority: int = 0
    """Lower goes first."""
    tenant: str = "-"
    cost_tokens: int = 0
    """Tokens the job is expected to take: prompt + n times the likely output. Workers claim and tenants are charged by it."""
    traceparent: str | None = None
    tracestate: str | None = None
    detached: bool = False
    """Goes on although nobody listens, for somebody who comes back."""
    affinity: tuple[bytes, ...] = ()
    """Digests of beginnings of the prompt, the longest last: a worker that has served one of them has it cached."""
    background: bool = False
    """Takes only what others leave of a worker: it may be paused at any token, and goes on later."""
    linked: str | None = None
    """Span, as ``traceparent`` names one, of the work that this is an item of; the item is a trace of its own."""


class GenerateJob(msgspec.Struct, frozen=True, omit_defaults=True, tag="generate"):
    """Generate ``n`` continuations of one prompt."""

    header: JobHeader
    prompt: bytes
    """Prompt token ids, unsigned 32 bit little endian (``codec.pack_ids``)."""
    n: int = 1
    sampling: SamplingSpec = SamplingSpec()
    stopping: StoppingSpec = StoppingSpec()
    cache_salt: str = ""
    """Requests share cached prompts only with those of the same salt."""

    @property
    def sequences(self) -> int:
        """How many sequences a worker computes at once for it."""
        return self.n if self.sampling.beams is None else self.sampling.beams.width


Job = GenerateJob
"""Every kind of job; a union once there are more."""
