"""The instruction sets that the compiled kernels can be tried with."""

from headrace_worker.execute.native.library import kernels

_BEST = kernels()
assert _BEST is not None, "the kernels were not built: install the package where there is a C compiler"
_SETS = ["avx512vnni", "avx512", "avx2", "base"]
SETS = _SETS[_SETS.index(_BEST.isa) :]
"""The instruction sets that this machine has."""
