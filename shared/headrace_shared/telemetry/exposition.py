"""Exposition: a process's metrics as the text that Prometheus reads.

Several processes that share a port share a folder of counts as well (``PROMETHEUS_MULTIPROC_DIR``, prometheus-client's
own variable): whichever of them is asked tells the sum of all. What all of them would tell alike, the ``Observed``
series, is told by the one that is asked.
"""

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from headrace_shared.settings import MetricsSettings
from headrace_shared.telemetry.series import Instruments, Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENGINE_PREFIX = "vllm:"


class Source(Protocol):
    """Families that are read when they are asked for."""

    def collect(self) -> Iterable[Metric]: ...


class Exposition:
    """What one process shows at ``/metrics``. ``before`` is called first each time, on the asking thread."""

    def __init__(
        self,
        registry: CollectorRegistry,
        instruments: Iterable[type[Instruments]],
        sources: Iterable[Source] = (),
        *,
        engine_series: bool = True,
        before: Callable[[], None] | None = None,
    ) -> None:
        """``engine_series`` False leaves out vLLM's series."""
        self._folder = folder = MetricsSettings().multiproc_dir
        self._second_names = _second_names(series for kind in instruments for series in kind.declared())
        self._engine_series = engine_series
        self._before = before
        self._own = self._registry = registry
        if folder is not None:
            self._registry = CollectorRegistry(support_collectors_without_names=True)
            MultiProcessCollector(self._registry, str(folder))  # type: ignore[no-untyped-call]
        else:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=registry)
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        """Every family, of all processes that share the folder; those with a second name twice."""
        if self._folder is not None:
            _forget_the_dead(self._folder)
        return self._shown(self._registry)

    def collect_own(self) -> Iterator[Metric]:
        """The same of this process alone, for whom each process tells its own."""
        return self._shown(self._own)

    def _shown(self, registry: CollectorRegistry) -> Iterator[Metric]:
        if self._before is not None:
            self._before()
        for source in (registry, *self._sources):
            for family in source.collect():
                also = self._second_names.get(family.name)
                for shown in (family, _renamed(family, also)) if also is not None else (family,):
                    if self._engine_series or not shown.name.startswith(ENGINE_PREFIX):
                        yield shown

    def text(self) -> bytes:
        return generate_latest(self)


def _forget_the_dead(folder: Path) -> None:
    """What a process had open is closed with it; what it counted stays counted."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = path.stem.rpartition("_")[2]
        if not pid.isdecimal():
            continue  # it has a name; whoever keeps it running cleans up behind it
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:
            pass  # it lives, as somebody else's


def _second_names(declared: Iterable[Series[object]]) -> dict[str, str]:
    return {series.name: series.also for series in declared if series.also is not None}


def _renamed(family: Metric, name: str) -> Metric:
    other = copy.copy(family)
    other.name = name
    start = len(family.name)
    other.samples = [sample._replace(name=name + sample.name[start:]) for sample in family.samples]
    return other
