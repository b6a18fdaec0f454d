"""Which of a worker's settings an LLM has: all but those of the queue, the log and the answers' form over HTTP."""

import difflib
from collections.abc import Mapping
from typing import Any

from headrace_worker.settings import WorkerSettings

OF_THE_SERVICE = frozenset(
    {
        "served_model_name",
        "chat_template_content_format",
        "tool_call_parser",
        "tool_parser_plugin",
        "enable_auto_tool_choice",
        "exclude_tools_when_tool_choice_none",
        "reasoning_parser",
        "enable_reasoning",
        "reasoning_effort_map",
        "trust_request_chat_template",
        "response_role",
        "guided_decoding_backend",
        "structured_outputs_config",
        "interactive_itl_slack",
        "logits_processor_pattern",
        "cpu_affinity",
        "lease_ms",
        "drain",
        "drain_timeout_s",
        "orphan_grace_s",
        "metrics_host",
        "metrics_port",
        "log_stats",
        "collect_detailed_traces",
        "log_level",
        "log_format",
    }
)
"""What a program that holds the engine has no use for."""


def engine_settings(model: str, options: Mapping[str, Any]) -> WorkerSettings:
    """Raises TypeError for an option that is not known or means nothing here, ValidationError for a value."""
    known = WorkerSettings.model_fields.keys() - OF_THE_SERVICE - {"model"}
    for name in options:
        if name in OF_THE_SERVICE:
            raise TypeError(f"{name}: is for a worker on a queue, an LLM has no use for it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"{name}: is not an option{f'; did you mean {near[0]}?' if near else ''}")
    return WorkerSettings(model=model, **options)
