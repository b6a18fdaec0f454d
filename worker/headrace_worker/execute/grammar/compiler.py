"""GrammarCompiler: grammars compiled in threads of their own, each once."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

from headrace_shared.protocol.grammar import GrammarBackend, GrammarKind, GrammarSpec
from headrace_worker.execute.grammar.backend import Backend, GrammarError, RawGrammar
from headrace_worker.execute.grammar.guidance_backend import GuidanceBackend
from headrace_worker.execute.grammar.installed import how_to_install, is_installed
from headrace_worker.execute.grammar.matcher import CompiledGrammar
from headrace_worker.execute.grammar.prelude import Prelude
from headrace_worker.execute.grammar.vocabulary import Vocabulary
from headrace_worker.execute.grammar.xgrammar_backend import XgrammarBackend
from headrace_worker.schedule.request import Grammar

log = logging.getLogger(__name__)

_PREFERRED = (GrammarBackend.XGRAMMAR, GrammarBackend.GUIDANCE)
_THREADS = 2
_MOST_KEPT = 64


class GrammarCompiler:
    """For one model. Safe to use from several threads."""

    def __init__(self, load_vocabulary: Callable[[], Vocabulary]) -> None:
        """``load_vocabulary`` is called once, in a thread, when the first grammar comes."""
        self._load_vocabulary = load_vocabulary
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="grammar")
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._kept: OrderedDict[bytes, Future[Grammar]] = OrderedDict()

    def compile(self, spec: GrammarSpec) -> Future[Grammar]:
        """The compiled grammar, or GrammarError; equal specs share one. Must not be cancelled."""
        digest = spec.digest
        with self._lock:
            found = self._kept.get(digest)
            if found is None:
                found = self._kept[digest] = self._executor.submit(self._compile, spec)
            self._kept.move_to_end(digest)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return found

    def close(self) -> None:
        """Let go of the threads; grammars that wait for one are dropped."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _compile(self, spec: GrammarSpec) -> Grammar:
        begin = time.monotonic()
        with self._loading:
            vocabulary = self._vocabulary
        if not vocabulary.eos_token_ids:
            raise GrammarError("the model has no end-of-text token, so a constrained answer could not end")
        raw = self._first_that_can(spec)
        log.info(
            "grammar compiled",
            extra={
                "kind": spec.kind.value,
                "by": type(raw).__name__,
                "ms": round((time.monotonic() - begin) * 1000, 1),
            },
        )
        return CompiledGrammar(raw, vocabulary, _prelude(spec))

    def _first_that_can(self, spec: GrammarSpec) -> RawGrammar:
        if spec.backend is not GrammarBackend.AUTO:
            return self._backend(spec.backend).compile(spec)
        first, second = _PREFERRED
        if spec.whitespace is not None or spec.kind is GrammarKind.LARK:
            # guidance knows the pattern, and all of the notation.
            first, second = second, first
        try:
            return self._backend(first).compile(spec)
        except GrammarError as error:
            try:
                return self._backend(second).compile(spec)
            except GrammarError:
                raise error from None

    def _backend(self, name: GrammarBackend) -> Backend:
        with self._loading:
            match name:
                case GrammarBackend.XGRAMMAR:
                    return self._xgrammar
                case GrammarBackend.OUTLINES:
                    return self._outlines
                case GrammarBackend.LM_FORMAT_ENFORCER:
                    return self._enforcer
                case GrammarBackend.GUIDANCE | GrammarBackend.AUTO:
                    return self._guidance

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return self._load_vocabulary()

    @cached_property
    def _xgrammar(self) -> XgrammarBackend:
        return XgrammarBackend(self._vocabulary)

    @cached_property
    def _guidance(self) -> GuidanceBackend:
        return GuidanceBackend(self._vocabulary)

    @cached_property
    def _outlines(self) -> Backend:
        _need(GrammarBackend.OUTLINES)
        from headrace_worker.execute.grammar.outlines_backend import OutlinesBackend

        return OutlinesBackend(self._vocabulary)

    @cached_property
    def _enforcer(self) -> Backend:
        _need(GrammarBackend.LM_FORMAT_ENFORCER)
        from headrace_worker.execute.grammar.enforcer_backend import EnforcerBackend

        return EnforcerBackend(self._vocabulary)


def _need(backend: GrammarBackend) -> None:
    if not is_installed(backend):
        raise GrammarError(f"where this model's worker runs, {how_to_install(backend)}")


def _prelude(spec: GrammarSpec) -> Prelude | None:
    if spec.after is None:
        return None
    ends = (spec.after, *spec.also_after)
    return Prelude(tuple(end.encode() for end in ends), tuple(text.encode() for text in spec.unless_begun))
