"""The worker: an engine, and the service that connects it to the queue. ``LLM`` is the engine without the queue."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace_worker.offline.llm import LLM
    from headrace_worker.offline.outputs import CompletionOutput, Logprob, RequestOutput
    from headrace_worker.offline.params import SamplingParams

__all__ = ["LLM", "CompletionOutput", "Logprob", "RequestOutput", "SamplingParams"]

_WHERE = {
    "LLM": "llm",
    "CompletionOutput": "outputs",
    "Logprob": "outputs",
    "RequestOutput": "outputs",
    "SamplingParams": "params",
}


def __getattr__(name: str) -> Any:
    # Only when they are asked for: a worker process has no use for them.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"headrace_worker.offline.{_WHERE[name]}"), name)
