"""``python -m headrace_worker.models.convert_gguf GGUF OUTDIR``: a llama GGUF file as a Hugging Face directory.

Everything is read from the GGUF file itself; the weights are dequantised to float32, so nothing is lost on the way.
It covers what llama.cpp writes for ``LlamaForCausalLM`` with a byte-level BPE tokenizer, and refuses anything else.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
from safetensors.numpy import save_file

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
_CONTROL, _USER_DEFINED = 3, 4
"""Token types of GGUF: special tokens, and plain ones that are matched before the merges."""

_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_TENSOR = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class ConversionError(Exception):
    """The file is not what this conversion covers; the message is one line for people."""


class Metadata:
    """The key-value part of a GGUF file."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self._fields = reader.fields

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def __getitem__(self, key: str) -> Any:
        if key not in self._fields:
            raise ConversionError(f"the file has no {key}")
        return self._fields[key].contents()

    def either(self, key: str, default: Any) -> Any:
        """The value of ``key``, ``default`` where the file leaves it out."""
        try:
            return self[key]
        except ConversionError:
            return default


def convert(source: Path, out: Path) -> None:
    """Write config, generation config, tokenizer and weights of ``source`` into the new directory ``out``.

    Raises ConversionError for a file of another architecture or tokenizer, or a damaged one.
    """
    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, IndexError, OSError) as error:
        raise ConversionError(f"cannot read {source}: {error}") from error
    metadata = Metadata(reader)
    for key, wanted in (("general.architecture", "llama"), ("tokenizer.ggml.model", "gpt2")):
        if metadata[key] != wanted:
            raise ConversionError(f"{key} is {metadata[key]!r}; this conversion knows {wanted!r} only")
    config = model_config(metadata, tied="output.weight" not in {tensor.name for tensor in reader.tensors})
    out.mkdir(parents=True)
    _write_json(out / "config.json", config)
    _write_json(
        out / "generation_config.json",
        {k: config[k] for k in ("bos_token_id", "eos_token_id", "pad_token_id") if k in config},
    )
    _write_json(out / "tokenizer.json", tokenizer(metadata), indent=None)
    _write_json(out / "tokenizer_config.json", tokenizer_config(metadata))
    if "tokenizer.chat_template" in metadata:
        (out / "chat_template.jinja").write_text(metadata["tokenizer.chat_template"], "utf-8")
    save_file(dict(weights(reader, config)), out / "model.safetensors", metadata={"format": "pt"})
    # safetensors makes it private to its owner; the cache may be shared like the files beside it.
    (out / "model.safetensors").chmod((out / "config.json").stat().st_mode)


def model_config(metadata: Metadata, *, tied: bool) -> dict[str, Any]:
    """What ``LlamaConfig`` wants. ``tied``: the output layer is the embedding."""
    if "llama.rope.scaling.type" in metadata and metadata["llama.rope.scaling.type"] != "none":
        raise ConversionError("scaled rotary embeddings are not covered by this conversion")
    heads = metadata["llama.attention.head_count"]
    hidden = metadata["llama.embedding_length"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": hidden,
        "intermediate_size": metadata["llama.feed_forward_length"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.either("llama.attention.head_count_kv", heads),
        "head_dim": metadata.either("llama.attention.key_length", hidden // heads),
        "max_position_embeddings": metadata["llama.context_length"],
        "rms_norm_eps": metadata["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": metadata.either("llama.rope.freq_base", 10000.0)},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "dtype": "float32",
    }
    return config | {f"{name}_token_id": id_ for name, id_ in _special_ids(metadata).items() if name != "unk"}


def tokenizer(metadata: Metadata) -> dict[str, Any]:
    """The content of ``tokenizer.json``: byte-level BPE over the file's tokens and merges."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(id_, tokens[id_], kind == _CONTROL)
            for id_, kind in enumerate(kinds)
            if kind in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id_ for id_, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(metadata: Metadata) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {f"{name}_token": tokens[id_] for name, id_ in _special_ids(metadata).items()}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": metadata["llama.context_length"], **named}


def weights(reader: gguf.GGUFReader, config: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """Every tensor under its Hugging Face name, dequantised to float32."""
    for tensor in reader.tensors:
        name, arrange = _place(tensor.name, config)
        yield name, np.ascontiguousarray(arrange(gguf.dequantize(tensor.data, tensor.tensor_type)), dtype=np.float32)


def _place(gguf_name: str, config: Mapping[str, Any]) -> tuple[str, Callable[[Array], Array]]:
    if gguf_name in _TENSORS:
        return _TENSORS[gguf_name], lambda array: array
    match = _LAYER_TENSOR.fullmatch(gguf_name)
    if match is None or match[2] not in _LAYER_TENSORS:
        raise ConversionError(f"unexpected tensor {gguf_name}")
    name = f"model.layers.{match[1]}.{_LAYER_TENSORS[match[2]]}.{match[3]}"
    if match[2] == "attn_q":
        return name, lambda array: _halves_from_pairs(array, config["num_attention_heads"])
    if match[2] == "attn_k":
        return name, lambda array: _halves_from_pairs(array, config["num_key_value_heads"])
    return name, lambda array: array


def _halves_from_pairs(array: Array, heads: int) -> Array:
    """llama.cpp rotates neighbouring rows of a head, transformers a row of its first half with one of its second."""
    rest = array.shape[1:]
    return array.reshape(heads, array.shape[0] // heads // 2, 2, *rest).swapaxes(1, 2).reshape(array.shape)


def _special_ids(metadata: Metadata) -> dict[str, int]:
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    return {
        name: metadata[key]
        for name, gguf_name in keys.items()
        if (key := f"tokenizer.ggml.{gguf_name}_token_id") in metadata
    }


def _added(id_: int, content: str, special: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id_, "content": content, **plain, "special": special}


def _write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", "utf-8")


def main() -> int:
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python -m headrace_worker.models.convert_gguf GGUF OUTDIR\n")
        return 2
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except ConversionError as error:
        sys.stderr.write(f"convert_gguf: error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
