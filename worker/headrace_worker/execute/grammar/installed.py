"""Which back-ends this worker has: two of them only where somebody installed them."""

from importlib.util import find_spec

from headrace_shared.protocol.grammar import GrammarBackend

_EXTRAS = {GrammarBackend.OUTLINES: "outlines_core", GrammarBackend.LM_FORMAT_ENFORCER: "lmformatenforcer"}
"""The module that each of them needs."""


def is_installed(backend: GrammarBackend) -> bool:
    """Without importing it: that takes seconds."""
    return backend not in _EXTRAS or find_spec(_EXTRAS[backend]) is not None


def announced(chosen: str) -> tuple[str, ...]:
    """What clients may ask for, the preferred one first, where the operator has chosen a back-end or ``auto``."""
    if chosen != GrammarBackend.AUTO:
        return (chosen,)
    return tuple(
        backend.value for backend in GrammarBackend if backend is not GrammarBackend.AUTO and is_installed(backend)
    )


def how_to_install(backend: GrammarBackend) -> str:
    return f"there is no {backend.value} here; install it: pip install 'headrace[{backend.value}]'"
