"""Families: where the architectures that we know by heart keep the weights of their decoder layers.

A family is described, not copied: the layers that these weights describe compute
``x += attend(norm(x)); x += down(activation(gate(norm(x))) * up(norm(x)))``, with the variations
that ``DecoderLayer`` has fields for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

_PLAIN = (torch.float32, torch.float16, torch.bfloat16)
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(slots=True)
class Projection:
    """``x W^T + bias``; several matrices are one after the other in the outputs."""

    weights: list[torch.Tensor]
    biases: list[torch.Tensor] | None

    def weight(self) -> torch.Tensor:
        return torch.cat(self.weights) if len(self.weights) > 1 else self.weights[0]

    def bias(self) -> torch.Tensor | None:
        return torch.cat(self.biases) if self.biases is not None else None


@dataclass(slots=True)
class DecoderLayer:
    """One layer's weights. Norm weights are what the normalised vector is multiplied with."""

    input_norm: torch.Tensor
    middle_norm: torch.Tensor
    merged: Projection
    """Queries, keys, values."""
    output: Projection
    gate_up: Projection
    down: Projection
    attention_norm: torch.Tensor | None = None
    """Norm of what attention says, before it is added."""
    gated_norm: torch.Tensor | None = None
    query_norm: torch.Tensor | None = None
    """Norm of each head before its rotation."""
    key_norm: torch.Tensor | None = None
    rotary: str | None = None
    """Which set of rotary frequencies, where the model has several."""


@dataclass(slots=True)
class Decoder:
    """A known architecture's decoder, taken apart."""

    embedding: nn.Module
    tied_scale: float | None
    """The embedding is the head's weight times this; None: it is a weight of its own."""
    layers: list[DecoderLayer]
    final_norm: torch.Tensor
    rotary: nn.Module
    head: Projection
    hidden: int
    intermediate: int
    activation: str
    """``silu`` or ``gelu_tanh``"""
    norm_eps: float
    final_softcap: float | None


def take_apart(model: PreTrainedModel, config: PretrainedConfig) -> Decoder | None:
    """The decoder's parts, or None when the architecture is not one of the known.

    Large weights are the model's own, not copies.
    """
    family = _FAMILIES.get(config.model_type)
    activation = config.hidden_activation if config.model_type in _GEMMAS else getattr(config, "hidden_act", None)
    trunk = model.get_decoder()
    if family is None or activation not in _ACTIVATIONS or not _is_plain(trunk):
        return None
    unit = 1.0 if config.model_type in _GEMMAS else 0.0
    return Decoder(
        embedding=trunk.embed_tokens,
        tied_scale=_tied_scale(trunk.embed_tokens, model.get_output_embeddings()),
        layers=[family(layer, unit) for layer in trunk.layers],
        final_norm=trunk.norm.weight.float() + unit,
        rotary=trunk.rotary_emb,
        head=_projection(model.get_output_embeddings()),
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        activation=_ACTIVATIONS[activation],
        norm_eps=config.rms_norm_eps,
        final_softcap=getattr(config, "final_logit_softcapping", None),
    )


def _is_plain(trunk: nn.Module) -> bool:
    """Nothing but transformers' own code and plain weights: no code from a checkpoint, no adapters, no quantization."""
    projections = [module for name, module in trunk.named_modules() if name.endswith("_proj")]
    return type(trunk).__module__.startswith("transformers.models.") and all(
        type(module) is nn.Linear and has_plain_weight(module) for module in projections
    )


def has_plain_weight(module: nn.Module) -> bool:
    """Whether it is a matrix of numbers, and not a tensor of a kind of its own that only tells a type of numbers."""
    return type(module.weight) is nn.Parameter and module.weight.dtype in _PLAIN


def _tied_scale(embedding: nn.Embedding, head: nn.Linear) -> float | None:
    if embedding.weight is not head.weight:
        return None
    scale = getattr(embedding, "embed_scale", None)
    return 1.0 if scale is None else float(scale)


def _projection(*modules: nn.Linear) -> Projection:
    biased = modules[0].bias is not None
    return Projection([each.weight for each in modules], [each.bias for each in modules] if biased else None)


def _llama(layer: nn.Module, unit: float) -> DecoderLayer:
    """llama and everything whose layers have the same names; ``unit`` is what its norms add to their weights."""
    attention, mlp = layer.self_attn, layer.mlp
    query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return DecoderLayer(
        input_norm=layer.input_layernorm.weight.float() + unit,
        middle_norm=layer.post_attention_layernorm.weight.float() + unit,
        merged=_projection(attention.q_proj, attention.k_proj, attention.v_proj),
        output=_projection(attention.o_proj),
        gate_up=_projection(mlp.gate_proj, mlp.up_proj),
        down=_projection(mlp.down_proj),
        query_norm=query_norm.weight.float() + unit if query_norm is not None else None,
        key_norm=key_norm.weight.float() + unit if key_norm is not None else None,
    )


def _phi3(layer: nn.Module, unit: float) -> DecoderLayer:
    return DecoderLayer(
        input_norm=layer.input_layernorm.weight.float() + unit,
        middle_norm=layer.post_attention_layernorm.weight.float() + unit,
        merged=_projection(layer.self_attn.qkv_proj),
        output=_projection(layer.self_attn.o_proj),
        gate_up=_projection(layer.mlp.gate_up_proj),
        down=_projection(layer.mlp.down_proj),
    )


def _gemma(layer: nn.Module, unit: float) -> DecoderLayer:
    """Four norms: before and after each half."""
    taken = _llama(layer, unit)
    taken.attention_norm = taken.middle_norm
    taken.middle_norm = layer.pre_feedforward_layernorm.weight.float() + unit
    taken.gated_norm = layer.post_feedforward_layernorm.weight.float() + unit
    return taken


def _gemma3(layer: nn.Module, unit: float) -> DecoderLayer:
    taken = _gemma(layer, unit)
    taken.rotary = layer.self_attn.layer_type
    return taken


_GEMMAS = frozenset({"gemma2", "gemma3_text"})
"""Norms that multiply with one more than their weights."""

_FAMILIES: dict[str, Callable[[nn.Module, float], DecoderLayer]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "phi3": _phi3,
    "gemma2": _gemma,
    "gemma3_text": _gemma3,
}
