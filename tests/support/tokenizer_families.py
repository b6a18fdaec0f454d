"""Small real tokenizers of every family that models use, trained in milliseconds."""

import functools
import json
from collections.abc import Callable, Sequence

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_CORPUS = [
    "The quick brown fox jumps over the lazy dog. Hello, world! It's 42 degrees; don't panic.",
    "def f(x):\n    return x ** 2  # squares\n\n\tprint(f(10))",
    "Les élèves naïfs mangent à la crêperie; Straße, señor, smörgåsbord.",
] * 8
_CORPUS_CJK = [*_CORPUS, *["日本語のテキスト 你好世界 한국어 🙂🚀"] * 8]
_BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
_LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def gpt2() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    _train_byte_level(tokenizer, ["<|endoftext|>"])
    return tokenizer


def llama3() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _train_byte_level(tokenizer, ["<|begin_of_text|>", "<|eot_id|>"])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]),
        ]
    )
    return tokenizer


def qwen() -> Tokenizer:
    tokenizer = llama3()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<think>", "<tool_call>", "héllo"])
    return tokenizer


def llama2() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_byte_fallback(tokenizer, bos="<s>")


def mistral() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_byte_fallback(tokenizer, bos="<s>")


def gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _with_byte_fallback(tokenizer, bos="<bos>")


def t5() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        _CORPUS_CJK,
        trainers.UnigramTrainer(
            vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def bert() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        _CORPUS_CJK,
        trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def openai_gpt() -> Tokenizer:
    """The one whose decoder must know what follows a token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.train_from_iterator(
        _CORPUS_CJK,
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False),
    )
    return tokenizer


def word_level() -> Tokenizer:
    """No decoder at all: tokens joined by blanks."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        _CORPUS_CJK, trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False)
    )
    return tokenizer


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    build.__name__: build for build in (gpt2, llama3, qwen, llama2, mistral, gemma, t5, bert, openai_gpt, word_level)
}
BYTE_LEVEL = ("gpt2", "llama3", "qwen")
BYTE_FALLBACK = ("llama2", "mistral", "gemma")


@functools.cache
def tokenizer_json(family: str) -> bytes:
    return FAMILIES[family]().to_str().encode()


def texts() -> st.SearchStrategy[str]:
    """Texts as chat has them: words, blanks, code, several scripts, emoji that are several code points, specials."""
    snippets: Sequence[str] = (
        "the", "fox", " jumps", "  ", "\n", "\n\n", "\t", "don't", "42", "1000000", ".", " ,", "?!", "def f(x):",
        "é", "e\u0301", "ñ", "ß", "日本", "語", "你好", "한국", "नमस्ते", "مرحبا", "🙂", "👩‍👩‍👧", "🇩🇪", "👍🏽", "\u200b", "\ufeff", "\ufffd", "▁", "##a",
        "<s>", "</s>", "<|eot_id|>", "<|im_end|>", "<think>", "héllo", "<0x41>", "[SEP]", "\x00", "\x7f",
    )  # fmt: skip
    return st.lists(st.one_of(st.sampled_from(snippets), st.text(max_size=4)), max_size=12).map("".join)


def _train_byte_level(tokenizer: Tokenizer, special_tokens: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS_CJK, trainer)


def _with_byte_fallback(tokenizer: Tokenizer, bos: str) -> Tokenizer:
    """Trainers know no byte tokens: they enter as special ones and are made ordinary afterwards."""
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", bos, "</s>", *_BYTE_TOKENS], show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in _BYTE_TOKENS]
    trained = Tokenizer.from_str(json.dumps(content))
    trained.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    return trained
