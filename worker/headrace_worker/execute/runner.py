"""ModelRunner: turns a plan into tokens."""

import torch

from headrace_shared.clock import mono_s
from headrace_shared.protocol.event import TokenLogprob
from headrace_worker.execute.device import using
from headrace_worker.execute.inputs import build_inputs
from headrace_worker.execute.kv_cache import BlockMove
from headrace_worker.execute.paged_attention import PagedAttention
from headrace_worker.execute.rows import RowSampler
from headrace_worker.execute.verify import draw
from headrace_worker.models.network import Network
from headrace_worker.schedule.plan import Plan, Sampled, Slice
from headrace_worker.schedule.request import Sequence

_SCORED_LOGITS = 16 * 1024 * 1024
"""Logits that exist at once while prompts are scored; 64 MiB in float32."""


class ModelRunner:
    """Owns the model, its K/V cache and its sampler; one thread calls it."""

    def __init__(
        self, network: Network, attention: PagedAttention, sampler: RowSampler, vocab_size: int, device: torch.device
    ) -> None:
        self._network = network
        self._attention = attention
        self._sampler = sampler
        self._device = device
        self._timed = False
        self._rows_at_once = max(1, _SCORED_LOGITS // vocab_size)

    def execute(self, plan: Plan) -> Sampled:
        """Compute every slice of ``plan``; one token for each slice that samples, in order, and what follows right guesses.

        Raises StepGivenUpError when the plan becomes unwanted before its layers are computed. A device that works
        ahead is hardly ever that late.
        """
        with torch.inference_mode(), using(self._device):
            return self._execute(plan)

    def _execute(self, plan: Plan) -> Sampled:
        self._move_blocks(plan)
        step = build_inputs(plan.slices, self._attention.cache.block_size, self._device)
        self._attention.begin(step.batch, plan.unwanted)
        begun_s = mono_s()
        hidden = self._network.hidden(step.input_ids, step.positions)
        if self._device.type == "cuda" and self._timed:
            torch.cuda.synchronize(self._device)
        sampled = Sampled(forward_s=mono_s() - begun_s)
        self._score_prompts(plan.slices, step.batch.starts, hidden, sampled)
        drawing = [part for part in plan.slices if part.samples]
        if drawing:
            if len(step.sample_rows) < hidden.shape[0]:
                hidden = hidden[step.sample_rows]
            draw(self._sampler, self._network.logits(hidden), drawing, sampled)
        return sampled

    def possible(self, sequence: Sequence, token_ids: list[int]) -> int:
        """How many of some tokens, the first ones, a sequence's grammar allows behind its own."""
        return self._sampler.possible(sequence, token_ids)

    def time_forward(self) -> None:
        """Have ``Sampled.forward_s`` be exact on a device that works ahead, at the price of waiting for it."""
        self._timed = True

    def forget(self, request_id: str) -> None:
        """Drop what is cached for a request that has ended."""
        self._sampler.forget(request_id)

    def _move_blocks(self, plan: Plan) -> None:
        # In this order: what leaves may have been copied to, and what comes back may take its place.
        out, back = plan.swaps
        for way, pairs in ((BlockMove.WITHIN, plan.copies), (BlockMove.OUT, out), (BlockMove.BACK, back)):
            if pairs:
                self._attention.cache.move(way, pairs)

    def _score_prompts(self, slices: list[Slice], starts: list[int], hidden: torch.Tensor, sampled: Sampled) -> None:
        """Log-probabilities of prompt tokens, a bounded number of rows at a time."""
        for part, row in zip(slices, starts, strict=False):
            count = part.prompt_scores
            if not count:
                continue
            scores: list[TokenLogprob] = []
            while len(scores) < count:
                done = len(scores)
                size = min(count - done, self._rows_at_once)
                logits = self._network.logits(hidden[row + done : row + done + size])
                scores += self._sampler.prompt_logprobs(logits, part.sequence, part.start + done)
            sampled.prompt_logprobs.append((part, scores))
