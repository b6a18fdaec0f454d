"""Tiny random models of many architectures, made on the spot: no downloads, milliseconds per step."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 211

_BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

CONFIGS: dict[str, dict[str, object]] = {
    "llama": {"model_type": "llama"},
    "llama_tied": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 1},
    "llama_bias_rope3": {
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            **_ROPE,
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral_window": {"model_type": "mistral", "sliding_window": 12, "head_dim": 32},
    "qwen2": {"model_type": "qwen2"},
    "qwen2_window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 10,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "phi3": {"model_type": "phi3", "sliding_window": 20},
    "phi3_partial": {"model_type": "phi3", "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5}},
    "gemma2": {
        "model_type": "gemma2",
        "tie_word_embeddings": False,
        "head_dim": 32,
        "sliding_window": 12,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 8.0,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "tie_word_embeddings": False,
        "head_dim": 32,
        "sliding_window": 12,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "gemma3_tied": {"model_type": "gemma3_text", "head_dim": 32, "sliding_window": 12},
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256},
    "opt": {"model_type": "opt", "ffn_dim": 96, "word_embed_proj_dim": 48, "init_std": 0.2},
    "phi": {"model_type": "phi", "initializer_range": 0.4, "partial_rotary_factor": 0.5},
    "gpt_neox": {"model_type": "gpt_neox"},
    "starcoder2": {"model_type": "starcoder2", "sliding_window": 14},
    "olmo2": {"model_type": "olmo2"},
    "granite": {
        "model_type": "granite",
        "logits_scaling": 4.0,
        "residual_multiplier": 0.5,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
    },
    "cohere": {"model_type": "cohere", "logit_scale": 0.25},
    "stablelm": {"model_type": "stablelm"},
    "gpt_oss": {
        "model_type": "gpt_oss",
        "head_dim": 32,
        "sliding_window": 12,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": _ROPE,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "llama_odd_sizes": {
        "model_type": "llama",
        "hidden_size": 60,
        "intermediate_size": 90,
        "head_dim": 20,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
    },
}
"""Name -> configuration, over ``_BASE``. The windows are shorter than the texts of the tests."""

NOISE = {"gemma3_tied": 3.0}
"""Of norms and biases, where a little leaves a model that only repeats what it read."""


def make_model(name: str, folder: Path) -> Path:
    """Save a random model of that name into ``folder``; the same one each time."""
    settings = {**_BASE, **CONFIGS[name]}
    config = AutoConfig.for_model(**settings)
    torch.manual_seed(sum(map(ord, name)))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                # Norms of exactly one and biases of exactly zero would hide mistakes.
                parameter.add_(torch.randn_like(parameter) * NOISE.get(name, 0.1))
    model.save_pretrained(folder)
    return folder
