"""Sampler: logits to tokens, each row by its own request's parameters."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from headrace_shared.protocol.event import TokenLogprob
from headrace_worker.execute.device import on_device
from headrace_worker.execute.logits.base import LogitsProcessor
from headrace_worker.execute.logits.beams import BeamRows
from headrace_worker.execute.logits.bias import AllowedTokens, BadWords, LogitBias
from headrace_worker.execute.logits.draw import draw
from headrace_worker.execute.logits.forced import ForcedTokens
from headrace_worker.execute.logits.grammar import GrammarMask, MatcherCache, followed
from headrace_worker.execute.logits.limits import MinTokens
from headrace_worker.execute.logits.logprobs import LogprobsMode, RowLogprobs, Wanted, describe
from headrace_worker.execute.logits.own import OwnProcessors
from headrace_worker.execute.logits.penalties import CountsCache, Penalties
from headrace_worker.execute.logits.truncation import Truncation, draw_truncated, thresholds
from headrace_worker.execute.philox import UniformSource
from headrace_worker.schedule import request
from headrace_worker.schedule.beam import Candidate

_MOST_BATCHES = 4


@dataclass(slots=True)
class SampledRows:
    """One token per row, and its log-probabilities where the request asks for them."""

    token_ids: list[int]
    logprobs: list[TokenLogprob | None]
    candidates: dict[request.Sequence, list[Candidate]] = field(default_factory=dict)
    """Of the rows that are beams, whose tokens mean nothing."""
    failed: dict[request.Sequence, str] = field(default_factory=dict)
    """Rows whose own logits processors failed, with what to tell; their tokens mean nothing."""


class Sampler:
    """Draws the next token of many sequences at once.

    A row's token depends on its own logits, parameters, tokens so far, and (seed, choice,
    position): never on other rows, on what was sampled before, or on which worker does it.
    """

    def __init__(
        self,
        vocab_size: int,
        eos_token_ids: frozenset[int],
        mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS,
        *,
        guesses: bool = False,
    ) -> None:
        """``mode``: what is told of sampled tokens; those of prompts get raw log-probabilities.

        ``guesses``: only draw, without what follows a sequence token by token, which guesses would lead astray:
        grammars, penalties, own processors, thinking budgets; nothing is told then.
        """
        self._guesses = guesses
        self._vocab_size = vocab_size
        self._mode = mode
        self._eos_token_ids = eos_token_ids
        self._counts = CountsCache()
        self._matchers = MatcherCache()
        self._batches: OrderedDict[tuple[request.Sequence, ...], _Batch] = OrderedDict()

    def sample(self, logits: torch.Tensor, sequences: list[request.Sequence]) -> SampledRows:
        """One token for each row of ``logits`` [rows, vocab], contiguous float32, which is changed in place.

        Raw log-probabilities are those of the logits as they come in. A row whose every token is
        forbidden by its own parameters gets some token, always the same; one with a grammar gets a
        token that its grammar allows.
        """
        batch = self._batch(tuple(sequences), logits.device)
        logprobs = batch.logprobs
        if logprobs is not None and self._mode.raw:
            logprobs.capture(logits)
        if batch.beams is not None:
            batch.beams.to_log_probabilities(logits)
        for processor in batch.processors:
            processor.apply(logits)
        if logprobs is not None and not self._mode.raw:
            logprobs.capture(batch.distributions(logits))
        failed = {} if batch.own is None else batch.own.failed
        candidates = {} if batch.beams is None else batch.beams.candidates(logits, logprobs)
        token_ids = batch.draw(logits)
        told: list[TokenLogprob | None] = [None] * len(token_ids)
        if logprobs is not None:
            told = logprobs.take(token_ids)
        return SampledRows(token_ids, told, candidates, failed)

    def prompt_logprobs(self, logits: torch.Tensor, sequence: request.Sequence, start: int) -> list[TokenLogprob]:
        """Entries for the tokens ``[start + 1, start + 1 + rows)`` of a prompt, from the logits [rows, vocab] before them."""
        targets = sequence.token_ids[start + 1 : start + 1 + len(logits)]
        return describe(logits, targets, Wanted(sequence.sampling.prompt_logprobs or 0))

    def possible(self, sequence: request.Sequence, token_ids: list[int]) -> int:
        """How many of some tokens, the first ones, a sequence's grammar allows behind its own."""
        return followed(sequence, self._matchers).possible(sequence, token_ids)

    def forget(self, request_id: str) -> None:
        """Let go of a request that has ended, if a batch still holds it."""
        for sequences in list(self._batches):
            if any(row.request_id == request_id for row in sequences):
                del self._batches[sequences]

    def _batch(self, sequences: tuple[request.Sequence, ...], device: torch.device) -> "_Batch":
        """The same ones are drawn together again and again, and with guesses some of them after all of them."""
        found = self._batches.get(sequences)
        if found is None or found.device != device:
            found = self._batches[sequences] = self._assemble(sequences, device)
        self._batches.move_to_end(sequences)
        if len(self._batches) > _MOST_BATCHES:
            self._batches.popitem(last=False)
        return found

    def _assemble(self, sequences: Sequence[request.Sequence], device: torch.device) -> "_Batch":
        limits: list[LogitsProcessor | None] = [
            AllowedTokens.for_batch(sequences, self._vocab_size, device),
            BadWords.for_batch(sequences, self._vocab_size, device),
            MinTokens.for_batch(sequences, self._eos_token_ids, self._vocab_size, device),
        ]
        bias = LogitBias.for_batch(sequences, self._vocab_size, device)
        if self._guesses:
            return _Batch(sequences, [each for each in (*limits, bias) if each is not None], self._vocab_size, device)
        mask = GrammarMask.for_batch(sequences, self._vocab_size, device, self._matchers)
        own = OwnProcessors.for_batch(sequences)
        rescue = mask.rescue() if mask is not None and any([*limits, own]) else None
        wanted: list[LogitsProcessor | None] = [
            mask,
            *limits,
            bias,
            own,
            Penalties.for_batch(sequences, self._counts),
            rescue,
            ForcedTokens.for_batch(sequences, self._vocab_size, device),
        ]
        processors = [processor for processor in wanted if processor is not None]
        batch = _Batch(sequences, processors, self._vocab_size, device)
        batch.logprobs = RowLogprobs.for_batch(sequences, self._mode, device)
        batch.own = own
        batch.beams = BeamRows.for_batch(sequences, self._eos_token_ids, self._vocab_size, device)
        return batch


class _Batch:
    """What stays the same as long as the same sequences are sampled together."""

    def __init__(
        self,
        sequences: Sequence[request.Sequence],
        processors: list[LogitsProcessor],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.sequences = list(sequences)
        self.processors = processors
        self.device = device
        self.logprobs: RowLogprobs | None = None
        self.beams: BeamRows | None = None
        self.own: OwnProcessors | None = None
        random = [row for row, each in enumerate(sequences) if _draws(each)]
        cut = [row for row in random if _truncates(sequences[row], vocab_size)]
        whole = [row for row in random if not _truncates(sequences[row], vocab_size)]
        self._greedy = len(random) < len(sequences)
        self._whole = _RandomRows([sequences[row] for row in whole], whole, vocab_size, device) if whole else None
        self._cut = _RandomRows([sequences[row] for row in cut], cut, vocab_size, device) if cut else None

    def draw(self, logits: torch.Tensor) -> list[int]:
        token_ids = _most_likely(logits) if self._greedy else [0] * len(self.sequences)
        if self._whole is not None:
            scaled, uniform = self._whole.prepare(logits)
            self._whole.put(draw(scaled, uniform), token_ids)
        if self._cut is not None:
            scaled, uniform = self._cut.prepare(logits)
            self._cut.put(draw_truncated(scaled, uniform, self._cut.truncation), token_ids)
        return token_ids

    def distributions(self, logits: torch.Tensor) -> torch.Tensor:
        """What tokens are drawn from, as logits [rows, vocab]; those of greedy rows are as they are."""
        drawn_from = logits.clone()
        if self._whole is not None:
            drawn_from[self._whole.index], _ = self._whole.prepare(logits)
        if self._cut is not None:
            scaled, _ = self._cut.prepare(logits)
            stays = scaled >= thresholds(scaled, self._cut.truncation)
            drawn_from[self._cut.index] = scaled.where(stays, -torch.inf)
        return drawn_from


class _RandomRows:
    """The rows of a batch that are drawn in one way."""

    def __init__(
        self, sequences: Sequence[request.Sequence], rows: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        specs = [sequence.sampling for sequence in sequences]
        self._sequences = sequences
        self._rows = rows
        self.index = torch.tensor(rows, device=device)
        self._temperature = torch.tensor([[spec.temperature] for spec in specs], device=device)
        self._scaled = any(spec.temperature != 1 for spec in specs)
        self._uniform = UniformSource([spec.seed for spec in specs], [sequence.choice for sequence in sequences])
        top_k = [spec.top_k if 0 < spec.top_k < vocab_size else vocab_size for spec in specs]
        self.truncation = Truncation(
            torch.tensor(top_k, device=device)[:, None],
            torch.tensor([spec.top_p for spec in specs], dtype=torch.float64, device=device)[:, None],
            torch.tensor([spec.min_p for spec in specs], dtype=torch.float64, device=device)[:, None],
        )

    def prepare(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows' logits over their temperatures, and their numbers for this position."""
        rows = logits if len(self._rows) == len(logits) else logits[self.index]
        if self._scaled:
            rows = rows / self._temperature
        uniform = self._uniform.at([sequence.output_len for sequence in self._sequences])
        return rows, on_device(uniform, logits.device)[:, None]

    def put(self, drawn: torch.Tensor, token_ids: list[int]) -> None:
        for row, token_id in zip(self._rows, drawn.tolist(), strict=True):
            token_ids[row] = token_id


def _draws(sequence: request.Sequence) -> bool:
    spec = sequence.sampling
    # Drawing the one most likely token is what greedy does.
    return spec.temperature > 0 and spec.top_k != 1 and spec.beams is None


def _truncates(sequence: request.Sequence, vocab_size: int) -> bool:
    spec = sequence.sampling
    return spec.top_p < 1 or spec.min_p > 0 or 0 < spec.top_k < vocab_size


def _most_likely(logits: torch.Tensor) -> list[int]:
    if logits.device.type == "cpu":
        # More than ten times as fast as torch's.
        token_ids: list[int] = logits.numpy().argmax(1).tolist()
    else:
        token_ids = logits.argmax(1).tolist()
    return token_ids
