"""From a checked request and its prompt to the job that a worker gets: every default resolved, every limit applied."""

import hashlib
import re
from dataclasses import dataclass

from headrace_api.prompt.build import Prompt, check_token_ids
from headrace_api.schemas.chat import ChatRequest
from headrace_api.schemas.completions import CompletionRequest
from headrace_api.schemas.decoding import RepetitionDetection
from headrace_api.schemas.generation import GenerationRequest
from headrace_shared.errors import ErrorCode, InvalidRequestError
from headrace_shared.model_card import ModelCard
from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.grammar import GrammarSpec
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import (
    BeamSpec,
    ProcessorCall,
    RepetitionSpec,
    SamplingSpec,
    StoppingSpec,
    ThinkingSpec,
)
from headrace_shared.text.tokenizer import Tokenizer

COMPLETION_MAX_TOKENS = 16
_LOWEST_TEMPERATURE = 0.01
"""Below it logits overflow; only 0 itself means greedy."""
_MOST_BAD_WORD_TOKENS = 1024
_SHORTEST_PREFIX_POWER = 6
_MOST_PREFIXES = 3


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a job carries besides its request."""

    request_id: str
    """Unique on the queue, whatever ids clients send."""
    traceparent: str | None = None
    tracestate: str | None = None
    linked: str | None = None
    """As in ``JobHeader``."""
    tenant: str = "-"
    priority: int = 0
    detached: bool = False
    background: bool = False
    max_stop_strings: int = 64
    strict_max_tokens: bool = False
    grammar: GrammarSpec | None = None
    """What the answer must look like, already checked."""
    thinking: ThinkingSpec | None = None
    """How long it may think first."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """Where the two endpoints differ."""

    prompt_param: str
    max_tokens: int | None
    logprobs: int | None
    prompt_logprobs: int | None


def chat_job(body: ChatRequest, prompt: Prompt, card: ModelCard, tokenizer: Tokenizer, ticket: Ticket) -> GenerateJob:
    """The job for one chat request. Raises InvalidRequestError for what this model cannot do."""
    ask = _Ask(
        prompt_param="messages",
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=_logprobs(card, "top_logprobs", (body.top_logprobs or 0) if body.logprobs else None),
        prompt_logprobs=_logprobs(card, "prompt_logprobs", _told_of_prompt(body)),
    )
    return _job(body, ask, prompt, card, tokenizer, ticket)


def completion_job(
    body: CompletionRequest, prompt: Prompt, card: ModelCard, tokenizer: Tokenizer, ticket: Ticket
) -> GenerateJob:
    """The job for one prompt of a completion request. Raises InvalidRequestError as above."""
    scores_prompt = body.echo and body.logprobs is not None and body.prompt_logprobs is None
    ask = _Ask(
        prompt_param="prompt",
        max_tokens=COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        logprobs=_logprobs(card, "logprobs", body.logprobs),
        prompt_logprobs=_logprobs(card, "prompt_logprobs", body.logprobs if scores_prompt else _told_of_prompt(body)),
    )
    return _job(body, ask, prompt, card, tokenizer, ticket)


def _told_of_prompt(body: GenerationRequest) -> int | None:
    """A stream tells no logprobs of its prompt, so that there they are not computed either."""
    return None if body.stream else body.prompt_logprobs


def _job(
    body: GenerationRequest, ask: _Ask, prompt: Prompt, card: ModelCard, tokenizer: Tokenizer, ticket: Ticket
) -> GenerateJob:
    max_tokens = _fitting_max_tokens(ask, len(prompt.token_ids), card)
    if ticket.strict_max_tokens:
        _check_room(body, ask, len(prompt.token_ids), card)
    stopping = _stopping(body, max_tokens, card, ticket.max_stop_strings)
    packed = pack_ids(prompt.token_ids)
    header = JobHeader(
        request_id=ticket.request_id,
        queue=card.queue,
        priority=ticket.priority,
        tenant=ticket.tenant,
        cost_tokens=(len(prompt.token_ids) + max_tokens) * body.sequences,
        traceparent=ticket.traceparent,
        tracestate=ticket.tracestate,
        linked=ticket.linked,
        detached=ticket.detached,
        background=ticket.background,
        affinity=prefix_digests(packed, body.cache_salt or ""),
    )
    return GenerateJob(
        header=header,
        prompt=packed,
        n=body.samples,
        cache_salt=body.cache_salt or "",
        sampling=_sampling(body, ask, card, tokenizer, ticket),
        stopping=stopping,
    )


def _fitting_max_tokens(ask: _Ask, prompt_tokens: int, card: ModelCard) -> int:
    """Cut to the room that the prompt leaves, and to the model's own cap."""
    room = card.max_model_len - prompt_tokens
    if prompt_tokens == 0:
        raise InvalidRequestError("The prompt has no tokens.", param=ask.prompt_param)
    if room < (0 if ask.max_tokens == 0 else 1):
        raise InvalidRequestError(
            # The words of OpenAI and Anthropic: client libraries look for them, to shorten conversations by themselves.
            f"This model's maximum context length is {card.max_model_len} tokens, of which an answer needs at least "
            f"one, and this prompt is too long: it has {prompt_tokens} tokens.",
            param=ask.prompt_param,
            code=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        )
    limits = [limit for limit in (room, ask.max_tokens, card.defaults.max_tokens) if limit is not None]
    return min(limits)


def _check_room(body: GenerationRequest, ask: _Ask, prompt_tokens: int, card: ModelCard) -> None:
    """Raise InvalidRequestError unless everything that is asked for fits, as servers that cut no answer have it."""
    if ask.max_tokens is None or prompt_tokens + ask.max_tokens <= card.max_model_len:
        return
    param = "max_completion_tokens" if getattr(body, "max_completion_tokens", None) else "max_tokens"
    raise InvalidRequestError(
        f"{param}: should be at most {card.max_model_len - prompt_tokens}, as the prompt has {prompt_tokens} tokens "
        f"and the model {card.name!r} a context of {card.max_model_len}, got {ask.max_tokens}.",
        param=param,
        code=ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    )


def _stopping(body: GenerationRequest, max_tokens: int, card: ModelCard, max_stop_strings: int) -> StoppingSpec:
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens: is {min_tokens}, more than the {max_tokens} tokens that may be generated.", param="min_tokens"
        )
    stop = body.stop or []
    if len(stop) > max_stop_strings:
        raise InvalidRequestError(
            f"stop: this server takes up to {max_stop_strings} stop strings, got {len(stop)}.", param="stop"
        )
    stop_token_ids = body.stop_token_ids or []
    check_token_ids(stop_token_ids, card, "stop_token_ids")
    return StoppingSpec(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop=tuple(dict.fromkeys(stop)),
        stop_token_ids=tuple(dict.fromkeys(stop_token_ids)),
        ignore_eos=bool(body.ignore_eos),
        include_stop_str_in_output=bool(body.include_stop_str_in_output),
        skip_special_tokens=body.skip_special_tokens is not False,
        spaces_between_special_tokens=body.spaces_between_special_tokens is not False,
        repetition=_repetition(body.repetition_detection),
    )


def prefix_digests(packed: bytes, salt: str = "") -> tuple[bytes, ...]:
    """Names of the beginnings of a prompt, as many tokens long as a power of two: the longest three, the longest last.

    Empty for less than 64 tokens, which are computed as fast as they are found. ``packed`` as in ``GenerateJob.prompt``.
    """
    tokens = len(packed) // 4
    key = hashlib.blake2b(salt.encode(), digest_size=16).digest() if salt else b""
    lengths = [1 << power for power in range(_SHORTEST_PREFIX_POWER, tokens.bit_length())][-_MOST_PREFIXES:]
    return tuple(hashlib.blake2b(packed[: 4 * length], digest_size=8, key=key).digest() for length in lengths)


def _seed(request_id: str) -> int:
    """For a request that names none: its id's, so that preparing it again gives the same job."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest()) >> 1


def _sampling(
    body: GenerationRequest, ask: _Ask, card: ModelCard, tokenizer: Tokenizer, ticket: Ticket
) -> SamplingSpec:
    defaults = card.defaults
    temperature = resolved(body.temperature, defaults.temperature, 1.0)
    greedy = temperature == 0
    beams = BeamSpec(body.sequences, resolved(body.length_penalty, None, 1.0)) if body.use_beam_search else None
    if greedy and body.choices > 1 and beams is None:
        raise InvalidRequestError(
            f"n: must be 1 with temperature 0, where every choice would be the same, got {body.choices}.", param="n"
        )
    top_k = int(resolved(body.top_k, defaults.top_k, 0))
    uncut = greedy or beams is not None
    logprob_token_ids = body.logprob_token_ids or []
    check_token_ids(logprob_token_ids, card, "logprob_token_ids")
    if body.allowed_token_ids is not None:
        check_token_ids(body.allowed_token_ids, card, "allowed_token_ids")
    return SamplingSpec(
        seed=_seed(ticket.request_id) if body.seed in (None, -1) else body.seed or 0,
        temperature=temperature if greedy else max(temperature, _LOWEST_TEMPERATURE),
        top_p=1.0 if uncut else resolved(body.top_p, defaults.top_p, 1.0),
        top_k=top_k if 0 < top_k < card.vocab_size and not uncut else 0,
        min_p=0.0 if uncut else resolved(body.min_p, defaults.min_p, 0.0),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=resolved(body.repetition_penalty, defaults.repetition_penalty, 1.0),
        logit_bias=_logit_bias(body.logit_bias or {}, card),
        allowed_token_ids=None if body.allowed_token_ids is None else tuple(dict.fromkeys(body.allowed_token_ids)),
        bad_words=_bad_words(body.bad_words or [], tokenizer),
        # The best samples are found by them.
        logprobs=0 if ask.logprobs is None and body.samples > body.choices else ask.logprobs,
        prompt_logprobs=ask.prompt_logprobs,
        grammar=ticket.grammar,
        thinking=ticket.thinking,
        beams=beams,
        logits_processors=_processors(body, card),
        logprob_token_ids=tuple(dict.fromkeys(logprob_token_ids)),
    )


def resolved(asked: float | None, default: float | None, fixed: float) -> float:
    """What the request says, else the model, else everybody."""
    if asked is not None:
        return asked
    return fixed if default is None else default


def told_logprobs(job: GenerateJob, *, asked: bool) -> int | None:
    """How many candidates the answer shows beside each token; None: no log-probabilities."""
    return (len(job.sampling.logprob_token_ids) or job.sampling.logprobs) if asked else None


def _logprobs(card: ModelCard, param: str, asked: int | None) -> int | None:
    """-1 stands for the whole vocabulary. Raises InvalidRequestError for more than the model's workers tell."""
    if asked == -1 and card.max_logprobs >= card.vocab_size:
        return card.vocab_size
    if asked is not None and not 0 <= asked <= card.max_logprobs:
        raise InvalidRequestError(
            f"{param}: should be at most {card.max_logprobs} for this model, got {asked}.", param=param
        )
    return asked


def _processors(body: GenerationRequest, card: ModelCard) -> tuple[ProcessorCall, ...]:
    """Raises InvalidRequestError for a name that the operator has not allowed."""
    calls = [
        ProcessorCall(asked)
        if isinstance(asked, str)
        else ProcessorCall(asked.qualname, True, tuple(asked.args or ()), asked.kwargs or {})
        for asked in body.logits_processors or ()
    ]
    pattern = card.logits_processor_pattern
    for number, call in enumerate(calls):
        if pattern is None or not re.fullmatch(pattern, call.qualname):
            raise InvalidRequestError(
                f"logits_processors[{number}]: {call.qualname[:80]!r} is not allowed by this server; "
                "see its option --logits-processor-pattern.",
                param="logits_processors",
            )
    return tuple(calls)


def _repetition(asked: RepetitionDetection | None) -> RepetitionSpec | None:
    if asked is None or asked.max_pattern_size == 0:
        return None
    return RepetitionSpec(asked.max_pattern_size, asked.min_count, asked.min_pattern_size or 1)


def _logit_bias(asked: dict[str, float], card: ModelCard) -> dict[int, float]:
    bias = {}
    for key, value in asked.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < card.vocab_size):
            raise InvalidRequestError(
                f"logit_bias: keys are token ids between 0 and {card.vocab_size - 1}, "
                f"the model's vocabulary of {card.vocab_size}; got {key[:40]!r}.",
                param="logit_bias",
            )
        bias[int(key)] = max(-100.0, min(100.0, float(value)))
    return bias


def _bad_words(words: list[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Each word as it is written at the very beginning, and after a blank."""
    sequences = dict.fromkeys(
        tuple(tokenizer.encode(blank + word.lstrip(" "), add_special_tokens=False))
        for word in words
        for blank in ("", " ")
    )
    sequences.pop((), None)
    if sum(map(len, sequences)) > _MOST_BAD_WORD_TOKENS:
        raise InvalidRequestError(
            f"bad_words: together they may have {_MOST_BAD_WORD_TOKENS} tokens at most.", param="bad_words"
        )
    return tuple(sequences)
