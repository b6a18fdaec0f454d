"""How many tokens a model can look at."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
_LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
"""Rotary embeddings that change for the whole text once it is longer than the original context."""


def context_length(config: PretrainedConfig, wanted: int | None) -> int:
    """The context in tokens: ``wanted``, or as many as the model was made for.

    Length-dependent rotary embeddings are served up to their original length: beyond it, keys that
    are already in the cache would have to be rotated again. Raises ValueError when ``wanted`` is
    more than the model has.
    """
    known = _known(config)
    if known is None:
        if wanted is None:
            raise ValueError("its configuration does not say how long its context is; set max_model_len")
        return wanted
    if wanted is not None and wanted > known:
        raise ValueError(f"max_model_len {wanted} is more than the {known} tokens this model can be served with")
    return wanted or known


def _known(config: PretrainedConfig) -> int | None:
    limits = [value for name in _NAMES if isinstance(value := getattr(config, name, None), int)][:1]
    for rope in _ropes(getattr(config, "rope_parameters", None)):
        original = rope.get("original_max_position_embeddings")
        if rope.get("rope_type") in _LENGTH_DEPENDENT and isinstance(original, int):
            limits.append(original)
    return min(limits, default=None)


def _ropes(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """One set of parameters, or one for each kind of layer."""
    if isinstance(parameters, Mapping):
        yield parameters
        for value in parameters.values():
            yield from _ropes(value)
