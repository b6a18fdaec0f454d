"""AttentionLayer: what one attention layer of a model needs of the K/V cache and of a kernel."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """The shape and the rules of one layer's attention, the same for every call."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    scale: float
    sliding_window: int | None = None
    """A token sees itself and the ``sliding_window - 1`` tokens before it; None: all before it."""
    softcap: float | None = None
    """Scores become ``softcap * tanh(score / softcap)`` before the softmax."""
    has_sinks: bool = False
    """Each head has one more logit in the softmax, with no value."""

    def kv_elements_per_token(self) -> int:
        return self.num_kv_heads * (self.head_dim + self.value_dim)
