"""What one forward's worth of linear layers takes in each format of weights.

    OMP_WAIT_POLICY=PASSIVE python tests/benchmarks/linear_layers.py [--isa avx2] [--rows 1,8,32]

Random weights in the shapes of SmolLM2-135M: thirty layers and the head. One thread, and its own CPU time, so that a
busy machine takes nothing but memory bandwidth and cache from the figures; the least of several runs, taken in turn.
"""

import argparse
import time

import torch

from headrace_worker.execute.linear import NativeLinear
from headrace_worker.execute.native.library import load_kernels
from headrace_worker.execute.weights import Format, pack

HIDDEN, GATED, LAYERS, VOCAB = 576, 1536, 30, 49_152
SHAPES = [(960, HIDDEN), (HIDDEN, HIDDEN), (2 * GATED, HIDDEN), (HIDDEN, GATED)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", help="avx512vnni, avx512, avx2 or base; default: the machine's best")
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--runs", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kernels = load_kernels(given.isa)
    weights = [torch.randn(shape) for shape in SHAPES]
    head = torch.randn(VOCAB, HIDDEN)

    def layer(weight: torch.Tensor, form: Format) -> NativeLinear:
        return NativeLinear(pack(weight, form, kernels, 1), None, kernels, 1)

    networks = {
        form: [layer(weight, form) for _ in range(LAYERS) for weight in weights]
        + [layer(head, Format.INT8 if form is Format.INT4 else form)]
        for form in Format
    }
    for rows in map(int, given.rows.split(",")):
        inputs = {size: torch.randn(rows, size) for size in (HIDDEN, GATED)}
        best = dict.fromkeys(Format, float("inf"))
        for _ in range(given.runs):
            for form, layers in networks.items():
                begin = time.thread_time()
                for each in layers:
                    each(inputs[each.in_features])
                best[form] = min(best[form], (time.thread_time() - begin) * 1e3)
        told = ", ".join(
            f"{form.name.lower()} {ms:.1f} ({best[Format.FLOAT32] / ms:.2f}x)" for form, ms in best.items()
        )
        print(f"{kernels.isa}, {rows} rows: {told} ms", flush=True)


if __name__ == "__main__":
    main()
