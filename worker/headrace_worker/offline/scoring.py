"""How likely a text is to a model: log-likelihoods of continuations, as evaluation harnesses ask for them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from headrace_worker.offline.llm import LLM, Progress
from headrace_worker.offline.params import SamplingParams

_SCORED = SamplingParams(max_tokens=0, prompt_logprobs=0)


class Likelihood(NamedTuple):
    """``logprob``: the sum over the continuation's tokens. ``is_greedy``: each of them was the most likely one."""

    logprob: float
    is_greedy: bool


Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, at least one, and of its continuation."""


def loglikelihood(llm: LLM, pairs: Iterable[tuple[str, str]], *, use_tqdm: Progress = True) -> list[Likelihood]:
    """How likely each continuation is after its context; an empty context is the beginning of a text.

    Of what is longer than the model's context the end is scored. Raises ValueError for a continuation that alone is.
    """
    return loglikelihood_tokens(llm, [_encoded(llm, *pair) for pair in pairs], use_tqdm=use_tqdm)


def loglikelihood_rolling(llm: LLM, texts: Iterable[str], *, use_tqdm: Progress = True) -> list[float]:
    """How likely each text is from its beginning, every token of it scored once.

    What is longer than the model's context is scored in pieces, each after what goes before it as far as that fits.
    """
    return rolling_tokens(
        llm, [llm.tokenizer.encode(text, add_special_tokens=False) for text in texts], use_tqdm=use_tqdm
    )


def rolling_tokens(llm: LLM, texts: Sequence[Sequence[int]], *, use_tqdm: Progress = True) -> list[float]:
    """The same for token ids."""
    owned = [
        (owner, pair)
        for owner, ids in enumerate(texts)
        for pair in _windows(ids, llm.prefix_token_id, llm.max_model_len)
    ]
    sums = [0.0] * len(texts)
    likelihoods = loglikelihood_tokens(llm, [pair for _, pair in owned], use_tqdm=use_tqdm)
    for (owner, _), likelihood in zip(owned, likelihoods, strict=True):
        sums[owner] += likelihood.logprob
    return sums


def loglikelihood_tokens(llm: LLM, pairs: Sequence[Pair], *, use_tqdm: Progress = True) -> list[Likelihood]:
    """The same for token ids. Raises ValueError for an empty context."""
    batch = []
    for index, (context, continuation) in enumerate(pairs):
        if not context or len(continuation) >= llm.max_model_len:
            raise ValueError(
                f"pair {index}: needs a context of at least one token and a continuation of at most "
                f"{llm.max_model_len - 1}, has {len(context)} and {len(continuation)}"
            )
        batch.append(llm.prepare([*context, *continuation][-llm.max_model_len :], _SCORED))
    llm.run(batch, use_tqdm, "Scored")
    found = []
    for (_, continuation), running in zip(pairs, batch, strict=True):
        scores = running.scores or []
        told = [entry for entry in scores[len(scores) - len(continuation) :] if entry is not None]
        found.append(Likelihood(sum(entry.logprob for entry in told), all(entry.rank == 1 for entry in told)))
    return found


def _windows(ids: Sequence[int], prefix: int, longest: int) -> Iterator[Pair]:
    """Cut a text into pairs of at most ``longest`` tokens whose continuations are all of it.

    The first has ``prefix`` before it; the last one has as much context as there is room for.
    """
    step = longest - 1
    for start in range(0, len(ids), step):
        end = min(start + step, len(ids))
        if start == 0:
            yield [prefix], ids[:end]
        else:
            yield ids[end - step - 1 : start], ids[start:end]


def _encoded(llm: LLM, context: str, continuation: str) -> Pair:
    if not context:
        return [llm.prefix_token_id], llm.tokenizer.encode(continuation, add_special_tokens=False)
    # A word begins with its blank.
    kept = context.rstrip()
    whole = llm.tokenizer.encode(context + continuation, add_special_tokens=True)
    before = llm.tokenizer.encode(kept, add_special_tokens=True)
    return whole[: len(before)], whole[len(before) :]
