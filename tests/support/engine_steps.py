"""Single steps of an engine, and the parts of one run by themselves, for measuring."""

import time
from collections.abc import Callable, Iterable
from ctypes import byref
from dataclasses import dataclass

import torch

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.attention.backend import AttentionRows, LayerCache
from headrace_worker.execute.build import BuiltRunner
from headrace_worker.execute.lean import LeanNetwork
from headrace_worker.execute.native.library import DecoderCall
from headrace_worker.execute.weights import Format
from headrace_worker.schedule.plan import Plan, Slice
from headrace_worker.schedule.request import Request, Sequence

BLOCK = 16
BITS = {Format.FLOAT32: 32, Format.FLOAT16: 16, Format.BFLOAT16: 16, Format.INT8: 9, Format.INT4: 5}
"""Of one weight, with its share of what its block has: two numbers of 16 bits for 32 weights."""


@dataclass
class Clock:
    """The least time of each of several things, run in turn."""

    runs: int

    def least_ms(self, jobs: dict[str, Callable[[], object]]) -> dict[str, float]:
        best = dict.fromkeys(jobs, float("inf"))
        for _ in range(self.runs):
            for name, job in jobs.items():
                begin = time.perf_counter()
                job()
                best[name] = min(best[name], (time.perf_counter() - begin) * 1e3)
        return best


def write_caches(caches: Iterable[LayerCache]) -> None:
    """Have every block hold something: pages that were never written are all the same one."""
    for cache in caches:
        for tensor in cache.tensors:
            tensor.fill_(1)


def sequence(index: int, tokens: int, blocks: list[int]) -> Sequence:
    """One greedy sequence with ``tokens`` tokens, on blocks of its own."""
    ids = [(7 * index + 13 * place) % 30_000 + 100 for place in range(tokens)]
    job = GenerateJob(
        JobHeader(str(index), "bench"), pack_ids(ids), sampling=SamplingSpec(temperature=0), stopping=StoppingSpec()
    )
    made = Request.from_job(job, arrival=index).sequences[0]
    made.block_table = blocks
    return made


def decode_plan(batch: int, context: int) -> Plan:
    each = -(-context // BLOCK)
    rows = [sequence(i, context, list(range(i * each, (i + 1) * each))) for i in range(batch)]
    return Plan([Slice(row, context - 1, 1, samples=True) for row in rows])


def prefill_plan(tokens: int) -> Plan:
    return Plan([Slice(sequence(0, tokens, list(range(-(-tokens // BLOCK)))), 0, tokens, samples=True)])


@dataclass(frozen=True)
class LinearWork:
    """What the linear layers of a step cannot do without."""

    operations: float
    """A product and a sum are two."""
    bytes: float
    """Of the weights: each is read once, and what the rows are is little beside it."""


class LeanParts:
    """The parts of a lean network, each to be run by itself as often as a step runs it."""

    def __init__(self, built: BuiltRunner) -> None:
        network = built.runner._network
        assert isinstance(network, LeanNetwork), "the parts are known for lean networks only"
        self._network = network

    def linear(self, plan: Plan) -> Callable[[], None]:
        """Runs a step of the plan's shape without attention: the linear layers, and a hundredth for norms and rotary
        embedding between them. The output layer is for the rows that are sampled."""
        network, rows = self._network, plan.num_tokens
        if rows > network._buffers.normed.shape[0]:
            network._buffers = network._allocate(rows)
        rules, hidden = network._attention.layers[0], network._decoder.hidden
        start, residual = torch.randn(rows, hidden), torch.empty(rows, hidden)
        angles, slots = torch.ones(rows, rules.head_dim), torch.arange(rows)
        sampled = torch.randn(len(plan.slices), hidden)

        def run() -> None:
            residual.copy_(start)
            call = DecoderCall.from_buffer_copy(network._call)
            call.layers, call.num_layers, call.residual = network._layers, len(network._layers), residual.data_ptr()
            call.cosine[0] = call.cosine[1] = call.sine[0] = call.sine[1] = angles.data_ptr()
            call.attention.rotary_dim, call.attention.slots = rules.head_dim, slots.data_ptr()
            call.attention.num_rows, call.attention.num_sequences = rows, 0
            assert network._kernels.decode(byref(call)) == 0
            network.logits(sampled)

        return run

    def attention(self, plan: Plan) -> Callable[[], None]:
        """Runs the attention of the step that was computed last, which must be the plan's."""
        attention, batch = self._network._attention, self._network._attention.batch
        rules = attention.layers[0]
        heads = (rules.num_heads, rules.num_kv_heads, rules.num_kv_heads)
        qkv = [torch.randn(plan.num_tokens, n, rules.head_dim) for n in heads]

        def run() -> None:
            attention.begin(batch)
            for index in range(len(attention.layers)):
                attention.layer(index, AttentionRows(*qkv))

        return run

    @property
    def weight_bytes(self) -> int:
        """Of everything that was kept of the checkpoint."""
        network = self._network
        held = [*network._keep, network._head.packed.data, *network._decoder.embedding.parameters()]
        return sum(tensor.nbytes for tensor in held)

    def work(self, plan: Plan) -> LinearWork:
        layers, head = self._network._layers, self._network._head.packed
        weights = len(layers) * sum(outputs * inputs for outputs, inputs in self._shapes())
        head_weights = head.outputs * head.inputs
        bits = weights * BITS[Format(layers[0].format)] + head_weights * BITS[head.format]
        return LinearWork(2.0 * (weights * plan.num_tokens + head_weights * len(plan.slices)), bits / 8)

    def _shapes(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of a layer's four projections."""
        rules, decoder = self._network._attention.layers[0], self._network._decoder
        heads, kv_heads = rules.num_heads * rules.head_dim, rules.num_kv_heads * rules.head_dim
        return (
            (heads + 2 * kv_heads, decoder.hidden),
            (decoder.hidden, heads),
            (2 * decoder.intermediate, decoder.hidden),
            (decoder.hidden, decoder.intermediate),
        )
