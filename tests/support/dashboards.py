"""The dashboards' generator and what its queries name."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from headrace_api.metrics import Metrics
from headrace_worker.service.metrics import WorkerMetrics

FOLDER = Path(__file__).parents[2] / "observability"
_NAME = re.compile(r"\b(?:vllm|headrace|http|process|python|model|instance|all)[_:][a-zA-Z0-9_:]+")
_OF_THE_LIBRARY = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def generator() -> ModuleType:
    """observability/dashboards/generate.py"""
    spec = importlib.util.spec_from_file_location("dashboards_generate", FOLDER / "dashboards" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def exported() -> set[str]:
    """Every sample that API nodes and workers declare."""
    declared = (series for kind in (Metrics, WorkerMetrics) for series in kind.declared())
    return {name for series in declared for name in series.sample_names} | _OF_THE_LIBRARY


def named_in(expression: str) -> set[str]:
    """The series that an expression asks for; label names are no series."""
    without_labels = re.sub(r"\{[^}]*\}|\b(by|on|without|ignoring)\s*\([^)]*\)", "", expression)
    return set(_NAME.findall(without_labels))
