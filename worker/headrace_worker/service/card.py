"""What a worker says of its model to the API nodes."""

from pathlib import PurePath

from headrace_shared.model_card import ModelCard
from headrace_shared.queue.blobs import BlobStore
from headrace_worker.engine.build import EngineSetup
from headrace_worker.execute.grammar.installed import announced
from headrace_worker.service.answer_form import AnswerForm
from headrace_worker.settings import WorkerSettings


async def publish_card(settings: WorkerSettings, setup: EngineSetup, form: AnswerForm, blobs: BlobStore) -> ModelCard:
    """Store the tokenizer and the templates, and return the card that names them."""
    files = setup.files
    name, *aliases = settings.served_model_name or [default_name(settings.model)]
    return ModelCard(
        name=name,
        aliases=tuple(aliases),
        root=default_name(settings.model),
        architecture=setup.architecture,
        dtype=setup.dtype,
        max_model_len=setup.limits.context_tokens,
        vocab_size=setup.vocab_size,
        eos_token_ids=tuple(sorted(setup.eos_token_ids)),
        tokenizer=await blobs.put(files.tokenizer_json),
        bos_token=files.bos_token,
        eos_token=files.eos_token,
        special_tokens=files.special_tokens,
        add_bos_token=files.add_bos_token,
        chat_template=await blobs.put(files.chat_template.encode()) if files.chat_template else None,
        tool_template=await blobs.put(files.tool_template.encode()) if files.tool_template else None,
        chat_template_kwargs=settings.default_chat_template_kwargs,
        reasoning_efforts=settings.reasoning_effort_map,
        content_format=settings.chat_template_content_format,
        response_role=settings.response_role,
        defaults=files.defaults,
        max_logprobs=setup.vocab_size if settings.max_logprobs == -1 else settings.max_logprobs,
        logprobs_mode=settings.logprobs_mode,
        logits_processor_pattern=settings.logits_processor_pattern if setup.processors else None,
        trust_request_chat_template=settings.trust_request_chat_template,
        tool_parser=form.tool_parser,
        auto_tool_choice=form.auto_tool_choice,
        keeps_unused_tools=not settings.exclude_tools_when_tool_choice_none,
        reasoning_parser=form.reasoning_parser,
        grammar_backends=announced(settings.grammar_backend) if setup.grammars else (),
    )


def default_name(model: str) -> str:
    """A Hugging Face id as it is; of a local path the last part, without ``.gguf``."""
    path = PurePath(model)
    if path.suffix == ".gguf":
        return path.stem
    return path.name if path.is_absolute() or model.startswith((".", "~")) else model
