"""What a machine can do at most: how fast it reads its memory, and how fast it multiplies and adds."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-ffp-contract=fast", "-Wno-psabi")
ARITHMETIC = {"float32": "float32", "float16": "float32", "bfloat16": "float32", "int8": "int16", "int4": "int16"}
"""In what a precision's products are computed: weights of fewer bits are widened, quantized ones meet rows of 16 bits."""


@dataclass(frozen=True)
class MachineLimits:
    """Measured with all threads at once, in registers or from memory that no cache holds."""

    threads: int
    read_bytes_per_s: float
    operations_per_s: dict[str, float]
    """By kind of number: float32, int16, int8. A product and a sum are two."""

    def peak(self, precision: str) -> float:
        return self.operations_per_s[ARITHMETIC[precision]]

    def least_ms(self, precision: str, operations: float, read_bytes: float) -> float:
        """Reading and computing go on at the same time: what takes longer is the limit."""
        return 1e3 * max(operations / self.peak(precision), read_bytes / self.read_bytes_per_s)

    def reads_longer(self, precision: str, operations: float, read_bytes: float) -> bool:
        return read_bytes / self.read_bytes_per_s > operations / self.peak(precision)


def measure_limits(threads: int) -> MachineLimits:
    """In a process of its own. Raises RuntimeError where there is no C compiler, or none for this processor."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C compiler (cc, gcc or clang)")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "limits"
        built = subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(program)], capture_output=True, text=True)
        if built.returncode != 0:
            raise RuntimeError(f"{compiler} failed: {built.stderr.strip()}")
        said = subprocess.run([program, str(threads)], capture_output=True, text=True, check=True).stdout
    found = {name: float(value) for name, value in (line.split() for line in said.splitlines())}
    return MachineLimits(threads, found.pop("read_bytes"), found)
