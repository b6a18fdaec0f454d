"""Finding out how a model attends, by running it once on two tokens.

This asks nothing of an architecture's configuration, whose field names differ, and finds what the
engine could not do (state outside of the K/V cache, masks of its own) before a request does.
"""

from typing import Any

import torch
from torch import nn

from headrace_worker.models import attention_hook
from headrace_worker.models.errors import ModelNotSupportedError
from headrace_worker.models.layers import AttentionLayer

_IGNORED = frozenset({
    # Said about the call, not about the rule: none changes which tokens are seen, or how.
    "dropout", "position_ids", "cache_position", "output_attentions", "use_cache", "layer_head_mask", "deterministic",
    "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "output_router_logits", "position_embeddings",
    "is_causal", "scaling", "sliding_window", "softcap", "s_aux", "output_hidden_states", "return_dict",
})  # fmt: skip


class AttentionProbe:
    """Records each attention layer in the order in which the model calls them."""

    def __init__(self) -> None:
        self.layers: list[AttentionLayer] = []
        self.index: dict[nn.Module, int] = {}

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **features: Any,
    ) -> torch.Tensor:
        self._refuse(module, query, key, attention_mask, features)
        self.index[module] = len(self.layers)
        scaling = features.get("scaling")
        self.layers.append(
            AttentionLayer(
                num_heads=query.shape[1],
                num_kv_heads=key.shape[1],
                head_dim=query.shape[3],
                value_dim=value.shape[3],
                scale=query.shape[3] ** -0.5 if scaling is None else float(scaling),
                sliding_window=features.get("sliding_window"),
                softcap=features.get("softcap"),
                has_sinks=features.get("s_aux") is not None,
            )
        )
        # What attention says is of no interest here, only that it was asked.
        return query.new_zeros((1, query.shape[2], query.shape[1], value.shape[3]))

    def _refuse(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        attention_mask: torch.Tensor | None,
        features: dict[str, Any],
    ) -> None:
        unknown = sorted(name for name, given in features.items() if given is not None and name not in _IGNORED)
        if unknown:
            raise ModelNotSupportedError(f"its attention needs {', '.join(unknown)}, which this engine does not have")
        if attention_mask is not None:
            raise ModelNotSupportedError("its attention brings a mask or position bias of its own")
        if features.get("is_causal") is False or getattr(module, "is_causal", True) is False:
            raise ModelNotSupportedError("its attention is not causal")
        if module in self.index or query.shape[2] != key.shape[2]:
            raise ModelNotSupportedError("its layers share their keys and values in a way the cache does not hold")

    def mask(self, **features: Any) -> None:
        """Refuse a model in which a token would see a later one."""
        rule = features.get("mask_function")
        first, second = torch.tensor(0), torch.tensor(1)
        if rule is not None and bool(rule(first, first, first, second)):
            raise ModelNotSupportedError("its attention is not causal")


def probe(model: nn.Module, device: torch.device) -> AttentionProbe:
    """Run ``model`` on two tokens. Raises ModelNotSupportedError for what cannot be served.

    The model must have been loaded with ``attention_hook.NAME`` as its attention.
    """
    found = AttentionProbe()
    inputs = torch.zeros((1, 2), dtype=torch.long, device=device)
    positions = torch.arange(2, device=device).unsqueeze(0)
    with attention_hook.installed(found), torch.inference_mode():
        try:
            model(input_ids=inputs, position_ids=positions, use_cache=False)
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            reason = str(error).partition("\n")[0]
            raise ModelNotSupportedError(f"it does not run on packed tokens ({reason})") from error
    return found
