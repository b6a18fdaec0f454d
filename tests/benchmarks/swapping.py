"""What it takes to copy a sequence's KV blocks to the swap space and back, beside computing them again.

    python tests/benchmarks/swapping.py MODEL [--tokens 128 512 2048] [--threads N]

MODEL is a local directory. Prints the least time of several runs, in milliseconds; gates nothing.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from engine_step import BLOCK, Clock, prefill_plan

from headrace_worker.execute.build import assemble
from headrace_worker.execute.kv_cache import BlockMove, CacheSize
from headrace_worker.models.load import ModelSource, load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    blocks = -(-max(given.tokens) // BLOCK)
    size = CacheSize(block_size=BLOCK, blocks=blocks, swap_bytes=1 << 30)
    built = assemble(load_model(ModelSource(given.model, progress_bar=False)), size)
    cache = built.runner._attention.cache
    for tokens in given.tokens:
        moved = [(index, index) for index in range(-(-tokens // BLOCK))]
        plan = prefill_plan(tokens)
        best = Clock(5).least_ms(
            {
                "out": lambda moved=moved: cache.move(BlockMove.OUT, moved),
                "back": lambda moved=moved: cache.move(BlockMove.BACK, moved),
                "computed": lambda plan=plan: built.runner.execute(plan),
            }
        )
        print(
            f"{tokens:5} tokens, {len(moved):3} blocks: out {best['out']:.2f} ms, back {best['back']:.2f} ms, "
            f"computed again {best['computed']:.1f} ms"
        )


if __name__ == "__main__":
    main()
