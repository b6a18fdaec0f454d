"""POST .../render: what a request would become."""

import msgspec

from headrace_api.schemas.base import JsonObject


class RenderedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One job as a worker would get it: every default resolved, every limit applied."""

    prompt: str
    """As the model would read it, special tokens included."""
    token_ids: list[int]
    choices: int
    sampling: JsonObject
    stopping: JsonObject


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of POST .../render."""

    object: str = "render"
    model: str
    max_model_len: int
    prompts: list[RenderedPrompt]
