"""ModelFiles: what text handling needs of a model, and no weights."""

from dataclasses import dataclass, field

from headrace_shared.model_card import GenerationDefaults


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
