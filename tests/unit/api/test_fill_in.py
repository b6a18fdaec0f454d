"""Fill-in-the-middle prompts, in the order that each family was trained on."""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from headrace_api.prompt.fill_in import fill_in_ids
from headrace_shared.errors import InvalidRequestError
from headrace_shared.text.tokenizer import Tokenizer


def tokenizer(*marks: str) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(list(marks))
    return Tokenizer(backend)


@pytest.mark.parametrize(
    "marks",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ],
)
def test_prefix_and_suffix_stand_after_their_marks_and_the_middle_comes_last(marks: tuple[str, str, str]) -> None:
    known = tokenizer(*marks)
    ids = fill_in_ids("ab", "yz", known, add_special_tokens=True)
    assert [known.id_to_token(token_id) for token_id in ids] == [marks[0], "a", "b", marks[1], "y", "z", marks[2]]


def test_a_vocabulary_without_marks_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="cannot fill in") as caught:
        fill_in_ids("a", "b", tokenizer("<fim_prefix>"), add_special_tokens=True)
    assert caught.value.param == "suffix"
