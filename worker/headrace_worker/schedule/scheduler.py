"""Scheduler: who computes which tokens in the next step, and what a step's result means."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from heapq import merge

from headrace_shared.protocol.event import FinishReason
from headrace_worker.schedule.allocator import BlockAllocator
from headrace_worker.schedule.background import BackgroundCount
from headrace_worker.schedule.beam import Candidate
from headrace_worker.schedule.beam_steps import BeamSteps
from headrace_worker.schedule.draft import Draft
from headrace_worker.schedule.end_rules import EndRules
from headrace_worker.schedule.ending import Ending
from headrace_worker.schedule.plan import Drawn, Plan, Sampled, SequenceOutput, Slice
from headrace_worker.schedule.prefill_shares import PrefillLimits, PrefillShares
from headrace_worker.schedule.request import Request, Sequence, SequenceState
from headrace_worker.schedule.room import Room
from headrace_worker.schedule.speculation.speculation import Speculation, SpeculationStats
from headrace_worker.schedule.step_cost import StepCost
from headrace_worker.schedule.step_pace import PaceLimits, StepPace
from headrace_worker.schedule.waiting import SequenceQueue


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What one engine can hold and compute. Raises ValueError for limits that contradict each other."""

    max_num_seqs: int
    """Sequences that run at once; a request with ``n`` choices counts ``n`` times."""
    max_num_batched_tokens: int
    """Tokens computed in one step."""
    max_model_len: int
    """Prompt and output together, in tokens."""
    block_size: int
    """Tokens per block."""
    num_blocks: int
    enable_prefix_caching: bool = True
    pace: PaceLimits = field(default_factory=PaceLimits)
    prefills: PrefillLimits = field(default_factory=PrefillLimits)
    swap_blocks: int = 0
    """Blocks that the host's memory holds for sequences that had to make room; 0: they are computed again."""

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.max_model_len, self.block_size, self.num_blocks) < 1:
            raise ValueError("max_num_seqs, max_model_len, block_size and num_blocks must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): a step has one token for each running sequence"
            )

    @property
    def context_tokens(self) -> int:
        """The longest sequence this engine can hold: the model's limit, or all blocks."""
        return min(self.max_model_len, self.num_blocks * self.block_size)


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot; preemptions and tokens only ever grow."""

    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    preemptions: int
    prefix_queried_tokens: int
    prefix_hit_tokens: int
    cached_blocks: int = 0
    """Free ones that can still be found."""
    speculation: SpeculationStats | None = None
    background_running: int = 0
    """Of ``running`` and ``waiting`` together, background sequences that the last plan computes."""
    background_paused: int = 0
    """And those that it does not."""
    steps_given_up: int = 0
    swapped: int = 0
    """Of ``waiting``, those of which something is in the swap space."""
    free_swap_blocks: int = 0
    total_swap_blocks: int = 0


class Scheduler:
    """Continuous batching over a fixed number of K/V blocks.

    Everything goes by ``Sequence.order``: the smallest is served first, and when blocks run out the
    largest that runs is preempted: its blocks are freed, its tokens kept, and it computes them again
    later, or gets its blocks back from the swap space. The first that waits is never passed by a later one, unless limits on long prompts say
    so; a strictly more urgent one takes the place of running ones. Background sequences are less
    urgent than any other, and get what the others leave of a step: see ``StepPace``.

    One thread owns it and alternates ``plan`` and ``commit``. ``add``, ``abort`` and ``finish`` may
    come at any moment, between the two as well: results of a sequence that has ended are ignored,
    and its blocks are given to nobody before the next plan.
    """

    def __init__(
        self, limits: SchedulerLimits, *, eos_token_ids: frozenset[int], speculation: Speculation | None = None
    ) -> None:
        self._limits = limits
        self._speculation = speculation
        self._rules = EndRules(eos_token_ids, limits.context_tokens)
        self._blocks = BlockAllocator(
            limits.num_blocks,
            limits.block_size,
            share_prefixes=limits.enable_prefix_caching,
            swap_places=limits.swap_blocks,
        )
        self._requests: dict[str, Request] = {}
        self._running = SequenceQueue()
        self._waiting = SequenceQueue()
        self._beams = BeamSteps(self._rules, self._running, self._waiting, self._blocks, limits.max_num_seqs)
        self.cost = StepCost()
        self._pace = StepPace(limits.pace, self.cost)
        self._unfinished = 0
        self._background = BackgroundCount()
        self._preemptions = 0
        self._preempted: list[str] = []

    def add(self, request: Request) -> None:
        """Queue a request's sequences.

        Raises ValueError, and takes nothing in, when the id is already here, no choice is left to
        run, or a sequence does not fit into the context with one token to spare for its output.
        A longer output than the context can hold ends with ``length`` at that point.
        """
        if request.request_id in self._requests:
            raise ValueError(f"request {request.request_id} is already running")
        if not request.sequences:
            raise ValueError("the request has no choice left to run")
        for sequence in request.sequences:
            needed = sequence.num_tokens + min(1, sequence.stopping.max_tokens)
            if needed > self._limits.context_tokens:
                raise ValueError(
                    f"the prompt has {sequence.num_tokens} tokens, and this engine holds "
                    f"{self._limits.context_tokens} per sequence, output included"
                )
        self._requests[request.request_id] = request
        self._unfinished += len(request.sequences)
        if request.background:
            self._background.unfinished += len(request.sequences)
        for sequence in request.sequences[1:]:
            sequence.state = SequenceState.HELD
        self._waiting.push(request.sequences[0])

    def abort(self, request_id: str) -> bool:
        """End all choices of a request; False when it is not here (any more)."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        for sequence in request.sequences:
            if not sequence.finished:
                self._end(sequence, FinishReason.ABORT)
        return True

    def finish(self, request_id: str, choice: int, reason: FinishReason = FinishReason.STOP) -> bool:
        """End one choice for a reason found outside, such as a stop string; False when it has already ended."""
        request = self._requests.get(request_id)
        for sequence in request.sequences if request else ():
            if sequence.choice == choice and not sequence.finished:
                self._end(sequence, reason)
                return True
        return False

    def has_work(self) -> bool:
        return self._unfinished > 0

    def room(self) -> Room:
        slots = max(0, self._limits.max_num_seqs - self._unfinished)
        tokens = self._blocks.spare_tokens(self._running, self._waiting)
        others = self._unfinished - self._background.unfinished
        wanted = self._background.wanted(slots, others)
        room = Room(slots, tokens, wanted, tokens if wanted else 0)
        if not self._background.unfinished:
            return room
        without = self._blocks.spare_tokens_without_background(self._running, self._waiting)
        return replace(room, slots=max(0, self._limits.max_num_seqs - others), tokens=max(tokens, without))

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            running=len(self._running),
            waiting=self._unfinished - len(self._running),
            free_blocks=self._blocks.pool.free,
            total_blocks=self._blocks.pool.total,
            preemptions=self._preemptions,
            prefix_queried_tokens=self._blocks.prefix_queried_tokens,
            prefix_hit_tokens=self._blocks.prefix_hit_tokens,
            cached_blocks=self._blocks.pool.cached,
            speculation=self._speculation.stats() if self._speculation is not None else None,
            background_running=self._background.planned,
            background_paused=self._background.paused,
            steps_given_up=self._background.steps_given_up,
            swapped=self._blocks.swap.sequences,
            free_swap_blocks=self._blocks.swap.free,
            total_swap_blocks=self._blocks.swap.total,
        )

    def take_preempted(self) -> list[str]:
        """The requests that lost their places since the last call, once for each time."""
        taken, self._preempted = self._preempted, []
        return taken

    def plan(self) -> Plan:
        """The next step; empty exactly when no sequence is unfinished."""
        draft = Draft(self._limits.max_num_batched_tokens, self._pace)
        self._plan_kind(draft, background=False)
        if self._background.unfinished:
            draft.begin_background()
            self._plan_kind(draft, background=True)
        if self._speculation is not None:
            self._speculation.widen(draft, self._rules, self._blocks, self.cost)
        plan = draft.plan(self._blocks.take_copies(), self._blocks.take_swaps())
        self._background.note(plan, held_back=draft.held_back)
        return plan

    def give_up(self) -> None:
        """The latest plan was not computed; what it has of blocks and places stays where it is, and is planned again."""
        self._background.steps_given_up += 1

    def commit(self, plan: Plan, sampled: Sampled) -> list[SequenceOutput]:
        """Take in a step's result; one output for each sequence that got a token or ended."""
        for part, scores in sampled.prompt_logprobs:
            known = part.sequence.prompt_scores
            if known is not None:
                # A preempted prompt is scored again from its beginning.
                del known[part.start + 1 :]
                known.extend(scores)
        outputs = self._failures({each: why for each, why in sampled.failed.items() if each not in sampled.further})
        first = zip(sampled.token_ids, sampled.logprobs, strict=True)
        for part in plan.slices:
            drawn = [next(first)] if part.samples else []
            sequence = part.sequence
            if sequence.finished:
                continue
            if part.guesses:
                drawn += sampled.further.get(sequence, ())
                outputs += self._verified(part, drawn, sampled.failed.get(sequence))
                continue
            sequence.num_computed = part.start + part.count
            self._blocks.register(sequence, part.start)
            if sequence in sampled.candidates:
                outputs += self._offer(sequence, sampled.candidates[sequence])
            elif (output := self._result(sequence, drawn)) is not None:
                outputs.append(output)
        return outputs

    def _failures(self, failed: Mapping[Sequence, str]) -> list[SequenceOutput]:
        """End the requests that cannot go on; one output for each."""
        outputs: list[SequenceOutput] = []
        for sequence, failure in failed.items():
            if self.abort(sequence.request_id):
                outputs.append(SequenceOutput(sequence.request_id, sequence.choice, [], failure=failure))
        return outputs

    def _plan_kind(self, draft: Draft, *, background: bool) -> None:
        """Those that decode, and then prompts."""
        prefills: deque[Sequence] = deque()
        for sequence in list(self._running):
            if sequence.background is not background:
                continue
            if sequence.remaining > 1:
                prefills.append(sequence)
            elif sequence.remaining and sequence.state is SequenceState.RUNNING:
                self._schedule(sequence, draft)
        waiting = [sequence for sequence in self._waiting if sequence.background is background]
        prompts = merge(prefills, waiting, key=lambda sequence: sequence.order)
        self._plan_prefills(prefills, draft, PrefillShares(self._limits.prefills, prompts, draft), background)

    def _plan_prefills(self, prefills: deque[Sequence], draft: Draft, shares: PrefillShares, background: bool) -> None:
        """Spend the rest of the budget on prompts, running and waiting ones in one order."""
        blocked = False
        while True:
            # Preempted meanwhile, and perhaps admitted again.
            while prefills and (
                prefills[0].state is not SequenceState.RUNNING or prefills[0] in draft or shares.must_wait(prefills[0])
            ):
                prefills.popleft()
            head = None if blocked else self._next_waiting(shares, background)
            if head is not None and (not prefills or head.order < prefills[0].order):
                blocked = not self._admit(head, draft, shares)
            elif prefills and draft.budget:
                self._schedule(prefills[0], draft, shares.cap(prefills.popleft()))
            else:
                return

    def _next_waiting(self, shares: PrefillShares, background: bool) -> Sequence | None:
        head = next((each for each in self._waiting if not shares.must_wait(each)), None)
        return head if head is not None and head.background is background else None

    def _admit(self, head: Sequence, draft: Draft, shares: PrefillShares) -> bool:
        """Start a waiting sequence, if need be in the place of less urgent ones."""
        while len(self._running) >= self._limits.max_num_seqs:
            if not self._displace_for(head, draft):
                return False
        if not draft.room_for(head):
            return False
        recomputed = head.admitted
        while not self._blocks.admit(head, self._running):
            if not self._displace_for(head, draft):
                return False
        request = self._requests[head.request_id]
        if head is request.sequences[0] and not recomputed:
            request.cached_tokens = min(head.num_computed, head.prompt_len)
        self._waiting.remove(head)
        self._running.push(head)
        head.state = SequenceState.RUNNING
        self._schedule(head, draft, shares.cap(head))
        return True

    def _schedule(self, sequence: Sequence, draft: Draft, most: int = 1) -> None:
        """Plan as much of a running sequence as ``most`` and the budgets allow, unless it loses its own blocks over it."""
        count = min(most, draft.room_for(sequence))
        if not count:
            return
        end = sequence.num_computed + count
        while not self._blocks.grow(sequence, end):
            victim = self._running.last() or sequence
            self._preempt(victim, draft)
            if victim is sequence:
                return
        samples = end == sequence.num_tokens and sequence.stopping.max_tokens > 0
        draft.add(Slice(sequence, sequence.num_computed, count, samples))

    def _displace_for(self, head: Sequence, draft: Draft) -> bool:
        """Preempt the least urgent running sequence, if ``head`` has the better priority, or else an idle beam."""
        victim = self._running.last()
        if victim is None or victim.urgency <= head.urgency:
            victim = self._beams.idle_for(head)
        if victim is None:
            return False
        self._preempt(victim, draft)
        return True

    def _preempt(self, sequence: Sequence, draft: Draft) -> None:
        draft.drop(sequence)
        idle = sequence.awaits_others
        self._running.remove(sequence)
        self._blocks.preempt(sequence)
        self._preemptions += 1
        self._preempted.append(sequence.request_id)
        if idle:
            sequence.state = SequenceState.HELD
        else:
            sequence.state = SequenceState.WAITING
            self._waiting.push(sequence)

    def _offer(self, sequence: Sequence, candidates: list[Candidate]) -> list[SequenceOutput]:
        request = self._requests[sequence.request_id]
        outputs = self._beams.offer(request, sequence, candidates)
        if outputs is None:
            return []
        for beam in list(request.sequences):
            self._end(beam, FinishReason.STOP)
        return outputs

    def _verified(self, part: Slice, drawn: list[Drawn], failure: str | None) -> list[SequenceOutput]:
        """A sequence goes on by those of its guesses that were right, and one token more; then it may have failed."""
        sequence = part.sequence
        if self._speculation is not None:
            self._speculation.note(part, len(drawn) - 1)
        # What a failed draw brought means nothing.
        kept = drawn if failure is None else drawn[:-1]
        outputs: list[SequenceOutput] = []
        if kept and (output := self._result(sequence, kept)) is not None:
            outputs.append(output)
        if failure is not None and not sequence.finished:
            outputs += self._failures({sequence: failure})
        return outputs

    def _append(self, sequence: Sequence, drawn: list[Drawn], output: SequenceOutput) -> Ending | None:
        """Take in the drawn tokens up to the one that ends the sequence. All but the last have been computed."""
        before, ending = sequence.num_computed, None
        for token_id, logprob in drawn:
            ending = self._rules.ending(sequence, token_id)
            sequence.token_ids.append(token_id)
            output.token_ids.append(token_id)
            if logprob is not None:
                output.logprobs = [*(output.logprobs or ()), logprob]
            if ending is not None:
                break
        sequence.num_computed = sequence.num_tokens - 1
        self._blocks.register(sequence, before)
        return ending

    def _result(self, sequence: Sequence, drawn: list[Drawn]) -> SequenceOutput | None:
        output = SequenceOutput(sequence.request_id, sequence.choice, [], first=not sequence.reported)
        if drawn:
            ending = self._append(sequence, drawn, output)
        elif sequence.remaining == 0:
            ending = Ending(FinishReason.LENGTH)
        else:
            return None
        if output.first:
            sequence.reported = True
            self._release_held(sequence)
        output.prompt_logprobs, sequence.prompt_scores = sequence.prompt_scores, None
        if ending is not None:
            self._end(sequence, ending.reason)
            output.finish_reason, output.stop_reason = ending.reason, ending.stop_reason
        return output

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        if sequence.state is SequenceState.RUNNING:
            self._running.remove(sequence)
        elif sequence.state is SequenceState.WAITING:
            self._waiting.remove(sequence)
        self._blocks.release(sequence)
        sequence.state = SequenceState.FINISHED
        sequence.finish_reason = reason
        if self._speculation is not None:
            self._speculation.ended(sequence)
        self._unfinished -= 1
        if sequence.background:
            self._background.unfinished -= 1
        self._release_held(sequence)
        if all(other.finished for other in self._requests[sequence.request_id].sequences):
            del self._requests[sequence.request_id]

    def _release_held(self, leader: Sequence) -> None:
        """Queue the choices that waited for this one to compute their prompt, or to end."""
        request = self._requests[leader.request_id]
        if leader is not request.sequences[0] or request.beams is not None:
            return
        for follower in request.sequences[1:]:
            if follower.state is SequenceState.HELD:
                follower.state = SequenceState.WAITING
                self._waiting.push(follower)
