"""build_speculation: the guesses that the settings ask for."""

from headrace_worker.execute.build import BuiltRunner
from headrace_worker.schedule.speculation.ngram import NgramProposer
from headrace_worker.schedule.speculation.proposer import Proposer
from headrace_worker.schedule.speculation.speculation import Speculation
from headrace_worker.schedule.speculation.suffix import SuffixProposer, SuffixRules
from headrace_worker.speculative_config import SpeculativeConfig


def build_speculation(config: SpeculativeConfig, built: BuiltRunner) -> Speculation:
    """``built`` has the draft model when the configuration names one."""
    return Speculation(
        _proposer(config, built),
        config.tokens,
        allowed=built.runner.possible,
        disable_by_batch_size=config.disable_by_batch_size,
    )


def _proposer(config: SpeculativeConfig, built: BuiltRunner) -> Proposer:
    if built.draft is not None:
        return built.draft
    if config.method == "suffix":
        given = config.model_dump(exclude_none=True)
        names = SuffixRules.__dataclass_fields__
        return SuffixProposer(
            SuffixRules(**{name: given[key] for name in names if (key := f"suffix_decoding_{name}") in given})
        )
    return NgramProposer(config.prompt_lookup_min or 1, config.prompt_lookup_max or 1)
