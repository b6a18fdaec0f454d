"""Splitting a model over processes by the plan that transformers has for its architecture."""

from typing import Any

from transformers import PretrainedConfig
from transformers.distributed.configuration_utils import DistributedConfig

from headrace_worker.models.errors import ModelNotSupportedError


def split_over(size: int) -> dict[str, Any]:
    """What ``from_pretrained`` has to be told, in each of ``size`` processes of one group."""
    return {"distributed_config": DistributedConfig(tp_size=size)} if size > 1 else {}


def check_split(config: PretrainedConfig, size: int) -> None:
    """Raises ModelNotSupportedError where the plan does not split the model into ``size`` parts that compute the same."""
    if getattr(config, "quantization_config", None) is not None:
        raise ModelNotSupportedError(
            "it is quantized, and tensor_parallel_size splits plain weights only; serve it with tensor_parallel_size 1"
        )
    text = config.get_text_config(decoder=True)
    plan = getattr(text, "base_model_tp_plan", None) or {}
    if all(style.startswith("embedding") for style in plan.values()):
        raise ModelNotSupportedError(
            f"transformers has no plan to split the layers of {text.model_type}; serve it with tensor_parallel_size 1"
        )
    # A projection whose output is gathered again leaves every process all of the heads.
    if not any("att" in name and style == "colwise" for name, style in plan.items()):
        return
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    if heads % size or kv_heads % size:
        allowed = [str(each) for each in range(1, kv_heads + 1) if heads % each == 0 and kv_heads % each == 0]
        raise ModelNotSupportedError(
            f"its {heads} attention heads and {kv_heads} KV heads cannot be split over {size} processes; "
            f"tensor_parallel_size can be {' or '.join(allowed)}"
        )
