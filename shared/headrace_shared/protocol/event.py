"""Events: what a worker says about a request, in order.

A frame is the list of events that one engine step produced for one request. Frames are numbered
from 1 without gaps, stored in the request's token log and published on its channel.
"""

import enum

import msgspec

from headrace_shared.errors import ErrorCode


class FinishReason(enum.StrEnum):
    """Why a choice ended, in OpenAI's words where it has one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    REPETITION = "repetition"
    """Not OpenAI's: the answer went round in circles, see ``RepetitionSpec``."""


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One candidate at one position."""

    token_id: int
    logprob: float
    rank: int
    """1 is the most likely token."""


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The token that was taken at one position, and the most likely ones there (best first)."""

    token_id: int
    logprob: float
    rank: int
    top: list[TopLogprob] = []


class Started(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """A worker's engine has accepted the request (again, after a continuation: ``attempt`` > 1)."""

    worker: str
    attempt: int = 1
    queue_ms: float = 0.0
    traceparent: str | None = None
    """The span of this attempt; the next one, if there is one, links to it."""


class PromptScored(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """Log-probabilities of the prompt's tokens; the first entry is None. Sent once, before the first Delta."""

    entries: list[TokenLogprob | None]


class Delta(msgspec.Struct, frozen=True, array_like=True, tag="d"):
    """New tokens of one choice.

    ``text`` is what may be shown now; it can lag behind ``token_ids`` (half a character, a stop
    string that may be beginning) and catch up in a later Delta. A Delta with ``finish_reason``
    is the last of its choice.
    """

    choice: int
    token_ids: list[int]
    text: str
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token id that ended the choice; None for end-of-text and length."""


class Finished(msgspec.Struct, frozen=True, array_like=True, tag="f"):
    """Every choice has ended. The last event of a request that went well."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """The request ended without an answer. The last event of a request that went wrong."""

    code: ErrorCode
    message: str
    param: str | None = None


Event = Started | PromptScored | Delta | Finished | Failed
TERMINAL = (Finished, Failed)
