"""Options that say where a model's files are, and what they are to say instead."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_cache import MODEL, cached, offline
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from headrace_worker.execute.build import build_runner
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.load import LoadedModel
from headrace_worker.models.tokenizer import load_files
from headrace_worker.settings import WorkerSettings


def settings(model: object, **options: object) -> WorkerSettings:
    return WorkerSettings(model=str(model), device="cpu", threads=1, kv_cache_memory="4MiB", **options)


def loaded(model: object, **options: object) -> LoadedModel:
    """As a worker with these settings would load it."""
    return build_runner(settings(model, **options)).model


def weights(model: LoadedModel) -> dict[str, torch.Tensor]:
    return dict(model.model.state_dict())


def same(one: LoadedModel, other: LoadedModel) -> bool:
    return all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


@pytest.fixture
def llama(tiny, tmp_path) -> Path:
    return shutil.copytree(tiny("llama"), tmp_path / "llama")


def with_tokenizer(folder: Path, *words: str) -> Path:
    vocabulary = {word: number for number, word in enumerate(["<unk>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


def words(options: WorkerSettings) -> set[str]:
    vocabulary: dict[str, int] = json.loads(load_files(options).tokenizer_json)["model"]["vocab"]
    return set(vocabulary) - {"<unk>"}


@pytest.mark.parametrize(
    ("name", "dtype"), [("half", torch.float16), ("float", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_precisions_go_by_either_of_their_names(llama, name, dtype):
    assert loaded(llama, dtype=name).dtype == dtype


@pytest.mark.parametrize(
    ("asked", "tokens"), [("64", 64), (64, 64), ("0.064k", 64), ("0.0625K", 64), ("auto", 256), ("-1", 256)]
)
def test_a_context_length_may_be_written_for_people(llama, asked, tokens):
    assert loaded(llama, max_model_len=asked).max_model_len == tokens


@pytest.mark.parametrize("asked", ["64kb", "", "-2", "1.5", "0"])
def test_a_context_length_that_is_none_is_refused(asked):
    with pytest.raises(ValueError, match="max_model_len"):
        settings("x", max_model_len=asked)


def test_a_device_that_there_is_none_of_is_refused_by_name(llama):
    with pytest.raises(ModelLoadError, match="device meta was asked for; there are cpu and cuda"):
        build_runner(settings(llama).model_copy(update={"device": "meta"}))


def test_the_configuration_is_overridden_before_the_model_is_made(llama):
    changed = loaded(llama, hf_overrides={"max_position_embeddings": 128, "rms_norm_eps": 0.25})
    assert changed.max_model_len == 128
    assert changed.model.model.norm.variance_epsilon == 0.25
    assert changed.model.config.num_hidden_layers == 3


def test_overrides_reach_the_part_that_they_name(tmp_path, tiny):
    folder = shutil.copytree(tiny("gemma3"), tmp_path / "model")
    assert loaded(folder, hf_overrides={"sliding_window": 7}).layers[0].sliding_window == 7


@pytest.mark.parametrize(
    "options",
    [
        {"rope_theta": 500.0},
        {"hf_overrides": {"rope_theta": 500.0}},
        {"hf_overrides": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}},
    ],
)
def test_the_rotary_base_can_be_set(llama, options):
    rope = loaded(llama, **options).config.rope_parameters
    assert (rope["rope_type"], rope["rope_theta"]) == ("default", 500.0)


@pytest.mark.parametrize("kind", ["type", "rope_type"])
def test_the_rotary_scaling_can_be_set_and_keeps_the_base(llama, kind):
    rope = loaded(llama, rope_scaling={kind: "linear", "factor": 4.0}).config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("linear", 4.0, 10_000.0)


def test_another_rotary_base_turns_the_model_by_other_angles(llama):
    own, other = (loaded(llama, **options).model.model.rotary_emb.inv_freq for options in ({}, {"rope_theta": 100.0}))
    assert torch.equal(own, AutoModelForCausalLM.from_pretrained(llama).model.rotary_emb.inv_freq)
    assert not torch.equal(own, other)


def test_the_configuration_may_be_somewhere_else(llama, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = json.loads((llama / "config.json").read_text())
    (elsewhere / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 99}))
    assert loaded(llama, hf_config_path=str(elsewhere)).max_model_len == 99


def test_a_configuration_that_does_not_fit_the_weights_is_one_line(llama):
    with pytest.raises(ModelLoadError, match="cannot load"):
        build_runner(settings(llama, hf_overrides={"hidden_size": 32}))


def test_made_up_weights_need_no_files_and_are_always_the_same(llama):
    for file in llama.glob("*.safetensors"):
        file.unlink()
    one, other = loaded(llama, load_format="dummy"), loaded(llama, load_format="dummy")
    assert same(one, other)
    assert float(weights(one)["model.embed_tokens.weight"].std()) > 0


def test_the_format_of_the_weights_can_be_chosen(llama):
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.norm.weight.zero_()
    torch.save(model.state_dict(), llama / "pytorch_model.bin")
    assert float(weights(loaded(llama, load_format="pt"))["model.norm.weight"].abs().sum()) == 0
    assert float(weights(loaded(llama, load_format="safetensors"))["model.norm.weight"].abs().sum()) > 0


def test_weights_that_are_not_there_in_that_format_are_refused(llama):
    with pytest.raises(ModelLoadError, match="load_format is gguf, and it is not a GGUF file"):
        build_runner(settings(llama, load_format="gguf"))
    with pytest.raises(ModelLoadError, match="cannot load"):
        build_runner(settings(llama, load_format="pt"))


@pytest.mark.parametrize("wanted", [True, False])
def test_the_progress_bar_is_shown_unless_told_otherwise(llama, capfd, wanted):
    transformers_logging.enable_progress_bar()
    try:
        loaded(llama, use_tqdm_on_load=wanted)
    finally:
        transformers_logging.disable_progress_bar()
    assert ("%|" in capfd.readouterr().err) is wanted


def test_the_tokenizer_may_be_another_models(llama, tmp_path):
    other = with_tokenizer(tmp_path / "other", "red", "blue")
    with_tokenizer(llama, "green")
    assert words(settings(llama)) == {"green"}
    assert words(settings(llama, tokenizer=str(other))) == {"red", "blue"}


def test_a_revision_names_the_files_that_are_loaded(llama, tiny, tmp_path, monkeypatch):
    offline(monkeypatch)
    second = shutil.copytree(tiny("qwen2"), tmp_path / "second")
    with_tokenizer(llama, "green")
    with_tokenizer(second, "red")
    cache = str(cached(tmp_path / "cache", {"one": llama, "two": second}))
    assert loaded(MODEL, download_dir=cache).architecture == "LlamaForCausalLM"
    assert loaded(MODEL, download_dir=cache, revision="two").architecture == "Qwen2ForCausalLM"
    assert words(settings(MODEL, download_dir=cache)) == {"green"}
    assert words(settings(MODEL, download_dir=cache, revision="two")) == {"red"}
    assert words(settings(MODEL, download_dir=cache, revision="two", tokenizer_revision="one")) == {"green"}


def test_without_the_folder_of_downloads_the_model_is_not_found(llama, tmp_path, monkeypatch):
    offline(monkeypatch)
    cached(tmp_path / "cache", {"one": llama})
    with pytest.raises(ModelLoadError, match=MODEL):
        build_runner(settings(MODEL))


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own_llama"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
    code = "{name}"
"""


def test_code_of_a_model_is_run_only_when_it_is_trusted_and_from_the_revision_asked_for(llama, tmp_path, monkeypatch):
    offline(monkeypatch)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = json.loads((llama / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (llama / "config.json").write_text(json.dumps({**config, "model_type": "own_llama", "auto_map": auto_map}))
    revisions = {}
    for name in ("one", "two"):
        revisions[name] = shutil.copytree(llama, tmp_path / name)
        (revisions[name] / "own.py").write_text(CODE.format(name=name))
    cache = str(cached(tmp_path / "cache", revisions))
    with pytest.raises(ModelLoadError, match="--trust-remote-code"):
        build_runner(settings(MODEL, download_dir=cache))
    trusted = {"download_dir": cache, "trust_remote_code": True}
    assert loaded(MODEL, **trusted).model.code == "one"
    assert loaded(MODEL, **trusted, code_revision="two").model.code == "two"


def defaults(options: WorkerSettings) -> dict[str, object]:
    values = load_files(options).defaults
    return {name: getattr(values, name) for name in values.__struct_fields__ if getattr(values, name) is not None}


@pytest.mark.parametrize(("where", "expected"), [("auto", {"top_k": 7}), ("none", {}), ("vllm", {})])
def test_sampling_defaults_come_from_the_model_or_are_fixed(llama, where, expected):
    with_tokenizer(llama, "green")
    (llama / "generation_config.json").write_text(json.dumps({"top_k": 7}))
    assert defaults(settings(llama, generation_config=where)) == expected


def test_sampling_defaults_stay_the_models_when_the_tokenizer_is_anothers(llama, tmp_path):
    (llama / "generation_config.json").write_text(json.dumps({"top_k": 7}))
    other = with_tokenizer(tmp_path / "other", "red")
    assert defaults(settings(llama, tokenizer=str(other))) == {"top_k": 7}


def test_sampling_defaults_may_come_from_another_directory(llama, tmp_path):
    with_tokenizer(llama, "green")
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.25}))
    assert defaults(settings(llama, generation_config=str(tmp_path))) == {"temperature": 0.25}
    with pytest.raises(ModelLoadError, match=r"no generation_config\.json in"):
        load_files(settings(llama, generation_config=str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 2}, {"max_new_tokens": 0}, {"temprature": 1}, {"eos_token_id": 2}]
)
def test_sampling_defaults_that_no_request_could_have_are_refused(wrong):
    with pytest.raises(ValueError, match=f"override_generation_config.{next(iter(wrong))}"):
        settings("x", override_generation_config=wrong)


def with_templates(folder: Path, **templates: str) -> Path:
    """A tokenizer with several chat templates."""
    with_tokenizer(folder, "a")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(folder)
    return folder


def templates(folder: Path, **options: object) -> tuple[str | None, str | None]:
    files = load_files(settings(folder, **options))
    return files.chat_template, files.tool_template


def test_a_model_may_have_a_template_of_its_own_for_tools(tmp_path: Path) -> None:
    folder = with_templates(tmp_path, default="plain", tool_use="tools", rag="documents")
    assert templates(folder) == ("plain", "tools")
    assert templates(folder, chat_template="rag") == ("documents", None)
    assert templates(folder, chat_template="{{ mine }}") == ("{{ mine }}", None)
    with pytest.raises(ModelLoadError, match=r"nothing.*the model's own are default, .*tool_use"):
        templates(folder, chat_template="nothing")


def test_a_model_with_one_template_uses_it_for_tools_as_well(tmp_path: Path) -> None:
    with_tokenizer(tmp_path, "a")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    tokenizer.chat_template = "only"
    tokenizer.save_pretrained(tmp_path)
    assert templates(tmp_path) == ("only", None)
