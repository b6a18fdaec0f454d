"""What one step's attention takes with keys and values in each format.

    PYTHONPATH=tests/support OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/attention.py [--isa avx2] [--batches 32x200,8x1500]

Random keys and values in the shapes of SmolLM2-135M: thirty layers, each with a cache of its own, on shuffled blocks.
One thread, and its own CPU time, so that a busy machine takes nothing but memory bandwidth and cache from the
figures; the least of several runs, taken in turn.
"""

import argparse
import time

import torch
from attention_batches import batch_of, rows_of
from engine_steps import write_caches

from headrace_worker.execute.attention.batch import Batch
from headrace_worker.execute.attention.cache_kind import CacheFormat, CacheKind
from headrace_worker.execute.attention.native import NativeAttention
from headrace_worker.execute.native.library import load_kernels
from headrace_worker.models.layers import AttentionLayer

LAYER = AttentionLayer(num_heads=9, num_kv_heads=3, head_dim=64, value_dim=64, scale=0.125)
LAYERS, BLOCK = 30, 16


def least_ms(backend: NativeAttention, batch: Batch, num_blocks: int, runs: int) -> dict[CacheFormat, float]:
    """Of all layers, by the format of their caches."""
    rows = rows_of(LAYER, batch.starts[-1])
    caches = {
        form: [
            backend.allocate(LAYER, num_blocks, BLOCK, CacheKind(torch.float32, torch.device("cpu"), form))
            for _ in range(LAYERS)
        ]
        for form in CacheFormat
    }
    for layers in caches.values():
        write_caches(layers)
    best = dict.fromkeys(CacheFormat, float("inf"))
    for _ in range(runs):
        for form, layers in caches.items():
            begin = time.thread_time()
            for cache in layers:
                backend.attend(LAYER, cache, rows, batch)
            best[form] = min(best[form], (time.thread_time() - begin) * 1e3)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", help="avx512vnni, avx512, avx2 or base; default: the machine's best")
    parser.add_argument("--batches", default="1x200,32x200,8x1500", help="sequences x context")
    parser.add_argument("--prefills", default="512")
    parser.add_argument("--runs", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kernels = load_kernels(given.isa)
    steps = {f"decode {each}": [int(part) for part in each.split("x")] for each in given.batches.split(",")}
    shapes = {name: ([1] * count, [context] * count) for name, (count, context) in steps.items()}
    shapes |= {f"prefill {each}": ([int(each)], [int(each)]) for each in given.prefills.split(",") if each}
    for name, (counts, contexts) in shapes.items():
        num_blocks = sum(-(-context // BLOCK) for context in contexts)
        best = least_ms(
            NativeAttention(kernels, 1), batch_of(counts, contexts, BLOCK, num_blocks), num_blocks, given.runs
        )
        told = ", ".join(
            f"{form.name.lower()} {ms:.1f} ({best[CacheFormat.PLAIN] / ms:.2f}x)" for form, ms in best.items()
        )
        print(f"{kernels.isa}, {name}: {told} ms", flush=True)


if __name__ == "__main__":
    main()
