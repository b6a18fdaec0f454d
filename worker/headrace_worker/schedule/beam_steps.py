"""BeamSteps: turns a beam search's decisions into sequences that run, wait or are gone."""

from headrace_worker.schedule.allocator import BlockAllocator
from headrace_worker.schedule.beam import BeamSearch, Candidate, Move
from headrace_worker.schedule.end_rules import EndRules
from headrace_worker.schedule.plan import SequenceOutput
from headrace_worker.schedule.request import Request, Sequence, SequenceState
from headrace_worker.schedule.waiting import SequenceQueue


class BeamSteps:
    """Works on the scheduler's own queues and blocks, on its behalf.

    Beams are computed like any other sequences. One that has made its offer has nothing left to
    compute and is *idle* until all have made theirs: it may lose its blocks meanwhile. Then a beam
    that goes on keeps its sequence, and its further ways to go on become forks of it, in the places
    of beams that do not.
    """

    def __init__(
        self, rules: EndRules, running: SequenceQueue, waiting: SequenceQueue, blocks: BlockAllocator, most_running: int
    ) -> None:
        self._rules = rules
        self._running = running
        self._waiting = waiting
        self._blocks = blocks
        self._most_running = most_running

    def offer(self, request: Request, sequence: Sequence, candidates: list[Candidate]) -> list[SequenceOutput] | None:
        """Take in what the model says to one beam. The answers once the search is over, before that None."""
        search = request.beams
        assert search is not None  # noqa: S101 only requests with beams get here
        if sequence.prompt_scores is not None:
            request.prompt_scores, sequence.prompt_scores = sequence.prompt_scores, None
        if not search.offer(sequence.choice, candidates):
            return None
        moves = search.step(lambda beam, token_id: self._rules.ending(request.sequences[beam.slot], token_id))
        if not moves:
            return _outputs(request, search)
        self._replace(request, search, moves)
        return None

    def idle_for(self, head: Sequence) -> Sequence | None:
        """A running sequence that has nothing to compute, and whose blocks ``head`` may have.

        Without this a beam could wait for ever for blocks of others that wait for it.
        """
        for other in reversed(list(self._running)):
            if other.awaits_others and other.order[:3] >= head.order[:3]:
                return other
        return None

    def _replace(self, request: Request, search: BeamSearch, moves: list[Move]) -> None:
        """Make the request's sequences those of the beams that go on."""
        heirs: dict[int, list[Move]] = {}
        for move in moves:
            heirs.setdefault(move.parent.slot, []).append(move)
        vacant = [slot for slot in range(len(request.sequences)) if slot not in heirs]
        for slot in vacant:
            self._leave(request.sequences[slot])
        for slot, (first, *others) in heirs.items():
            parent = request.sequences[slot]
            for move in others:
                place = vacant.pop()
                request.sequences[place] = child = parent.fork(place)
                self._seat(child, parent)
                child.token_ids.append(move.candidate.token_id)
                search.move(move, place)
            parent.token_ids.append(first.candidate.token_id)
            search.move(first, slot)
            if parent.state is SequenceState.HELD:
                self._wait(parent)
        for slot in vacant:
            request.sequences[slot] = request.sequences[slot].fork(slot)

    def _seat(self, child: Sequence, parent: Sequence) -> None:
        """Let it run at once beside its parent; when that is not possible it waits, and computes its tokens again."""
        has_room = parent.state is SequenceState.RUNNING and len(self._running) < self._most_running
        if has_room and self._blocks.fork(parent, child):
            child.state = SequenceState.RUNNING
            self._running.push(child)
        else:
            self._wait(child)

    def _wait(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.WAITING
        self._waiting.push(sequence)

    def _leave(self, sequence: Sequence) -> None:
        if sequence.state is SequenceState.RUNNING:
            self._running.remove(sequence)
        self._blocks.release(sequence)
        sequence.state = SequenceState.FINISHED


def _outputs(request: Request, search: BeamSearch) -> list[SequenceOutput]:
    wants_logprobs = request.sequences[0].sampling.logprobs is not None
    outputs = [
        SequenceOutput(
            request.request_id,
            choice,
            answer.token_ids,
            answer.logprobs if wants_logprobs else None,
            answer.ending.reason,
            answer.ending.stop_reason,
            first=True,
        )
        for choice, answer in enumerate(search.answers())
    ]
    outputs[0].prompt_logprobs = request.prompt_scores
    return outputs
