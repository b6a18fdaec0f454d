"""The same file, the same configuration: the same ids and the same text as transformers' fast tokenizer."""

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_families import FAMILIES, texts, tokenizer_json
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from headrace_shared.text.detokenizer import Detokenizer
from headrace_shared.text.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

_NAMED: dict[str, dict[str, str]] = {
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "qwen": {"eos_token": "<|im_end|>"},
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "</s>", "unk_token": "<unk>"},
    "t5": {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    "bert": {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"},
    "openai_gpt": {"unk_token": "<unk>"},
    "word_level": {"unk_token": "<unk>", "eos_token": "</s>"},
}
_WITH_BOS = ("gpt2", "llama3", "llama2", "mistral", "gemma")


@functools.cache
def theirs(family: str, **options: Any) -> PreTrainedTokenizerFast:
    backend = Backend.from_str(tokenizer_json(family).decode())
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **_NAMED[family], **options
    )


@functools.cache
def ours(family: str, add_bos_token: bool | None = None) -> Tokenizer:
    named = _NAMED[family]
    return Tokenizer.from_bytes(
        tokenizer_json(family),
        add_bos_token=add_bos_token,
        bos_token=named.get("bos_token"),
        special_tokens=list(named.values()),
    )


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts(), special=st.booleans(), skip=st.booleans())
@settings(max_examples=60)
def test_ids_and_text_are_those_of_transformers(family: str, text: str, special: bool, skip: bool) -> None:
    reference, tokenizer = theirs(family), ours(family)
    ids = tokenizer.encode(text, add_special_tokens=special)
    assert ids == reference.encode(text, add_special_tokens=special)
    expected = reference.decode(ids, skip_special_tokens=skip)
    assert tokenizer.decode(ids, skip_special_tokens=skip) == expected
    detokenizer = Detokenizer(tokenizer, [], skip_special_tokens=skip)
    assert "".join([detokenizer.feed([token_id]) for token_id in ids]) + detokenizer.finish() == expected


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=40)
def test_any_ids_decode_as_in_transformers(family: str, data: st.DataObject, skip: bool) -> None:
    ids = data.draw(st.lists(st.integers(0, len(theirs(family)) + 2), max_size=16))
    assert ours(family).decode(ids, skip_special_tokens=skip) == theirs(family).decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("add_bos_token", [True, False])
@pytest.mark.parametrize("family", _WITH_BOS)
def test_add_bos_token_means_what_it_means_in_transformers(family: str, add_bos_token: bool) -> None:
    reference, tokenizer = theirs(family, add_bos_token=add_bos_token), ours(family, add_bos_token)
    for text in ("", "fox", " the quick", "naïve 🙂"):
        for special in (True, False):
            expected = reference.encode(text, add_special_tokens=special)
            assert tokenizer.encode(text, add_special_tokens=special) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_that_transformers_has_written_out_is_the_same_one(family: str) -> None:
    reference = theirs(family)
    tokenizer = Tokenizer.from_bytes(reference.backend_tokenizer.to_str().encode())
    text = "The quick\n naïve 🙂 fox</s><|eot_id|>"
    assert tokenizer.encode(text, add_special_tokens=True) == reference.encode(text)
    assert tokenizer.vocab_size == len(reference)
    assert tokenizer.special_ids >= set(reference.all_special_ids)
