"""A model that is none: deterministic tokens at a set pace, without torch.

It stands in for a GPU fleet in protocol tests, load runs and demonstrations: the scheduler, the
queue and the text handling around it are the real ones. A token is a pure function of
(seed, choice, position), as a real model's is of its weights and seed.
"""

import hashlib
import itertools
import json
import time

from headrace_shared.clock import mono_s
from headrace_shared.protocol.event import TokenLogprob, TopLogprob
from headrace_worker.models.files import ModelFiles
from headrace_worker.schedule.beam import Candidate
from headrace_worker.schedule.plan import Plan, Sampled, StepGivenUpError
from headrace_worker.schedule.request import Sequence

MAX_MODEL_LEN = 8192
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
EOS_ID = 1
_BYTES = 256
_FIRST_WORD = len(_SPECIAL) + _BYTES
_WORDS = tuple(
    f"{a}{b}{c}{d}" for a, b, c, d in itertools.product("bdklmnrst", "aeiou", "lmnrst", "aeio")
)  # 1,080 words of four letters
VOCAB_SIZE = _FIRST_WORD + len(_WORDS)
_LOOK_S = 0.005
"""How often a step is asked whether it is still wanted."""
_SHORTEST, _LONGEST = 16, 144
"""Answers end by themselves within these many tokens."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class SimulatedRunner:
    """Runner protocol; every step takes ``step_ms``, whatever is in it."""

    def __init__(self, step_ms: float) -> None:
        self._step_s = step_ms / 1000

    def execute(self, plan: Plan) -> Sampled:
        self._compute(plan)
        sampled = Sampled()
        for part in plan.slices:
            sequence = part.sequence
            if part.prompt_scores:
                wanted = sequence.sampling.prompt_logprobs or 0
                first = part.start + 1
                ids = sequence.token_ids[first : first + part.prompt_scores]
                sampled.prompt_logprobs.append((part, [_logprob(token_id, wanted) for token_id in ids]))
            if part.samples:
                token_id = simulated_token(sequence)
                sampled.token_ids.append(token_id)
                sampled.logprobs.append(_told(sequence, token_id))
                if sequence.sampling.beams is not None:
                    sampled.candidates[sequence] = simulated_candidates(sequence, sequence.sampling.beams.width)
        return sampled

    def _compute(self, plan: Plan) -> None:
        end_s = mono_s() + self._step_s
        while (left_s := end_s - mono_s()) > 0:
            if plan.unwanted is not None and plan.unwanted():
                raise StepGivenUpError
            time.sleep(left_s if plan.unwanted is None else min(left_s, _LOOK_S))


def simulated_token(sequence: Sequence) -> int:
    """The token at the sequence's next position; the end-of-text token where its answer is over."""
    if sequence.thinking is not None:
        forced = sequence.thinking.forced(sequence.token_ids, sequence.prompt_len)
        if forced is not None:
            return forced
    seed, choice, position = sequence.sampling.seed, sequence.choice, sequence.output_len
    length = _SHORTEST + _draw(seed, choice, -1) % (_LONGEST - _SHORTEST)
    ends = position >= max(length, sequence.stopping.min_tokens) and not sequence.stopping.ignore_eos
    return EOS_ID if ends else simulated_id(seed, choice, position)


def simulated_id(seed: int, choice: int, position: int) -> int:
    """The token at that position of an answer that does not end there."""
    return _FIRST_WORD + _draw(seed, choice, position) % len(_WORDS)


def simulated_candidates(sequence: Sequence, width: int) -> list[Candidate]:
    """How a beam could go on: a function of its last token and the position, so that beams differ."""
    seed, position, last = sequence.sampling.seed, sequence.output_len, sequence.token_ids[-1]
    first = _draw(seed, last, position)
    words = [_FIRST_WORD + (first + i) % len(_WORDS) for i in range(2 * width)]
    ends = simulated_token(sequence) == EOS_ID
    token_ids = [EOS_ID, *words[1:]] if ends else words
    return [
        Candidate(token_id, -0.6931 * (i + 1) - last % 7 / 100, _told(sequence, token_id))
        for i, token_id in enumerate(token_ids)
    ]


def simulated_files() -> ModelFiles:
    """A byte-level tokenizer with a thousand words, and a ChatML template."""
    alphabet = _byte_alphabet()
    pieces = [*_SPECIAL, *alphabet, *(f"\u0120{word}" for word in _WORDS)]
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, text in enumerate(_SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [],
        },
    }
    return ModelFiles(
        tokenizer_json=json.dumps(tokenizer).encode(),
        chat_template=CHAT_TEMPLATE,
        eos_token=_SPECIAL[EOS_ID],
    )


def _draw(seed: int, choice: int, position: int) -> int:
    digest = hashlib.blake2b(b"%d/%d/%d" % (seed, choice, position), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _told(sequence: Sequence, token_id: int) -> TokenLogprob | None:
    """What the request wants to be told of a token."""
    spec = sequence.sampling
    if spec.logprobs is None:
        return None
    if spec.logprob_token_ids:
        others = [TopLogprob(other, -9.0, VOCAB_SIZE) for other in spec.logprob_token_ids]
        return TokenLogprob(token_id, -0.6931, 1, others)
    return _logprob(token_id, spec.logprobs)


def _logprob(token_id: int, wanted: int) -> TokenLogprob:
    """As if the taken token had probability 1/2, and the following ids 1/4, 1/8 ..."""
    top = [TopLogprob((token_id + i) % VOCAB_SIZE, -0.6931 * (i + 1), i + 1) for i in range(wanted)]
    return TokenLogprob(token_id, -0.6931, 1, top)


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(hidden)) for byte in range(_BYTES)]
