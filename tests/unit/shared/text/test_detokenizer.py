import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizer_families import BYTE_FALLBACK, BYTE_LEVEL, FAMILIES, texts, tokenizer_json

from headrace_shared.text.detokenizer import Detokenizer
from headrace_shared.text.tokenizer import Tokenizer

_TOKENIZERS = {family: Tokenizer.from_bytes(tokenizer_json(family)) for family in FAMILIES}
CRAB = "🦀"
every_family = pytest.mark.parametrize("family", FAMILIES)


def one_by_one(tokenizer: Tokenizer, prompt: list[int], output: list[int], *, skip: bool) -> str:
    detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens=skip)
    return "".join([detokenizer.feed([token_id]) for token_id in output]) + detokenizer.finish()


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One token for each byte."""
    found = {tokenizer.token_bytes(token_id): token_id for token_id in reversed(range(tokenizer.vocab_size))}
    return [found[bytes([value])] for value in data]


@every_family
@given(text=texts(), cut=st.floats(0, 1), skip=st.booleans())
def test_streamed_text_is_what_a_full_decode_adds_to_the_prompt(family: str, text: str, cut: float, skip: bool) -> None:
    tokenizer = _TOKENIZERS[family]
    ids = tokenizer.encode(text, add_special_tokens=True)
    prompt, output = ids[: round(cut * len(ids))], ids[round(cut * len(ids)) :]
    before = tokenizer.decode(prompt, skip_special_tokens=skip)
    assume(not before.endswith("\ufffd"))
    expected = tokenizer.decode(ids, skip_special_tokens=skip)[len(before) :]
    assert one_by_one(tokenizer, prompt, output, skip=skip) == expected


@every_family
@given(data=st.data(), skip=st.booleans())
def test_text_does_not_depend_on_how_the_ids_arrive(family: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = _TOKENIZERS[family]
    any_ids = st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=24)
    prompt = data.draw(any_ids)
    pieces = data.draw(st.lists(any_ids, max_size=6))
    detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens=skip)
    text = "".join([detokenizer.feed(piece) for piece in pieces]) + detokenizer.finish()
    assert text == one_by_one(tokenizer, prompt, [token_id for piece in pieces for token_id in piece], skip=skip)


@pytest.mark.parametrize("family", BYTE_LEVEL)
@given(data=st.data(), skip=st.booleans())
def test_broken_bytes_show_as_in_a_full_decode(family: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = _TOKENIZERS[family]
    # Single bytes and specials: the ids that break characters most often.
    ids = data.draw(st.lists(st.integers(0, 260), max_size=24))
    assert one_by_one(tokenizer, [], ids, skip=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("family", BYTE_LEVEL)
@given(data=st.data())
def test_text_is_held_back_for_an_unfinished_character_only(family: str, data: st.DataObject) -> None:
    tokenizer = _TOKENIZERS[family]
    ids = data.draw(st.lists(st.integers(0, 260), max_size=24))
    detokenizer = Detokenizer(tokenizer, [])
    shown = ""
    for count, token_id in enumerate(ids, start=1):
        shown += detokenizer.feed([token_id])
        certain = tokenizer.decode(ids[:count], skip_special_tokens=True)
        # Two marks: Python waits one byte longer to see that ED A0..BF begins no character.
        assert certain in (shown, shown + "\ufffd", shown + "\ufffd\ufffd")


@pytest.mark.parametrize("family", BYTE_FALLBACK)
@given(values=st.lists(st.sampled_from([0x20, 0x41, 0x80, 0xA0, 0xBD, 0xC3, 0xE4, 0xF0, 0xFF]), max_size=16))
def test_every_byte_that_belongs_to_no_character_shows_as_one_mark(family: str, values: list[int]) -> None:
    tokenizer = _TOKENIZERS[family]
    prompt = tokenizer.encode("fox", add_special_tokens=True)
    output = [tokenizer.token_to_id(f"<0x{value:02X}>") or 0 for value in values]
    each = bytes(values).decode(errors="surrogateescape")
    expected = re.sub("[\udc80-\udcff]", "\ufffd", each)
    assert one_by_one(tokenizer, prompt, output, skip=True) == expected


@every_family
@given(text=st.text(alphabet="日語🙂é fox👩‍👩‍👧", min_size=1, max_size=12))
def test_no_half_character_is_ever_shown(family: str, text: str) -> None:
    tokenizer = _TOKENIZERS[family]
    detokenizer = Detokenizer(tokenizer, [])
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert all("\ufffd" not in detokenizer.feed([token_id]) for token_id in ids)
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("family", ["gpt2", "llama2"])
@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_character_begun_in_the_prompt_is_shown_whole(family: str, known: int) -> None:
    tokenizer = _TOKENIZERS[family]
    ids = byte_ids(tokenizer, CRAB.encode())
    prompt = [*tokenizer.encode("fox ", add_special_tokens=False), *ids[:known]]
    assert one_by_one(tokenizer, prompt, ids[known:], skip=True) == CRAB


@pytest.mark.parametrize("family", ["gpt2", "llama2"])
def test_a_character_that_the_prompt_left_broken_is_not_shown_again(family: str) -> None:
    tokenizer = _TOKENIZERS[family]
    prompt = [*tokenizer.encode("fox ", add_special_tokens=False), *byte_ids(tokenizer, CRAB.encode()[:-1])]
    output = tokenizer.encode("x", add_special_tokens=False)[-1:]
    assert one_by_one(tokenizer, prompt, output, skip=True) == "x"
    assert one_by_one(tokenizer, prompt, [], skip=True) == ""


def test_bytes_that_can_no_longer_become_a_character_come_out_at_once() -> None:
    tokenizer = _TOKENIZERS["gpt2"]
    crab = byte_ids(tokenizer, CRAB.encode())
    letter = tokenizer.encode("a", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, [])
    assert detokenizer.feed(crab[:3]) == ""
    assert detokenizer.feed(letter) == "\ufffda"
    assert detokenizer.feed(crab[:2]) == ""
    assert detokenizer.finish() == "\ufffd"


def test_a_skipped_token_inside_a_character_does_not_break_it() -> None:
    tokenizer = _TOKENIZERS["llama3"]
    crab = byte_ids(tokenizer, CRAB.encode())
    special = tokenizer.token_to_id("<|eot_id|>") or 0
    ids = [*crab[:2], special, *crab[2:]]
    assert one_by_one(tokenizer, [], ids, skip=True) == CRAB
    assert one_by_one(tokenizer, [], ids, skip=False) == tokenizer.decode(ids, skip_special_tokens=False)


def test_only_the_first_word_of_all_loses_its_leading_blank() -> None:
    tokenizer = _TOKENIZERS["llama2"]
    bos = tokenizer.encode("", add_special_tokens=True)
    word = tokenizer.encode("fox", add_special_tokens=False)
    assert one_by_one(tokenizer, bos, word, skip=True) == "fox"
    assert one_by_one(tokenizer, bos, word, skip=False) == " fox"
    assert one_by_one(tokenizer, [*bos, *word], word, skip=True) == " fox"


@every_family
def test_ids_outside_the_vocabulary_show_as_nothing(family: str) -> None:
    tokenizer = _TOKENIZERS[family]
    word = tokenizer.encode("fox", add_special_tokens=False)
    padded = [tokenizer.vocab_size + 7, *word, tokenizer.vocab_size + 8]
    assert one_by_one(tokenizer, [], padded, skip=True) == tokenizer.decode(word, skip_special_tokens=True)


def test_only_an_unusual_decoder_is_read_through_a_window() -> None:
    windowed = [family for family, tokenizer in _TOKENIZERS.items() if not tokenizer.pieces.separable]
    assert windowed == ["openai_gpt"]
