"""How long one engine step takes, and where the time goes.

    PYTHONPATH=tests/support OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/engine_step.py MODEL [--threads N] [--context 200] [--also int8,kv-int8]

MODEL is a local directory. Figures are minima over several runs, measured in
turn so that a busy machine hurts all of them alike; the ratios are what to compare.
"""

import argparse
import time
from collections.abc import Callable
from ctypes import byref
from dataclasses import dataclass

import torch
from exactness import PRECISIONS, build_as
from transformers import AutoModelForCausalLM

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.execute.attention.backend import AttentionRows
from headrace_worker.execute.build import BuiltRunner, Parts, assemble
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.execute.lean import LeanNetwork
from headrace_worker.execute.native.library import LinearCall
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.schedule.plan import Plan, Slice
from headrace_worker.schedule.request import Request, Sequence

BLOCK = 16


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


def split_ms(built: BuiltRunner, plan: Plan, clock: Clock) -> tuple[float, float]:
    """(linear layers with the head, attention) of a step, each run by itself as often as in the step."""
    network = built.runner._network
    assert isinstance(network, LeanNetwork), "the split is known for lean networks only"
    rows, call = plan.num_tokens, network._call
    hidden = torch.randn(len(plan.slices), call.hidden)
    merged = call.attention.num_heads + 2 * call.attention.num_kv_heads
    heads, dim = call.attention.num_heads * call.attention.head_dim, call.attention.head_dim
    x = torch.randn(rows, max(call.intermediate, call.hidden, heads))
    y = torch.empty(rows, 2 * call.intermediate + merged * dim)
    scratch = torch.empty(network._kernels.scratch_bytes(*x.shape), dtype=torch.uint8)

    def linears() -> None:
        for layer in network._layers:
            for packed, outputs, inputs, mode in (
                (layer.merged, merged * dim, call.hidden, 0),
                (layer.output, call.hidden, heads, 0),
                (layer.gate_up, 2 * call.intermediate, call.hidden, call.gate),
                (layer.down, call.hidden, call.intermediate, 0),
            ):
                ends = (x.data_ptr(), packed, None, y.data_ptr(), scratch.data_ptr())
                one = LinearCall(*ends, rows, outputs, inputs, mode, layer.format)
                network._kernels.linear(byref(one), network._threads)
        network.logits(hidden)

    attention, batch = network._attention, network._attention.batch
    rules = attention.layers[0]
    qkv = [torch.randn(rows, n, dim) for n in (rules.num_heads, rules.num_kv_heads, rules.num_kv_heads)]

    def attends() -> None:
        attention.begin(batch)
        for index in range(len(attention.layers)):
            attention.layer(index, AttentionRows(*qkv))

    best = clock.least_ms({"linear": linears, "attention": attends})
    return best["linear"], best["attention"]


def report(built: dict[str, BuiltRunner], plan: Plan, clock: Clock, title: str) -> None:
    best = clock.least_ms({name: (lambda each=each: each.runner.execute(plan)) for name, each in built.items()})
    for name, value in best.items():
        line = f"{title:18} {name:12} {value:7.1f} ms  {plan.num_tokens / value * 1e3:6.0f} tokens/s"
        if isinstance(built[name].runner._network, LeanNetwork):
            linear, attention = split_ms(built[name], plan, clock)
            line += f"  linear {linear:.1f}, attention {attention:.1f}, rest {value - linear - attention:.1f}"
        print(f"{line}; {best['float32'] / value:.2f} x float32", flush=True)


def generate_ms(path: str, context: int, new: int = 24) -> float:
    """Milliseconds per token of transformers' own ``generate``, one sequence."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    prompt = torch.arange(100, 100 + context).unsqueeze(0)
    clock = Clock(2)

    def run(tokens: int) -> None:
        model.generate(
            prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0,
            attention_mask=torch.ones_like(prompt),
        )  # fmt: skip

    best = clock.least_ms({"one": lambda: run(1), "many": lambda: run(new + 1)})
    return (best["many"] - best["one"]) / new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--context", type=int, default=200)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--prefills", default="128,512")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--also", default="", help=f"precisions beside float32: {', '.join(PRECISIONS)}")
    parser.add_argument("--modules", action="store_true", help="also run transformers' modules on our kernels")
    parser.add_argument("--generate", action="store_true", help="also run transformers' own generate")
    parser.add_argument("--portable", action="store_true", help="also run without any native kernel")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    paths = {"modules": Parts(lean=False)} if given.modules else {}
    if given.portable:
        paths["portable"] = Parts(native=False, packed=False, lean=False)
    memory_bytes = 768 << 20
    size = CacheSize(block_size=BLOCK, memory_bytes=memory_bytes)
    names = ["float32", *(name for name in given.also.split(",") if name)]
    built = {name: build_as(given.model, name, memory_bytes=memory_bytes) for name in names}
    built |= {name: assemble(load_model(ModelSource(given.model)), size, parts) for name, parts in paths.items()}
    clock = Clock(given.runs)
    for batch in map(int, given.batches.split(",")):
        report(built, decode_plan(batch, given.context), clock, f"decode, batch {batch}")
    for tokens in (int(each) for each in given.prefills.split(",") if each):
        report(built, prefill_plan(tokens), Clock(max(2, given.runs // 3)), f"prefill {tokens}")
    if given.generate:
        print(f"transformers generate, batch 1: {generate_ms(given.model, given.context):.1f} ms per token")


if __name__ == "__main__":
    main()
