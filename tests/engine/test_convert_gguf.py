"""The conversion of GGUF files against transformers' own reader of them."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from headrace_worker.models.convert_gguf import ConversionError, convert

HIDDEN, HEADS, KV_HEADS, LAYERS, FEED_FORWARD = 64, 4, 2, 2, 96
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "\u0120 w", "o r", "\u0120w or", "l d", "\u0120wor ld"]
TEXTS = [
    "hello world",
    "<|im_start|>hello<|im_end|>",
    "na\u00efve \U0001f469\u200d\U0001f467 \u65e5\u672c",
    "  12 don't\n\n\tx",
    "",
]


def vocabulary() -> list[str]:
    """Special tokens, the 256 byte letters of byte-level BPE, and what the merges make."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [chr(256 + n) for n in range(256 - len(visible))]
    return [*SPECIAL, *map(chr, visible), *hidden, *(merge.replace(" ", "") for merge in MERGES)]


def write_gguf(path: Path, *, architecture: str = "llama", tied: bool = True, extra_tensor: bool = False) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    tokens = vocabulary()
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    source = np.random.default_rng(7)

    def add(name: str, *shape: int, quantised: bool = True) -> None:
        data = source.normal(scale=0.1, size=shape).astype(np.float32)
        if quantised:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN, quantised=False)
    if not tied:
        add("output.weight", len(tokens), HIDDEN)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        add(f"{block}attn_norm.weight", HIDDEN, quantised=False)
        add(f"{block}ffn_norm.weight", HIDDEN, quantised=False)
        add(f"{block}attn_q.weight", HIDDEN, HIDDEN)
        add(f"{block}attn_k.weight", HIDDEN * KV_HEADS // HEADS, HIDDEN)
        add(f"{block}attn_v.weight", HIDDEN * KV_HEADS // HEADS, HIDDEN)
        add(f"{block}attn_output.weight", HIDDEN, HIDDEN)
        add(f"{block}ffn_gate.weight", FEED_FORWARD, HIDDEN)
        add(f"{block}ffn_up.weight", FEED_FORWARD, HIDDEN)
        add(f"{block}ffn_down.weight", HIDDEN, FEED_FORWARD)
    if extra_tensor:
        add("blk.0.ffn_gate_exps.weight", FEED_FORWARD, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_weights_are_those_that_transformers_reads(tmp_path: Path, tied: bool) -> None:
    source = write_gguf(tmp_path / "m.gguf", tied=tied)
    convert(source, tmp_path / "out")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    wanted = theirs.state_dict()
    assert ours.state_dict().keys() == wanted.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name
    ids = torch.arange(40)[None] + 3
    with torch.inference_mode():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_the_tokenizer_is_the_one_that_transformers_reads(tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    convert(source, tmp_path / "out")
    ours: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in TEXTS:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.chat_template == theirs.chat_template


def test_the_configuration_holds_what_the_file_says(tmp_path: Path) -> None:
    convert(write_gguf(tmp_path / "m.gguf"), tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.max_position_embeddings, config.num_key_value_heads, config.head_dim) == (
        128,
        KV_HEADS,
        HIDDEN // HEADS,
    )
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 5000.0}
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"general.architecture is 'falcon'"):
        convert(write_gguf(tmp_path / "m.gguf", architecture="falcon"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_has_no_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"unexpected tensor blk.0.ffn_gate_exps.weight"):
        convert(write_gguf(tmp_path / "m.gguf", extra_tensor=True), tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"nonsense" * 100], ids=["empty", "cut short", "something else"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ConversionError, match="cannot read"):
        convert(tmp_path / "m.gguf", tmp_path / "out")
