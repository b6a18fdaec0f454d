"""How long one engine step takes, and where the time goes.

    PYTHONPATH=tests/support OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/engine_step.py MODEL [--threads N] [--context 200] [--also int8,kv-int8]

MODEL is a local directory. Figures are minima over several runs, measured in
turn so that a busy machine hurts all of them alike; the ratios are what to compare.
"""

import argparse

import torch
from engine_steps import BLOCK, Clock, LeanParts, decode_plan, prefill_plan, write_caches
from exactness import PRECISIONS, build_as
from transformers import AutoModelForCausalLM

from headrace_worker.execute.build import BuiltRunner, Parts, assemble
from headrace_worker.execute.kv_cache import CacheSize
from headrace_worker.execute.lean import LeanNetwork
from headrace_worker.models.load import ModelSource, load_model
from headrace_worker.schedule.plan import Plan


def report(built: dict[str, BuiltRunner], plan: Plan, clock: Clock, title: str) -> None:
    best = clock.least_ms({name: (lambda each=each: each.runner.execute(plan)) for name, each in built.items()})
    for name, value in best.items():
        line = f"{title:18} {name:12} {value:7.1f} ms  {plan.num_tokens / value * 1e3:6.0f} tokens/s"
        if isinstance(built[name].runner._network, LeanNetwork):
            parts = LeanParts(built[name])
            split = clock.least_ms({"linear": parts.linear(plan), "attention": parts.attention(plan)})
            linear, attention = split["linear"], split["attention"]
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
    built = {name: build_as(given.model, name, cache_bytes=memory_bytes) for name in names}
    built |= {name: assemble(load_model(ModelSource(given.model)), size, parts) for name, parts in paths.items()}
    for each in built.values():
        write_caches(each.runner._attention.cache.layers)
    clock = Clock(given.runs)
    for batch in map(int, given.batches.split(",")):
        report(built, decode_plan(batch, given.context), clock, f"decode, batch {batch}")
    for tokens in (int(each) for each in given.prefills.split(",") if each):
        report(built, prefill_plan(tokens), Clock(max(2, given.runs // 3)), f"prefill {tokens}")
    if given.generate:
        print(f"transformers generate, batch 1: {generate_ms(given.model, given.context):.1f} ms per token")


if __name__ == "__main__":
    main()
