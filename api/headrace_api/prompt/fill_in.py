"""Fill-in-the-middle: prefix and suffix in the order and with the marks that a model was trained on."""

from dataclasses import dataclass

from headrace_shared.errors import InvalidRequestError
from headrace_shared.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Marks:
    before_prefix: str
    before_suffix: str
    before_middle: str


_FAMILIES = (
    # StarCoder, Granite, SmolLM (arXiv:2305.06161)
    _Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    # Qwen2.5-Coder, CodeGemma (arXiv:2409.12186)
    _Marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    # DeepSeek-Coder, whose last mark ends the text (arXiv:2401.14196)
    _Marks("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    # Code Llama (arXiv:2308.12950)
    _Marks("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
)


def fill_in_ids(prefix: str, suffix: str, tokenizer: Tokenizer, *, add_special_tokens: bool) -> list[int]:
    """Token ids after which the model writes what belongs between the two.

    Raises InvalidRequestError when the model's vocabulary has no marks for it.
    """
    for marks in _FAMILIES:
        ids = [tokenizer.token_to_id(mark) for mark in (marks.before_prefix, marks.before_suffix, marks.before_middle)]
        first, second, third = ids
        if first is not None and second is not None and third is not None:
            opening = tokenizer.encode("", add_special_tokens=add_special_tokens)
            return [*opening, first, *_plain(prefix, tokenizer), second, *_plain(suffix, tokenizer), third]
    raise InvalidRequestError(
        "suffix: this model cannot fill in text; its vocabulary has no tokens for it.", param="suffix"
    )


def _plain(text: str, tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)
