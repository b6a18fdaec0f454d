"""The log line that an operator can ask for: what each request is about."""

import logging

from headrace_api.directory import ServedModel
from headrace_api.operations.endpoint import Prepared
from headrace_api.settings import ApiSettings
from headrace_shared.protocol.codec import unpack_ids

log = logging.getLogger(__name__)


def log_prompts(prepared: Prepared, model: ServedModel, settings: ApiSettings) -> None:
    """One line per prompt, with its text as the model reads it, cut to ``max_log_len`` characters."""
    longest = settings.max_log_len
    for job in prepared.jobs:
        token_ids = unpack_ids(job.prompt)
        # A token may stand for no character at all, but the cut is about length, not about exactness.
        text = model.tokenizer.decode(token_ids[:longest], skip_special_tokens=False)[:longest]
        log.info(
            "request accepted",
            extra={
                "model": model.card.name,
                "endpoint": prepared.ask.endpoint,
                "job": job.header.request_id,
                "choices": job.n,
                "prompt_tokens": len(token_ids),
                "max_tokens": job.stopping.max_tokens,
                "temperature": job.sampling.temperature,
                "prompt": text,
            },
        )
