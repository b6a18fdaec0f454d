"""Requests and their sequences: what is to be generated, and how far it is."""

import enum
from collections.abc import Callable, Collection, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, Self

from headrace_shared.protocol.codec import unpack_ids
from headrace_shared.protocol.event import FinishReason, TokenLogprob
from headrace_shared.protocol.job import GenerateJob
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.schedule.beam import BeamSearch
from headrace_worker.schedule.thinking import ThinkingBudget

if TYPE_CHECKING:
    # The simulated engine runs without it.
    import numpy as np
    from numpy.typing import NDArray


class Matcher(Protocol):
    """Where one sequence is in its grammar: a pure function of the grammar and the tokens accepted so far."""

    @property
    def broken(self) -> bool:
        """The grammar can neither end nor go on: whatever comes now, the answer is not whole."""

    def accept(self, token_id: int) -> None:
        """Go on by one token of the output."""

    def possible(self, token_ids: "list[int]") -> int:
        """How many of some tokens, the first ones, may come next as far as is known; nothing changes by it."""

    def fill(self, bitmask: "NDArray[np.int32]", row: int) -> None:
        """Set the row of a bitmask [rows, words] to the tokens that may come next: at least one, bit i of word w is token 32 w + i."""


class Grammar(Protocol):
    """A compiled grammar, which the scheduler only carries to the runner."""

    def matcher(self) -> Matcher:
        """A matcher that has not accepted any token."""


class RowProcessor(Protocol):
    """Own code that changes one row of logits, which the scheduler only carries to the runner."""

    name: str

    def apply(self, sequence: "Sequence", row: Any, /) -> None:
        """Change the row in place. May raise anything, which ends the request."""


class SequenceState(enum.Enum):
    """Where a sequence is. Only the scheduler moves it; FINISHED is final."""

    HELD = enum.auto()
    """Waits, outside the queue, for others of its request: until the first choice has computed
    their prompt, or until all beams have made their offers."""
    WAITING = enum.auto()
    """In the queue; holds no blocks. Also the state after a preemption."""
    RUNNING = enum.auto()
    FINISHED = enum.auto()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """One choice of a request: its tokens, and how many of them are in the K/V cache.

    ``[0, num_computed)`` of ``token_ids`` are in the cache, in the blocks of ``block_table``;
    ``[num_computed, len(token_ids))`` are to be computed. A sequence that is decoding has
    exactly one such token, the one drawn last.
    """

    request_id: str
    choice: int
    order: tuple[bool, int, int, int]
    """(background, priority, arrival, choice): the smaller goes first and is preempted last. Unique among live sequences."""
    token_ids: list[int]
    """Prompt, then output. Only ever appended to, and only by the scheduler; within a step others lend it guesses."""
    prompt_len: int
    sampling: SamplingSpec
    stopping: StoppingSpec
    stop_token_ids: frozenset[int]
    cache_salt: bytes = b""
    """Sequences share cached blocks only when their salts are equal."""
    grammar: Grammar | None = None
    """``sampling.grammar`` compiled; set before the sequence is scheduled."""
    thinking: ThinkingBudget | None = None
    """Set before the sequence is scheduled when ``sampling.thinking`` is."""
    processors: Seq[RowProcessor] = ()
    """``sampling.logits_processors`` imported; set before the sequence is scheduled."""
    broken: bool = False
    """Its grammar is: end-of-text, which is all that may come, cuts it off."""
    prompt_scores: list[TokenLogprob | None] | None = None
    """Log-probabilities of ``token_ids[:len(prompt_scores)]`` so far; None: not wanted, or already reported."""
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    block_keys: list[bytes] = field(default_factory=list)
    """Prefix-cache keys of the leading full blocks, as far as they have been needed."""
    state: SequenceState = SequenceState.WAITING
    admitted: bool = False
    """It has run before, so what it finds in the prefix cache may be its own."""
    reported: bool = False
    """An output of it has been returned by ``Scheduler.commit`` in this attempt."""
    finish_reason: FinishReason | None = None

    def fork(self, choice: int) -> "Sequence":
        """A new sequence with the same tokens, in another place of the request; HELD, and without blocks."""
        return replace(
            self,
            choice=choice,
            order=(*self.order[:3], choice),
            token_ids=list(self.token_ids),
            num_computed=0,
            block_table=[],
            block_keys=list(self.block_keys),
            state=SequenceState.HELD,
            admitted=True,
        )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def output_len(self) -> int:
        """Tokens generated so far, those of earlier attempts included: the position of the next draw."""
        return len(self.token_ids) - self.prompt_len

    @property
    def remaining(self) -> int:
        """Tokens that are known but not yet in the cache."""
        return len(self.token_ids) - self.num_computed

    @property
    def awaits_others(self) -> bool:
        """A beam whose part of this step is done, before the other beams' parts are."""
        return not self.remaining

    @property
    def background(self) -> bool:
        """Takes only what others leave: see ``JobHeader.background``."""
        return self.order[0]

    @property
    def urgency(self) -> tuple[bool, int]:
        """Whoever has a smaller one may take its place."""
        return self.order[:2]

    @property
    def finished(self) -> bool:
        return self.state is SequenceState.FINISHED


@dataclass(slots=True, eq=False)
class Request:
    """One job inside the engine."""

    request_id: str
    priority: int
    arrival: int
    prompt_len: int
    sequences: list[Sequence]
    """The choices that still have to run, in the order of their index. The first one is the
    leader: the others wait until it has computed the prompt, and share its full blocks."""
    cached_tokens: int = 0
    """Prompt tokens that the leader's first admission found in the prefix cache."""
    background: bool = False
    """Takes only what others leave: see ``JobHeader.background``."""
    beams: BeamSearch | None = None
    """With it ``sequences`` are places for beams, each at its ``choice``; a HELD one without an offer is empty."""
    prompt_scores: list[TokenLogprob | None] | None = None
    """Those of a prompt whose beams are under way, to be told with the answers."""

    @classmethod
    def from_job(
        cls,
        job: GenerateJob,
        *,
        arrival: int,
        resumed: Mapping[int, list[int]] | None = None,
        finished: Collection[int] = (),
        prompt_scored: bool = False,
        run_id: str | None = None,
    ) -> Self:
        """The request as an engine runs it, from the start or from where an earlier attempt ended.

        ``arrival`` orders requests of one priority and must be unique. ``resumed`` maps a choice
        to the tokens that an earlier attempt generated for it; ``finished`` are the choices that
        need not run at all; ``prompt_scored`` says that the prompt's log-probabilities have
        already been reported. ``run_id`` is what the engine calls it, instead of its own id.
        Raises ValueError for an empty prompt, and for a beam search without tokens to generate, or
        with a thinking budget.
        """
        header = job.header
        request_id = run_id or header.request_id
        prompt = unpack_ids(job.prompt)
        if not prompt:
            raise ValueError("the prompt has no tokens")
        if job.sampling.beams is not None and not job.stopping.max_tokens:
            raise ValueError("a beam search needs max_tokens of at least 1")
        if job.sampling.beams is not None and job.sampling.thinking is not None:
            raise ValueError("a beam search knows no thinking budget")
        stop_token_ids = frozenset(job.stopping.stop_token_ids)
        sequences = [
            Sequence(
                request_id=request_id,
                choice=choice,
                order=(header.background, header.priority, arrival, choice),
                token_ids=prompt + list((resumed or {}).get(choice, ())),
                prompt_len=len(prompt),
                sampling=job.sampling,
                stopping=job.stopping,
                stop_token_ids=stop_token_ids,
                cache_salt=job.cache_salt.encode(),
            )
            for choice in range(job.sequences)
            if choice not in finished
        ]
        if sequences and job.sampling.prompt_logprobs is not None and not prompt_scored:
            sequences[0].prompt_scores = [None]
        request = cls(request_id, header.priority, arrival, len(prompt), sequences)
        request.background = header.background
        if job.sampling.beams is not None:
            request.beams = BeamSearch(job.sampling.beams, job.n)
        return request

    def constrain(self, grammar: Grammar) -> None:
        """Give every choice the compiled form of its grammar."""
        for sequence in self.sequences:
            sequence.grammar = grammar

    def customise(self, processors: Seq[RowProcessor]) -> None:
        """Give every choice the logits processors that it names."""
        for sequence in self.sequences:
            sequence.processors = processors

    def limit_thinking(self, token_bytes: Callable[[int], bytes]) -> None:
        """Hold every choice to ``sampling.thinking``; ``token_bytes`` says what a token adds to a text."""
        for sequence in self.sequences:
            if sequence.sampling.thinking is not None:
                sequence.thinking = ThinkingBudget(sequence.sampling.thinking, token_bytes)
