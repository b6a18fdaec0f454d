"""ModelCard: everything an API node must know of a model, and nothing that differs between two of its workers."""

import hashlib
import re
from typing import Any

import msgspec


class GenerationDefaults(msgspec.Struct, frozen=True, omit_defaults=True):
    """Values for parameters that a request leaves out, from the model's generation_config; None: no opinion."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    """Default and cap, as the peers read ``max_new_tokens``."""


class ModelCard(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Announced by every worker of a model under its lease. Equal cards have equal digests and share one queue."""

    name: str
    """First served name; the name in responses' metadata and metrics."""
    aliases: tuple[str, ...] = ()
    task: str = "generate"
    root: str = ""
    """What was asked to be served: a Hugging Face id, or the last part of a local path."""
    architecture: str = ""
    dtype: str = ""
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...] = ()
    tokenizer: str
    """Blob digest of the model's ``tokenizer.json``."""
    bos_token: str | None = None
    eos_token: str | None = None
    special_tokens: dict[str, str] = {}
    """Further special-token strings that the chat template may name: ``pad_token``, ``unk_token`` ..."""
    add_bos_token: bool | None = None
    """What tokenizer_config says; None: leave it to tokenizer.json's post-processor."""
    chat_template: str | None = None
    """Blob digest of the Jinja source; None: the model has no chat template."""
    tool_template: str | None = None
    """Likewise, of the one for conversations with tools, where the model has two."""
    chat_template_kwargs: dict[str, Any] = {}
    """Template variables for what requests leave out."""
    reasoning_efforts: dict[str, str] = {}
    """What the template is told instead of a ``reasoning_effort``."""
    content_format: str = "auto"
    """``auto``, ``string`` or ``openai``."""
    response_role: str = "assistant"
    defaults: GenerationDefaults = GenerationDefaults()
    max_logprobs: int = 20
    logprobs_mode: str = "raw_logprobs"
    """What its workers tell as log-probabilities."""
    logits_processor_pattern: str | None = None
    """Regular expression for the whole name of a logits processor that a request may use; None: none."""
    trust_request_chat_template: bool = False
    tool_parser: str | None = None
    """Which parser reads the model's calls of tools; None: nobody knows how it calls any."""
    auto_tool_choice: bool = True
    """Whether the model may decide by itself to call tools."""
    keeps_unused_tools: bool = False
    """Whether the prompt describes tools that ``tool_choice`` forbids to call."""
    reasoning_parser: str | None = None
    """Which parser tells the model's thoughts from its answers; None: it has none."""
    grammar_backends: tuple[str, ...] = ()
    """Which ``GrammarBackend`` its workers have, the preferred one first; none: answers cannot be constrained."""

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the whole card (16 digits)."""
        return hashlib.blake2b(msgspec.msgpack.encode(self, order="sorted"), digest_size=8).hexdigest()

    @property
    def queue(self) -> str:
        """The queue that workers with just this card read; safe inside a Redis hash tag."""
        return f"{re.sub(r'[^A-Za-z0-9._-]', '-', self.name)[:64]}.{self.digest}"

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)
