"""ModelFiles: what text handling needs of a model, and no weights."""

from dataclasses import dataclass, field

from headrace_shared.model_card import GenerationDefaults
from headrace_shared.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ModelFiles:
    """The small files of a model, in the form that travels to API nodes."""

    tokenizer_json: bytes
    chat_template: str | None = None
    tool_template: str | None = None
    """For conversations with tools, where the model has one of its own for them."""
    bos_token: str | None = None
    eos_token: str | None = None
    special_tokens: dict[str, str] = field(default_factory=dict)
    add_bos_token: bool | None = None
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)

    def tokenizer(self) -> Tokenizer:
        """Raises ValueError when it cannot be read."""
        named = [self.bos_token, self.eos_token, *self.special_tokens.values()]
        return Tokenizer.from_bytes(self.tokenizer_json, special_tokens=[token for token in named if token])
