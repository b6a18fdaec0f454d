"""BeamSearch: which of a request's beams go on, and which answers are the best so far.

The algorithm is that of transformers' ``generate(num_beams=...)`` with ``early_stopping=False``,
its default. A step looks at the ``width`` best ways to go on from any beam, in order: one that
ends an answer is kept beside the answers found before, of which the ``width`` best stay; the best
``width`` that end nothing are the next beams. It is over when the best beam, were it to end now,
could not replace the worst of ``width`` answers, or when the beams have reached their length.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, inf, log

from headrace_shared.protocol.event import FinishReason, TokenLogprob
from headrace_shared.protocol.sampling import BeamSpec
from headrace_worker.schedule.ending import Ending

_MOST_EXPONENT = 700.0
"""A float holds what is between exp(-700) and exp(700)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that a beam could go on with."""

    token_id: int
    score: float
    """Its log-probability, as the request's parameters have changed it."""
    logprob: TokenLogprob | None = None
    """What the request wants to be told of it."""


@dataclass(slots=True)
class Beam:
    """What is known of one living beam besides its sequence."""

    slot: int
    """Its sequence's ``choice``."""
    total: float = 0.0
    """Sum of its tokens' scores."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    offer: list[Candidate] | None = None
    """Its best ways to go on; None until the model has said."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A complete answer."""

    token_ids: list[int]
    logprobs: list[TokenLogprob]
    score: float
    ending: Ending


@dataclass(frozen=True, slots=True)
class Move:
    """A beam that goes on with a token; several may begin with the same beam."""

    parent: Beam
    candidate: Candidate
    total: float


class BeamSearch:
    """One request's search. A pure function of what the model says to its beams, in whatever order it does."""

    def __init__(self, spec: BeamSpec, wanted: int) -> None:
        """``wanted``: how many answers are told in the end."""
        self._wanted = wanted
        self._width = spec.width
        self._penalty = spec.length_penalty
        self._beams: dict[int, Beam] = {0: Beam(0)}
        self._best: list[Hypothesis] = []

    def offer(self, slot: int, candidates: list[Candidate]) -> bool:
        """How the beam in that slot could go on; True when every beam has its offer, and ``step`` may be called."""
        self._beams[slot].offer = candidates
        return all(beam.offer is not None for beam in self._beams.values())

    def step(self, ending: Callable[[Beam, int], Ending | None]) -> list[Move]:
        """The beams that go on, the best first; none when the search is over.

        ``ending`` says whether a beam ends with a token. Afterwards there are no beams but those
        that ``move`` makes.
        """
        ranked = self._ranked()
        moves: list[Move] = []
        for rank, move in enumerate(ranked):
            end = ending(move.parent, move.candidate.token_id)
            if end is None and len(moves) < self._width:
                moves.append(move)
            elif end is not None and rank < self._width:
                self._keep(move, end)
        if not ranked:
            self._give_up()
        over = not moves or self._cannot_improve(moves[0])
        self._beams = {}
        return [] if over else moves

    def move(self, move: Move, slot: int) -> None:
        """Let a beam live on in a slot, which its sequence has."""
        parent, candidate = move.parent, move.candidate
        logprobs = [] if candidate.logprob is None else [*parent.logprobs, candidate.logprob]
        self._beams[slot] = Beam(slot, move.total, [*parent.token_ids, candidate.token_id], logprobs)

    def answers(self) -> list[Hypothesis]:
        """The best answers found, the best first. Where a grammar allows fewer than wanted, the rest are empty."""
        missing = self._wanted - len(self._best)
        return [*self._best[: self._wanted], *[Hypothesis([], [], -inf, Ending(FinishReason.LENGTH))] * missing]

    def _ranked(self) -> list[Move]:
        moves = [
            Move(beam, candidate, beam.total + candidate.score)
            for beam in self._beams.values()
            for candidate in beam.offer or ()
            if candidate.score > -inf
        ]
        return sorted(moves, key=lambda move: (-move.total, move.parent.slot, move.candidate.token_id))

    def _keep(self, move: Move, ending: Ending) -> None:
        parent, candidate = move.parent, move.candidate
        logprobs = [] if candidate.logprob is None else [*parent.logprobs, candidate.logprob]
        token_ids = [*parent.token_ids, candidate.token_id]
        self._add(Hypothesis(token_ids, logprobs, self._score(move.total, len(token_ids)), ending))

    def _give_up(self) -> None:
        """Nothing may follow any beam: they are answers as they are, cut off."""
        for beam in self._beams.values():
            score = self._score(beam.total, max(1, len(beam.token_ids)))
            self._add(Hypothesis(beam.token_ids, beam.logprobs, score, Ending(FinishReason.LENGTH)))

    def _add(self, found: Hypothesis) -> None:
        # Sorting is stable: of equal scores the one that was found first stays.
        self._best = sorted([*self._best, found], key=lambda each: -each.score)[: self._width]

    def _cannot_improve(self, best: Move) -> bool:
        if len(self._best) < self._width:
            return False
        return self._score(best.total, len(best.parent.token_ids) + 1) <= self._best[-1].score

    def _score(self, total: float, length: int) -> float:
        exponent = max(-_MOST_EXPONENT, min(_MOST_EXPONENT, self._penalty * log(length)))
        return total / exp(exponent)
