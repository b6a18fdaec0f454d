"""Changes to what a model's files say, asked for by the operator."""

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

Changes = Mapping[str, Any]


def overridden(config: PretrainedConfig, changes: Changes) -> PretrainedConfig:
    """A configuration with ``changes`` in it; those of a part of it, like ``text_config``, go into the part.

    ``rope_scaling`` and ``rope_theta``, the older names, become ``rope_parameters``.
    """
    own = config.to_dict()
    merged = {**own, **_with_rope_parameters(changes, own)}
    for part in type(config).sub_configs:
        if isinstance(changes.get(part), Mapping) and isinstance(own.get(part), Mapping):
            merged[part] = {**own[part], **_with_rope_parameters(changes[part], own[part])}
    return type(config).from_dict(merged)


def _with_rope_parameters(changes: Changes, own: Changes) -> dict[str, Any]:
    rest = dict(changes)
    known = own.get("rope_parameters") or {}
    rope = rest.pop("rope_scaling", None) or rest.pop("rope_parameters", None)
    theta = rest.pop("rope_theta", None)
    if rope is None and theta is None:
        return rest
    rope = dict(known if rope is None else rope)
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    if theta is not None or "rope_theta" in known:
        rope.setdefault("rope_theta", known.get("rope_theta"))
        rope["rope_theta"] = rope["rope_theta"] if theta is None else theta
    return {**rest, "rope_parameters": rope}
