"""DraftModel: a small model that goes ahead of the large one."""

from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch

from headrace_worker.execute.device import using
from headrace_worker.execute.inputs import build_inputs
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.execute.rows import RowSampler
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.load import LoadedModel, ModelSource, load_model
from headrace_worker.models.network import Network
from headrace_worker.schedule.plan import Slice
from headrace_worker.schedule.request import Sequence
from headrace_worker.schedule.speculation.proposer import Wish
from headrace_worker.speculative_config import SpeculativeConfig

_MOST_ROWS = 512
"""Tokens that are caught up on in one step, all sequences together: nobody's next token waits for a long prompt."""


@dataclass(slots=True)
class _Progress:
    """What of a sequence is in the draft model's cache."""

    table: list[int]
    """The sequence's own list of blocks: it gets another one after a preemption."""
    computed: int = 0
    guesses: list[int] = field(default_factory=list)
    """The last of the computed tokens were these, which may have been wrong."""


class DraftModel:
    """A Proposer.

    Its cache has as many blocks as the large model's, and a sequence's block table serves both: a token's keys and values are
    at the same place in either. It computes a sequence when guesses are wanted of it, from where it was; a sequence whose
    blocks are gone, or were found in the prefix cache, from its beginning.

    It draws with the sequence's own parameters and random numbers, so that where both models agree it draws what the
    large one will: a coupling, as that of common random numbers. See ``verify`` for why nothing else is needed.
    """

    free = False

    def __init__(self, network: Network, attention: PagedAttention, sampler: RowSampler, model: LoadedModel) -> None:
        self._network, self._attention, self._sampler = network, attention, sampler
        self._device, self._context = model.device, model.max_model_len
        self._known: WeakKeyDictionary[Sequence, _Progress] = WeakKeyDictionary()

    def propose(self, wishes: list[Wish]) -> list[list[int]]:
        with torch.inference_mode(), using(self._device):
            return self._propose(wishes)

    def ended(self, sequence: Sequence) -> None:
        if self._known.pop(sequence, None) is not None:
            self._sampler.forget(sequence.request_id)

    def _propose(self, wishes: list[Wish]) -> list[list[int]]:
        lengths = {sequence: sequence.num_tokens for sequence, _ in wishes}
        left = {sequence: most for sequence, most in wishes if sequence.num_tokens + most <= self._context}
        try:
            going = self._draw(self._catch_up(list(left)))
            while going := [each for each in going if each.num_tokens - lengths[each] < left[each]]:
                going = self._draw([Slice(each, each.num_tokens - 1, 1, samples=True) for each in going])
            return [sequence.token_ids[length:] for sequence, length in lengths.items()]
        finally:
            for sequence in left:
                known, length = self._known[sequence], lengths[sequence]
                known.guesses = sequence.token_ids[length : known.computed]
                # They were lent, so that the next one is drawn after them.
                del sequence.token_ids[length:]

    def _catch_up(self, sequences: list[Sequence]) -> list[Slice]:
        """The tokens that are not in the cache yet, as far as there is time for them."""
        budget, parts = _MOST_ROWS, []
        for sequence in sequences:
            start = self._progress(sequence).computed
            count = min(sequence.num_tokens - start, budget)
            budget -= count
            if count:
                parts.append(Slice(sequence, start, count, samples=start + count == sequence.num_tokens))
        return parts

    def _draw(self, parts: list[Slice]) -> list[Sequence]:
        """Compute slices, and lend a drawn token to each sequence whose last token they reach: those sequences."""
        if not parts:
            return []
        parts = sorted(parts, key=lambda part: part.count)
        step = build_inputs(parts, self._attention.cache.block_size, self._device)
        self._attention.begin(step.batch)
        hidden = self._network.hidden(step.input_ids, step.positions)
        for part in parts:
            self._known[part.sequence].computed = part.start + part.count
        drawing = [part.sequence for part in parts if part.samples]
        if drawing:
            drawn = self._sampler.sample(self._network.logits(hidden[step.sample_rows]), drawing)
            for sequence, token_id in zip(drawing, drawn.token_ids, strict=True):
                sequence.token_ids.append(token_id)
        return drawing

    def _progress(self, sequence: Sequence) -> _Progress:
        known = self._known.get(sequence)
        if known is None or known.table is not sequence.block_table:
            known = self._known[sequence] = _Progress(sequence.block_table)
        right = known.computed - len(known.guesses)
        for guess in known.guesses:
            if sequence.token_ids[right : right + 1] != [guess]:
                break
            right += 1
        # Of a sequence that is not further than that its last token is computed again, for its logits.
        known.computed, known.guesses = min(right, sequence.num_tokens - 1), []
        return known


def load_draft(target: ModelSource, config: SpeculativeConfig, model: LoadedModel) -> LoadedModel:
    """The draft model that ``config`` names, loaded in the way of the ``target`` that is in memory as ``model``, but whole.

    Raises ModelLoadError, also when the two have different vocabularies.
    """
    assert config.model is not None  # noqa: S101 the configuration has checked it
    source = replace(
        target, model=config.model, revision=config.revision, config=None, overrides={}, load_format="auto",
        max_model_len=config.max_model_len, dtype=str(model.dtype).removeprefix("torch."),
        tensor_parallel_size=1, cpu_offload_bytes=0,
    )  # fmt: skip
    draft = load_model(source)
    if draft.vocab_size != model.vocab_size:
        raise ModelLoadError(
            f"the draft model {config.model} has a vocabulary of {draft.vocab_size} tokens, and the model one of "
            f"{model.vocab_size}: they must be the same"
        )
    return draft
