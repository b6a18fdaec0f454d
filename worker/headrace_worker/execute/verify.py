"""From logits to the tokens of a step, those after right guesses included.

There is no rejection sampling. A draw is a function of (seed, choice, position) and of the tokens before it, so the
token after a guess that was right is drawn as it would be in a step of its own, and a guess is right when it is what is
drawn. Every token is therefore the same as without guesses, whoever made them: "drafter-invariant" in the words of
Daliri, Musco and Suresh, "Coupling without Communication and Drafter-Invariant Speculative Decoding" (2024). For a guess
that is no draw itself, the chance to be right is its probability, as in rejection sampling.

The first token of every sequence is drawn, then the second of those whose first guess was right, and so on: what follows
a sequence, such as grammars and counts, only ever goes forward, by tokens that are part of the answer.
"""

from itertools import accumulate

import torch

from headrace_worker.execute.rows import RowSampler
from headrace_worker.schedule.plan import Sampled, Slice


def draw(sampler: RowSampler, logits: torch.Tensor, parts: list[Slice], sampled: Sampled) -> None:
    """Add to ``sampled`` what is drawn for slices that sample, from the logits [rows, vocab] of each slice's last token and
    its guesses, which may be changed in place."""
    if not any(part.guesses for part in parts):
        _draw_first(sampler, logits, parts, sampled)
        return
    ends = accumulate(1 + len(part.guesses) for part in parts)
    starts = {part.sequence: end - 1 - len(part.guesses) for part, end in zip(parts, ends, strict=True)}
    try:
        going, place = parts, 0
        while going:
            rows = torch.tensor([starts[part.sequence] + place for part in going], device=logits.device)
            right = _draw_next(sampler, logits.index_select(0, rows), going, sampled, place)
            going, place = right, place + 1
    finally:
        for part in parts:
            # They were lent, so that the next draw sees them; the scheduler takes them in.
            del part.sequence.token_ids[part.start + part.count - len(part.guesses) :]


def _draw_first(sampler: RowSampler, logits: torch.Tensor, parts: list[Slice], sampled: Sampled) -> None:
    drawn = sampler.sample(logits, [part.sequence for part in parts])
    sampled.token_ids, sampled.logprobs = drawn.token_ids, drawn.logprobs
    sampled.candidates, sampled.failed = drawn.candidates, drawn.failed


def _draw_next(
    sampler: RowSampler, logits: torch.Tensor, parts: list[Slice], sampled: Sampled, place: int
) -> list[Slice]:
    """Draw one token of each slice; the slices whose guess at ``place`` it is, which then ends their tokens."""
    if not place:
        _draw_first(sampler, logits, parts, sampled)
        drawn = list(zip(sampled.token_ids, sampled.logprobs, strict=True))
    else:
        rows = sampler.sample(logits, [part.sequence for part in parts])
        sampled.failed.update(rows.failed)
        drawn = list(zip(rows.token_ids, rows.logprobs, strict=True))
        for part, each in zip(parts, drawn, strict=True):
            sampled.further.setdefault(part.sequence, []).append(each)
    right: list[Slice] = []
    for part, (token_id, _) in zip(parts, drawn, strict=True):
        if part.guesses[place : place + 1] == [token_id] and part.sequence not in sampled.failed:
            part.sequence.token_ids.append(token_id)
            right.append(part)
    return right
