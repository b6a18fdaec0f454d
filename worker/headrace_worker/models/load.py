"""Loading a model: a local directory, a Hugging Face id or a GGUF file becomes a LoadedModel."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from headrace_worker.models import attention_hook, offload
from headrace_worker.models.context_length import context_length
from headrace_worker.models.errors import ModelLoadError, ModelNotSupportedError
from headrace_worker.models.layers import AttentionLayer
from headrace_worker.models.overrides import overridden
from headrace_worker.models.probe import AttentionProbe, probe
from headrace_worker.models.tensor_parallel import check_split, split_over

log = logging.getLogger(__name__)

_DTYPES = {
    "float32": torch.float32,
    "float": torch.float32,
    "float16": torch.float16,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
}
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "attention"})
"""Kinds of layers whose whole memory of the past is the K/V cache, as transformers names them."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is and how it is to be loaded."""

    model: str
    """Local directory, GGUF file or Hugging Face id."""
    dtype: str = "auto"
    """``auto``, or a key of ``_DTYPES``; auto is float32 on a CPU, the checkpoint's own elsewhere."""
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    max_model_len: int | None = None
    """None: as long as the model was made for."""
    code_revision: str | None = None
    """Of the Python code that a Hugging Face id brings along."""
    download_dir: str | None = None
    """None: the Hugging Face cache."""
    config: str | None = None
    """Where its configuration is, when that is not with the weights."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What its configuration is to say instead."""
    load_format: str = "auto"
    """``auto``, ``safetensors``, ``pt``, ``gguf``, or ``dummy`` for weights that are made up and always the same."""
    progress_bar: bool = True
    tensor_parallel_size: int = 1
    """Above 1, this process loads its part of the model: it is one of so many in torch's process group."""
    quantization: str = "none"
    """``none``, ``int8`` or ``int4``: what the engine is to make of the weights."""
    cpu_offload_bytes: int = 0
    """Of the weights, that stay in the host's memory when the device is a GPU."""


@dataclass(slots=True)
class LoadedModel:
    """A model in memory, and everything the engine wants to know of it."""

    model: PreTrainedModel
    config: PretrainedConfig
    """The text model's own configuration, when the model has several."""
    layers: list[AttentionLayer]
    """In the order in which they are computed."""
    layer_index: dict[torch.nn.Module, int]
    """Attention module -> its place in ``layers``; empty once the modules have been replaced."""
    dtype: torch.dtype
    device: torch.device
    vocab_size: int
    max_model_len: int
    eos_token_ids: frozenset[int]
    generation_config: GenerationConfig
    quantization: str = "none"
    """As asked for; ``model`` has the weights as they were loaded."""

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    @property
    def is_quantized(self) -> bool:
        """Whether its weights are in a form of their own; those of GGUF files are plain once they are loaded."""
        method = getattr(self.model.config, "quantization_config", None)
        return method is not None and method.quant_method != "gguf"

    @property
    def num_layers(self) -> int:
        return len(self.layers)


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where transformers finds a model's files."""

    path: str
    """A directory or a Hugging Face id."""
    kwargs: dict[str, str]
    """What else ``from_pretrained`` has to be told."""


def locate(model: str, revision: str | None = None, download_dir: str | None = None) -> ModelPlace:
    """Find a local directory, GGUF file or Hugging Face id. Raises ModelLoadError when it can be none of them."""
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelLoadError(f"cannot load {model}: it is a file, and not a .gguf file")
        return ModelPlace(str(path.parent), {"gguf_file": path.name})
    if path.is_dir():
        return ModelPlace(str(path), {})
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise ModelLoadError(f"cannot load {model}: no such file or directory")
    given = {"revision": revision, "cache_dir": download_dir}
    return ModelPlace(model, {name: value for name, value in given.items() if value})


def load_model(source: ModelSource) -> LoadedModel:
    """Load, check and probe a model.

    Raises ModelLoadError (files, settings) or ModelNotSupportedError (architecture), each with one
    line that names the model.
    """
    with _told_of(source):
        return _load(source)


def check_model(source: ModelSource) -> None:
    """Raise for a model what ``load_model`` would raise before it reads the weights."""
    with _told_of(source):
        _checked_config(locate(source.model, source.revision, source.download_dir), source)


@contextmanager
def _told_of(source: ModelSource) -> Iterator[None]:
    """Whatever goes wrong in the block is told in one line that names the model."""
    try:
        yield
    except ModelNotSupportedError as error:
        raise ModelNotSupportedError(f"{source.model} is not supported: {error}") from error
    except ModelLoadError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise ModelLoadError(
                f"cannot load {source.model}: it brings Python code along, which runs only with --trust-remote-code"
            ) from error
        # Parsers of broken files raise anything; the operator reads what they said.
        raise ModelLoadError(f"cannot load {source.model}: {_first_line(error)}") from error


def _load(source: ModelSource) -> LoadedModel:
    place = locate(source.model, source.revision, source.download_dir)
    device = _device(source.device)
    given = _checked_config(place, source)
    if source.cpu_offload_bytes:
        offload.check(given, device)
    dtype = _dtype(source.dtype, device, given)
    if source.load_format == "dummy":
        model = _made_up(given, source, dtype)
    else:
        model = _read(place, source, given, dtype, _straight_to(device, given))
    if source.cpu_offload_bytes:
        offload.move(model, device, source.cpu_offload_bytes)
    else:
        model.to(device)
    model.eval().requires_grad_(False)
    # It looks for padding, which packed tokens do not have, and takes a pad token in a prompt for some.
    model.warn_if_padding_and_no_attention_mask = lambda *_: None
    config = model.config.get_text_config(decoder=True)
    found = probe(model, device)
    _check_layers(config, found)
    loaded = LoadedModel(
        model=model,
        config=config,
        layers=found.layers,
        layer_index=found.index,
        dtype=model.dtype,
        device=device,
        vocab_size=model.get_output_embeddings().weight.shape[0],
        max_model_len=context_length(config, source.max_model_len),
        eos_token_ids=_eos_token_ids(model.generation_config, config),
        generation_config=model.generation_config,
        quantization=source.quantization,
    )
    log.info(
        "model loaded",
        extra={
            "model": source.model,
            "architecture": loaded.architecture,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(device),
            "parameters_m": round(model.num_parameters() / 1e6, 1),
            "max_model_len": loaded.max_model_len,
        },
    )
    return loaded


def _checked_config(place: ModelPlace, source: ModelSource) -> PretrainedConfig:
    config = _config(place, source)
    _check_config(config)
    if source.tensor_parallel_size > 1:
        if "gguf_file" in place.kwargs or source.load_format == "dummy":
            raise ValueError("tensor_parallel_size splits safetensors and PyTorch checkpoints only; leave it out")
        check_split(config, source.tensor_parallel_size)
    return config


def _config(place: ModelPlace, source: ModelSource) -> PretrainedConfig:
    where = place if source.config is None else locate(source.config, source.revision, source.download_dir)
    folder = Path(where.path)
    if folder.is_dir() and "gguf_file" not in where.kwargs and not (folder / "config.json").is_file():
        raise ModelLoadError(f"cannot load {folder}: the directory has no config.json")
    config = AutoConfig.from_pretrained(where.path, **_code(source), **where.kwargs)
    return overridden(config, source.overrides) if source.overrides else config


def _code(source: ModelSource) -> dict[str, Any]:
    """How code that comes with the model is treated."""
    revision = {"code_revision": source.code_revision} if source.code_revision else {}
    return {"trust_remote_code": source.trust_remote_code, **revision}


def _made_up(config: PretrainedConfig, source: ModelSource, dtype: torch.dtype) -> PreTrainedModel:
    # Every worker of the model has to make up the same one.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            config, **_code(source), dtype=dtype, attn_implementation=attention_hook.NAME
        )


def _format(place: ModelPlace, source: ModelSource) -> dict[str, bool]:
    is_gguf = "gguf_file" in place.kwargs
    if source.load_format == "auto":
        return {}
    if (source.load_format == "gguf") != is_gguf:
        raise ValueError(f"load_format is {source.load_format}, and it is {'a' if is_gguf else 'not a'} GGUF file")
    return {} if is_gguf else {"use_safetensors": source.load_format == "safetensors"}


def _straight_to(device: torch.device, config: PretrainedConfig) -> dict[str, Any]:
    """How quantized weights are loaded: what computes with them is chosen by the device that they are loaded to."""
    if device.type != "cuda" or getattr(config, "quantization_config", None) is None:
        return {}
    return {"device_map": {"": torch.cuda.current_device() if device.index is None else device.index}}


def _read(
    place: ModelPlace, source: ModelSource, config: PretrainedConfig, dtype: torch.dtype, straight_to: dict[str, Any]
) -> PreTrainedModel:
    own_config = {} if source.config is None and not source.overrides else {"config": config}
    if not source.progress_bar:
        disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            place.path,
            **place.kwargs,
            **own_config,
            **_format(place, source),
            **_code(source),
            dtype=dtype,
            attn_implementation=attention_hook.NAME,
            output_loading_info=True,
            **straight_to,
            **split_over(source.tensor_parallel_size),
        )
    except KeyError as error:
        if error.args != (attention_hook.NAME,):
            raise
        raise ModelNotSupportedError("it does not use transformers' attention interface") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"the files lack {len(missing)} of its weights, {missing[0]} among them")
    return model


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name} was asked for; there are cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, and this machine or this torch build has none")
    return device


def _dtype(name: str, device: torch.device, config: PretrainedConfig) -> torch.dtype:
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    own = config.get_text_config(decoder=True).dtype
    return own if isinstance(own, torch.dtype) else torch.float32


def _check_config(config: PretrainedConfig) -> None:
    """What can be refused before gigabytes are read."""
    if config.is_encoder_decoder:
        raise ModelNotSupportedError("it is an encoder-decoder model")
    kinds = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    other = sorted(kinds - _LAYER_TYPES)
    if other:
        raise ModelNotSupportedError(f"it has layers of the kind {', '.join(other)}")


def _check_layers(config: PretrainedConfig, found: AttentionProbe) -> None:
    expected = config.num_hidden_layers
    if len(found.layers) != expected:
        raise ModelNotSupportedError(
            f"{len(found.layers)} of its {expected} layers use transformers' attention interface; all have to"
        )
    for layer, kind in zip(found.layers, getattr(config, "layer_types", None) or (), strict=False):
        if kind == "sliding_attention" and layer.sliding_window is None:
            raise ModelNotSupportedError("its layers keep their sliding window to themselves")


def _eos_token_ids(*configs: GenerationConfig | PretrainedConfig) -> frozenset[int]:
    """The first of ``configs`` that knows how a text ends."""
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"its files name an unknown {error}"
    lines: Mapping[str, None] = dict.fromkeys(str(error).strip().splitlines())
    return next(iter(lines), type(error).__name__)
