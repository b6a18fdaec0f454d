"""load_files: a model's tokenizer, chat template and sampling defaults, through transformers."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GenerationConfig

from headrace_shared.model_card import GenerationDefaults
from headrace_worker.models.errors import ModelLoadError
from headrace_worker.models.files import ModelFiles
from headrace_worker.models.load import locate
from headrace_worker.settings import WorkerSettings

_SPECIAL = ("pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


def load_files(settings: WorkerSettings) -> ModelFiles:
    """Read them from the model, or from where the settings point instead.

    Raises ModelLoadError when the tokenizer has no fast form, or a named file is missing.
    """
    source = locate(
        settings.tokenizer or settings.model, settings.tokenizer_revision or settings.revision, settings.download_dir
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.path,
            trust_remote_code=settings.trust_remote_code,
            **({"code_revision": settings.code_revision} if settings.code_revision else {}),
            **source.kwargs,
        )
        tokenizer_json = tokenizer.backend_tokenizer.to_str().encode()
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise ModelLoadError(f"no usable tokenizer in {source.path}: {error}") from error
    template, tool_template = _chat_templates(settings.chat_template, tokenizer.chat_template)
    special = {name: getattr(tokenizer, name, None) for name in ("bos_token", "eos_token", *_SPECIAL)}
    return ModelFiles(
        tokenizer_json=tokenizer_json,
        chat_template=template,
        tool_template=tool_template,
        bos_token=_text(special.pop("bos_token")),
        eos_token=_text(special.pop("eos_token")),
        special_tokens={name: str(token) for name, token in special.items() if token},
        # add_bos_token stays None: the post-processor just serialised already does what the configuration says,
        # and transformers' attribute is False for a model whose BOS comes from its own post-processor (Llama 3).
        defaults=_defaults(settings),
    )


def _text(token: object) -> str | None:
    return str(token) if token else None


def _chat_templates(asked: str | None, own: str | dict[str, str] | None) -> tuple[str | None, str | None]:
    """The one for all conversations, and one for those with tools.

    Asked for by name, as a file or as its text it is the only one; else the model's own: its ``default`` and
    ``tool_use`` where it has several.
    """
    named = own if isinstance(own, dict) else {}
    if asked is None:
        return (named.get("default"), named.get("tool_use")) if isinstance(own, dict) else (own, None)
    if asked in named:
        return named[asked], None
    if any(mark in asked for mark in "{}\n"):
        return asked, None
    try:
        return Path(asked).read_text(encoding="utf-8"), None
    except OSError as error:
        names = f"; the model's own are {', '.join(named)}" if named else ""
        raise ModelLoadError(f"chat template {asked}: {error.strerror}{names}") from error


def _defaults(settings: WorkerSettings) -> GenerationDefaults:
    """What the file sets differently from transformers' own defaults."""
    where = settings.generation_config
    if where == "none":
        return GenerationDefaults()
    place = locate(settings.model, settings.revision, settings.download_dir)
    kwargs = {name: value for name, value in place.kwargs.items() if name != "gguf_file"}
    try:
        config = GenerationConfig.from_pretrained(place.path if where == "auto" else where, **kwargs)
    except (OSError, json.JSONDecodeError):
        if where != "auto":
            raise ModelLoadError(f"no generation_config.json in {where}") from None
        return GenerationDefaults()
    values: dict[str, Any] = config.to_diff_dict()
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return GenerationDefaults(**{name: values.get(name) for name in names}, max_tokens=values.get("max_new_tokens"))
