"""What can be loaded, and the one line that is said about what cannot."""

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    Phi3Config,
    Qwen3NextConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from headrace_worker.execute.attention.cache_kind import CacheKind
from headrace_worker.execute.kv_cache import CacheSize, block_bytes, count_blocks
from headrace_worker.models.context_length import context_length
from headrace_worker.models.errors import ModelLoadError, ModelNotSupportedError
from headrace_worker.models.layers import AttentionLayer
from headrace_worker.models.load import ModelSource, load_model


def refusal(source: ModelSource, kind: type[ModelLoadError] = ModelLoadError) -> str:
    with pytest.raises(kind) as caught:
        load_model(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_loaded_model_says_what_the_engine_needs(tiny):
    loaded = load_model(ModelSource(str(tiny("gemma2")), device="cpu"))
    assert loaded.architecture == "Gemma2ForCausalLM"
    assert (loaded.num_layers, loaded.vocab_size, loaded.max_model_len) == (3, 211, 256)
    assert (loaded.dtype, loaded.device.type) == (torch.float32, "cpu")
    assert [layer.sliding_window for layer in loaded.layers] == [12, None, 12]
    assert loaded.layers[0] == AttentionLayer(4, 2, 32, 32, 24**-0.5, sliding_window=12, softcap=5.0)


def test_the_ends_of_a_text_come_from_generation_config_before_the_configuration(tiny, tmp_path):
    folder = shutil.copytree(tiny("llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert load_model(ModelSource(str(folder), device="cpu")).eos_token_ids == {7, 9}
    (folder / "generation_config.json").unlink()
    assert load_model(ModelSource(str(folder), device="cpu")).eos_token_ids == {5}


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "no/where/at/all"])
def test_a_missing_path_is_named(name):
    assert refusal(ModelSource(name)) == f"cannot load {name}: no such file or directory"


def test_broken_folders_and_files_get_one_line_each(tiny, tmp_path):
    assert "no config.json" in refusal(ModelSource(str(tmp_path)))
    folder = shutil.copytree(tiny("llama"), tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not tensors")
    assert refusal(ModelSource(str(folder), device="cpu")).startswith(f"cannot load {folder}: ")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(ModelSource(str(folder), device="cpu"))
    torch_weights = load_file(tiny("llama") / "model.safetensors")
    del torch_weights["model.norm.weight"]
    save_file(torch_weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.norm.weight" in refusal(ModelSource(str(folder), device="cpu"))
    (folder / "config.json").write_text("{")
    assert refusal(ModelSource(str(folder))).startswith(f"cannot load {folder}: ")
    (folder / "config.json").write_text('{"model_type": "unheard_of"}')
    assert "unheard_of" in refusal(ModelSource(str(folder)))
    (tmp_path / "weights.bin").write_bytes(b"")
    assert "not a .gguf file" in refusal(ModelSource(str(tmp_path / "weights.bin")))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    assert refusal(ModelSource(str(tmp_path / "broken.gguf"))).startswith(f"cannot load {tmp_path / 'broken.gguf'}: ")


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_named(device, tiny):
    assert "cuda" in refusal(ModelSource(str(tiny("llama")), device=device))


SMALL = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(**{**SMALL, "state_size": 4}), "layers"),
        (BloomConfig(**SMALL), "attention interface"),
        (FalconConfig(**SMALL, alibi=True), "attention interface"),
        (
            Qwen3NextConfig(
                **SMALL,
                num_key_value_heads=1,
                head_dim=16,
                intermediate_size=32,
                moe_intermediate_size=16,
                shared_expert_intermediate_size=16,
                num_experts=2,
                num_experts_per_tok=1,
                layer_types=["linear_attention", "full_attention"],
                linear_num_value_heads=2,
                linear_num_key_heads=2,
                linear_key_head_dim=8,
                linear_value_head_dim=8,
            ),
            "linear_attention",
        ),
    ],
)
def test_architectures_that_keep_other_state_are_refused(config, reason, tmp_path):
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    message = refusal(ModelSource(str(tmp_path), device="cpu"), ModelNotSupportedError)
    assert message.startswith(f"{tmp_path} is not supported: ")
    assert reason in message


def test_an_encoder_decoder_is_refused(tmp_path):
    config = T5Config(vocab_size=99, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "encoder-decoder" in refusal(ModelSource(str(tmp_path), device="cpu"), ModelNotSupportedError)


def test_the_context_is_the_models_own_or_less():
    llama = LlamaConfig(max_position_embeddings=4096)
    assert context_length(llama, None) == 4096
    assert context_length(llama, 512) == 512
    assert context_length(GPT2Config(n_positions=1024), None) == 1024
    with pytest.raises(ValueError, match=r"5000 .* 4096"):
        context_length(llama, 5000)


def test_length_dependent_rotary_embeddings_are_served_up_to_their_original_length():
    factors = [1.0] * 16
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": factors}
    config = Phi3Config(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=131_072,
        original_max_position_embeddings=4096,
        rope_parameters={**rope, "original_max_position_embeddings": 4096},
    )
    assert context_length(config, None) == 4096


def test_the_cache_takes_the_memory_it_is_given_and_no_more():
    layers = [AttentionLayer(4, 2, 32, 32, 0.1), AttentionLayer(4, 1, 32, 16, 0.1)]
    kind = CacheKind(torch.float32, torch.device("cpu"))
    one = block_bytes(layers, 16, kind)
    assert one == 16 * 4 * (2 * 64 + 48)
    assert count_blocks(layers, CacheSize(memory_bytes=10 * one + 1), kind) == 10
    assert count_blocks(layers, CacheSize(most_tokens=33), kind) == 3
    assert count_blocks(layers, CacheSize(memory_bytes=one, blocks=7), kind) == 7
    with pytest.raises(ModelLoadError, match=f"one block needs {one}"):
        count_blocks(layers, CacheSize(memory_bytes=one - 1), kind)


@pytest.mark.parametrize(
    ("name", "path", "left"),
    [
        ("llama", "modules", [(211, 64)]),
        ("llama", "lean", [(211, 64)]),
        # One weight for embedding and head: packed, and looked up there.
        ("llama_tied", "modules", []),
        ("llama_tied", "lean", []),
        ("llama_tied", "onednn", [(211, 64)]),
    ],
)
def test_weights_are_in_memory_once_after_packing(name, path, left, tiny):
    from tiny_engine import PATHS

    from headrace_worker.execute.build import assemble

    loaded = load_model(ModelSource(str(tiny(name)), device="cpu"))
    dense = [weakref.ref(module.weight) for module in loaded.model.modules() if type(module) is torch.nn.Linear]
    built = assemble(loaded, CacheSize(memory_bytes=1 << 20), PATHS[path])
    gc.collect()
    kept = [weight for ref in dense if (weight := ref()) is not None]
    assert all(weight is built.model.model.get_input_embeddings().weight for weight in kept)
    assert [tuple(p.shape) for p in built.model.model.parameters() if p.ndim == 2] == left


def test_a_token_that_the_model_does_not_have_is_an_error_and_not_a_crash(tiny):
    from tiny_engine import PATHS, build, run

    built = build(tiny("llama_tied"), PATHS["lean"])
    with pytest.raises(IndexError, match="vocabulary"):
        run(built, [[5, 211]], 2)


def write_gguf(path, config):
    """A random llama, with the tensor names and fields that llama.cpp's converter writes."""
    random, writer = np.random.default_rng(0), GGUFWriter(str(path), "llama")
    writer.add_context_length(config["context"])
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(211)
    writer.add_eos_token_id(5)
    shapes = {"token_embd": (211, 64), "output": (211, 64), "output_norm": (64,)}
    layer = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64), "attn_norm": (64,)}
    layer |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96), "ffn_norm": (64,)}
    for index in range(2):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
    for name, shape in shapes.items():
        values = random.normal(0, 0.2, shape).astype(np.float32)
        quantized = len(shape) == 2 and name != "token_embd"
        kind = GGMLQuantizationType.Q8_0 if quantized else GGMLQuantizationType.F32
        writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_gives_the_tokens_that_transformers_gives_for_it(tmp_path):
    from tiny_engine import PATHS, build, prompts, run

    write_gguf(tmp_path / "tiny.gguf", {"context": 256})
    built = build(tmp_path / "tiny.gguf", PATHS["lean"])
    assert built.model.max_model_len == 256
    assert built.model.eos_token_ids == {5}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", attn_implementation="eager")
    asked = prompts(5, 30)
    for prompt, tokens in zip(asked, run(built, asked, 8).tokens, strict=True):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
        assert tokens == out[0, len(prompt) :].tolist()
