"""Already-validated decoding parameters, as they cross the queue."""

from typing import Any

import msgspec

from headrace_shared.protocol.grammar import GrammarSpec


class BeamSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Search for the most likely answers instead of drawing them."""

    width: int
    """Beams that are kept; at least the job's ``n``, which of the best are told."""
    length_penalty: float = 1.0
    """An answer's score is the sum of its tokens' log-probabilities over its number of tokens to this power."""


class ThinkingSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long an answer may think before its end marker is forced. Everything is looked for in the text of its tokens."""

    budget_tokens: int
    """Tokens of the thinking part; markers do not count."""
    end_ids: tuple[int, ...]
    """What is forced, token by token, when they are spent; at least one."""
    ends: tuple[str, ...]
    """Texts of which any ends the thinking part, that of ``end_ids`` among them."""
    starts: tuple[str, ...] = ()
    """Texts of which one may begin the answer, after white space, and so the thinking part."""
    opened: bool = False
    """An answer that begins with none of them thinks as well: the prompt has opened the part, or the model always does."""


class ProcessorCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A logits processor of the operator's own, by the name under which Python imports it."""

    qualname: str
    build: bool = False
    """The name is that of a factory, to be called with ``args`` and ``kwargs``; else it is the processor."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


class RepetitionSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an answer is taken to go round in circles: the same tokens, so many times in a row at its end."""

    max_pattern_tokens: int
    min_count: int
    """At least 2."""
    min_pattern_tokens: int = 1


class SamplingSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the next token is drawn. Every value is legal and every default resolved before it gets here.

    ``seed`` is always set (drawn at enqueue when the client gave none), so that any worker
    draws the same token for the same (seed, choice, position).
    """

    seed: int = 0
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means off."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Token sequences that must not be completed; a sequence of one token is never drawn."""
    logprobs: int | None = None
    """None: no logprobs. 0: of the sampled token only. k: also of the k most likely tokens."""
    prompt_logprobs: int | None = None
    grammar: GrammarSpec | None = None
    """What the answer must look like; None: anything."""
    thinking: ThinkingSpec | None = None
    """None: as long as it likes."""
    beams: BeamSpec | None = None
    """None: every choice is drawn by itself."""
    logits_processors: tuple[ProcessorCall, ...] = ()
    """In the order in which they are applied."""
    logprob_token_ids: tuple[int, ...] = ()
    """With them ``logprobs`` tells of these tokens beside the sampled one, instead of the most likely ones."""


class StoppingSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """When generation ends, and how its text is shown."""

    max_tokens: int = 16
    """Already clamped to the room left in the context; 0 means score the prompt only."""
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    repetition: RepetitionSpec | None = None
    """None: an answer may repeat itself."""
