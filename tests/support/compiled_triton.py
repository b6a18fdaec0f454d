"""``python compiled_triton.py``: have Triton compile our kernels for a device that need not be there.

It prints the bytes of shared memory that each of them takes.
"""

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from headrace_worker.execute.attention.triton_kernels import attend_tiles, merge_parts

TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {"sinks": "*bf16", "part_sums": "*fp32", "part_stats": "*fp32", "out": "*bf16"}
ATTEND = {
    **POINTERS,
    **dict.fromkeys(("query", "keys", "values"), "*bf16"),
    **dict.fromkeys(("tables", "query_starts", "contexts"), "*i32"),
    **dict.fromkeys(("scale", "softcap"), "fp32"),
    **dict.fromkeys(("first_sequence", "table_row", "query_row", "query_head"), "i32"),
}
SIZES = {"group": 4, "kv_heads": 2, "head_dim": 64, "value_dim": 64, "dim_pad": 64, "value_pad": 64, "block_size": 16}
RULES = {"window": 40, "has_softcap": True, "has_sinks": True}
DECODES = {"tokens": 1, "rows": 16, "tile": 64, "splits": 4}
CHUNKS = {"tokens": 16, "rows": 64, "tile": 64, "splits": 1}
MERGE = {"has_sinks": True, "heads": 8, "value_dim": 64, "value_pad": 64, "splits": 4}


def shared_bytes(kernel: Any, types: dict[str, str], fixed: dict[str, Any]) -> int:
    """Compile it down to the device's own code."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in fixed else types[name] for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in fixed.items()})
    compiled = triton.compile(source, target=TARGET)
    assert compiled.asm["cubin"]
    return int(compiled.metadata.shared)


def main() -> None:
    unused = dict.fromkeys(("part_sums", "part_stats"))
    print(
        shared_bytes(attend_tiles, ATTEND, SIZES | RULES | DECODES),
        shared_bytes(attend_tiles, ATTEND, SIZES | RULES | CHUNKS | unused),
        shared_bytes(merge_parts, POINTERS, MERGE),
    )


if __name__ == "__main__":
    main()
