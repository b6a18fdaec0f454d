"""``python interpreted_triton.py cases|tokens FILE``: our Triton kernels in Triton's interpreter, on a CPU.

A process of its own: Triton decides when it is imported whether its functions are interpreted.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch

from headrace_worker.execute import build as build_module
from headrace_worker.execute.attention.triton_attention import TritonAttention


def attend(cases: list[dict[str, Any]]) -> list[torch.Tensor]:
    """What comes of each case; its cache is changed."""
    return [
        TritonAttention(case["programs"]).attend(case["layer"], case["cache"], case["rows"], case["batch"])
        for case in cases
    ]


def generate(asked: dict[str, Any]) -> list[list[list[int]]]:
    """The tokens of each of some models, by an engine whose attention these kernels are."""
    from tiny_engine import PATHS, build, run

    build_module._backend = lambda *_: TritonAttention(programs=64)  # type: ignore[assignment]
    return [
        run(build(folder, PATHS["portable"]), asked["prompts"], asked["count"], budget=24).tokens
        for folder in asked["folders"]
    ]


def main() -> None:
    what, path = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    # Rows that only fill a tile up come to zero over zero, which nobody stores.
    np.seterr(invalid="ignore")
    given = torch.load(path, weights_only=False)
    found: Any = (attend(given), given) if what == "cases" else generate(given)
    torch.save(found, path)


if __name__ == "__main__":
    main()
