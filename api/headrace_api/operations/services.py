"""What operations work with; wired once per process, in ``app``."""

from dataclasses import dataclass

from headrace_api.directory import ModelDirectory
from headrace_api.dispatch import Dispatcher
from headrace_api.grammar.check import GrammarChecker
from headrace_api.metrics import Metrics
from headrace_api.prompt.build import TokenizerPool
from headrace_api.settings import ApiSettings


@dataclass(frozen=True, slots=True)
class Services:
    """One of each."""

    settings: ApiSettings
    metrics: Metrics
    directory: ModelDirectory
    dispatcher: Dispatcher
    tokenizers: TokenizerPool
    grammars: GrammarChecker
