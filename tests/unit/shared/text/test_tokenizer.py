from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers
from hypothesis import given
from tokenizer_families import BYTE_FALLBACK, BYTE_LEVEL, FAMILIES, texts, tokenizer_json

from headrace_shared.errors import InvalidRequestError
from headrace_shared.text.tokenizer import Tokenizer

_TOKENIZERS = {family: Tokenizer.from_bytes(tokenizer_json(family)) for family in FAMILIES}
every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
@given(text=texts())
def test_encode_and_decode_are_the_librarys_own(family: str, text: str) -> None:
    backend = tokenizers.Tokenizer.from_buffer(tokenizer_json(family))
    tokenizer = _TOKENIZERS[family]
    for special in (True, False):
        ids = tokenizer.encode(text, add_special_tokens=special)
        assert ids == backend.encode(text, add_special_tokens=special).ids
        assert tokenizer.decode(ids, skip_special_tokens=special) == backend.decode(ids, skip_special_tokens=special)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "openai_gpt"])
@given(text=texts())
def test_bytes_of_the_tokens_join_to_the_text_that_follows_a_word(family: str, text: str) -> None:
    tokenizer = _TOKENIZERS[family]
    word = tokenizer.encode("fox", add_special_tokens=False)
    ids = [
        token_id for token_id in tokenizer.encode(text, add_special_tokens=False) if not tokenizer.is_special(token_id)
    ]
    joined = b"".join(map(tokenizer.token_bytes, ids)).decode(errors=tokenizer.pieces.decode_errors)
    before = tokenizer.decode(word, skip_special_tokens=False)
    assert before + joined == tokenizer.decode([*word, *ids], skip_special_tokens=False)


@pytest.mark.parametrize("family", BYTE_LEVEL)
def test_every_byte_is_a_token_of_a_byte_level_vocabulary(family: str) -> None:
    tokenizer = _TOKENIZERS[family]
    found = {tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)}
    assert {bytes([value]) for value in range(256)} <= found


@pytest.mark.parametrize("family", BYTE_FALLBACK)
def test_a_byte_fallback_token_is_its_byte(family: str) -> None:
    tokenizer = _TOKENIZERS[family]
    for value in range(256):
        token_id = tokenizer.token_to_id(f"<0x{value:02X}>")
        assert token_id is not None
        assert tokenizer.token_bytes(token_id) == bytes([value])


@pytest.mark.parametrize(("family", "expected"), [("gpt2", "the foxes"), ("t5", " the foxes"), ("bert", " the foxes")])
def test_a_blank_before_a_word_belongs_to_the_words_own_text(family: str, expected: str) -> None:
    tokenizer = _TOKENIZERS[family]
    ids = tokenizer.encode("the foxes", add_special_tokens=False)
    assert "".join(map(tokenizer.token_text, ids)) == expected


def test_a_token_that_is_part_of_a_character_shows_the_replacement_mark_and_keeps_its_bytes() -> None:
    tokenizer = _TOKENIZERS["mistral"]
    first = tokenizer.encode("🦀", add_special_tokens=False)[-4]
    assert tokenizer.token_text(first) == "\ufffd"
    assert tokenizer.token_bytes(first) == b"\xf0"


@pytest.mark.parametrize(("family", "token"), [("llama3", "<|eot_id|>"), ("mistral", "</s>"), ("bert", "[SEP]")])
def test_a_special_token_shows_as_its_name(family: str, token: str) -> None:
    tokenizer = _TOKENIZERS[family]
    token_id = tokenizer.token_to_id(token)
    assert token_id is not None
    assert tokenizer.is_special(token_id)
    assert token_id in tokenizer.special_ids
    assert tokenizer.token_text(token_id) == token
    assert tokenizer.id_to_token(token_id) == token


def test_an_added_token_outside_the_byte_alphabet_is_taken_as_it_stands() -> None:
    backend = tokenizers.Tokenizer.from_buffer(tokenizer_json("gpt2"))
    backend.add_special_tokens(["<\uff5cbegin\u2581of\u2581sentence\uff5c>"])
    tokenizer = Tokenizer(backend)
    token_id = tokenizer.token_to_id("<\uff5cbegin\u2581of\u2581sentence\uff5c>")
    assert token_id is not None
    assert tokenizer.pieces.later(token_id).decode() == "<\uff5cbegin\u2581of\u2581sentence\uff5c>"


def test_an_id_outside_the_vocabulary_has_no_text() -> None:
    for tokenizer in _TOKENIZERS.values():
        outside = tokenizer.vocab_size + 100
        assert (tokenizer.token_text(outside), tokenizer.token_bytes(outside)) == ("", b"")
        assert tokenizer.id_to_token(outside) is None
        assert not tokenizer.is_special(outside)


def test_vocabulary_size_counts_added_tokens() -> None:
    backend = tokenizers.Tokenizer.from_buffer(tokenizer_json("gpt2"))
    before = Tokenizer(backend).vocab_size
    backend.add_tokens(["<think>"])
    assert Tokenizer(backend).vocab_size == before + 1


def test_truncation_and_padding_of_the_file_are_ignored() -> None:
    backend = tokenizers.Tokenizer.from_buffer(tokenizer_json("gpt2"))
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    tokenizer = Tokenizer.from_bytes(backend.to_str().encode())
    text = "the quick brown fox"
    plain = _TOKENIZERS["gpt2"].encode(text, add_special_tokens=False)
    assert tokenizer.encode(text, add_special_tokens=False) == plain


def test_add_bos_token_overrules_the_files_post_processor() -> None:
    data = tokenizer_json("llama2")
    plain = _TOKENIZERS["llama2"].encode("fox", add_special_tokens=False)
    with_bos = Tokenizer.from_bytes(data, add_bos_token=True, bos_token="</s>")
    without = Tokenizer.from_bytes(data, add_bos_token=False, bos_token="<s>")
    nameless = Tokenizer.from_bytes(data, add_bos_token=True)
    assert with_bos.encode("fox", add_special_tokens=True) == [2, *plain]
    assert with_bos.encode("fox", add_special_tokens=False) == plain
    assert without.encode("fox", add_special_tokens=True) == plain
    assert nameless.encode("fox", add_special_tokens=True) == plain


def test_a_token_named_special_by_the_configuration_is_skipped_though_the_file_calls_it_ordinary() -> None:
    backend = tokenizers.Tokenizer.from_buffer(tokenizer_json("gpt2"))
    backend.add_tokens(["<|im_end|>"])
    data = backend.to_str().encode()
    named = Tokenizer.from_bytes(data, special_tokens=["<|im_end|>", "<|absent|>"])
    ids = named.encode("fox<|im_end|>", add_special_tokens=False)
    assert named.decode(ids, skip_special_tokens=True) == "fox"
    assert Tokenizer.from_bytes(data).decode(ids, skip_special_tokens=True) == "fox<|im_end|>"
    assert named.vocab_size == Tokenizer.from_bytes(data).vocab_size


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff\xfe", b'{"model": {"type": "Nonsense"}}', tokenizer_json("gpt2")[:-9]]
)
def test_bytes_that_are_no_tokenizer_are_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        Tokenizer.from_bytes(data)


def test_a_lone_surrogate_is_the_clients_error() -> None:
    with pytest.raises(InvalidRequestError, match="surrogate"):
        _TOKENIZERS["gpt2"].encode("a\ud800b", add_special_tokens=False)


def test_threads_may_share_a_tokenizer() -> None:
    tokenizer = Tokenizer.from_bytes(tokenizer_json("llama3"))
    lines = [f"The quick {number} foxes jump over naïve dogs 🙂 {number * 7919}" for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        encoded = list(pool.map(lambda line: tokenizer.encode(line, add_special_tokens=True), lines))
        decoded = list(pool.map(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), encoded))
        shown = list(pool.map(lambda ids: b"".join(map(tokenizer.token_bytes, ids[1:])).decode(), encoded))
    assert decoded == lines == shown
