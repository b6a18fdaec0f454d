"""A model made of arithmetic, and a driver that checks every step it takes."""

from collections import Counter
from collections.abc import Callable, Container
from math import inf
from types import SimpleNamespace

import pytest

from headrace_shared.protocol.codec import pack_ids
from headrace_shared.protocol.event import FinishReason, TokenLogprob
from headrace_shared.protocol.job import GenerateJob, JobHeader
from headrace_shared.protocol.sampling import SamplingSpec, StoppingSpec
from headrace_worker.schedule.beam import Candidate
from headrace_worker.schedule.plan import Drawn, Plan, Sampled, SequenceOutput, Slice
from headrace_worker.schedule.request import Request, Sequence, SequenceState
from headrace_worker.schedule.scheduler import Scheduler, SchedulerLimits
from headrace_worker.schedule.speculation.proposer import Wish
from headrace_worker.schedule.speculation.speculation import Speculation

VOCAB = 23
EOS = 1


def make_limits(**changes) -> SchedulerLimits:
    defaults = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_model_len": 64, "block_size": 4, "num_blocks": 64}
    return SchedulerLimits(**(defaults | changes))


def make_request(
    name: str = "r", prompt=(5, 6, 7), *, arrival: int = 0, priority: int = 0, n: int = 1, **rest
) -> Request:
    sampling = SamplingSpec(**{key: rest.pop(key) for key in list(rest) if key in SamplingSpec.__struct_fields__})
    attempt = {key: rest.pop(key) for key in list(rest) if key in ("resumed", "finished", "prompt_scored")}
    job = GenerateJob(
        JobHeader(name, "queue", priority, background=rest.pop("background", False)),
        pack_ids(prompt),
        n=n,
        sampling=sampling,
        stopping=StoppingSpec(**rest),
    )
    return Request.from_job(job, arrival=arrival, **attempt)


def digest(seed: int, choice: int, tokens: list[int]) -> int:
    """A number that depends on all tokens, and on nothing else."""
    value = seed * 31 + choice * 17
    for token in tokens:
        value = (value * 1_000_003 + token + 1) % 2_147_483_647
    return value


def next_token(seed: int, choice: int, tokens: list[int]) -> int:
    """A token that depends on all tokens before it, and on nothing else."""
    return digest(seed, choice, tokens) % VOCAB


def undisturbed(request: Request, choice: int, context: int) -> tuple[list[int], FinishReason, int | None]:
    """Output, finish reason and stop reason of one choice that runs all alone."""
    sequence = next(sequence for sequence in request.sequences if sequence.choice == choice)
    prompt_len, stopping = sequence.prompt_len, sequence.stopping
    tokens = list(sequence.token_ids)
    already = len(tokens)
    if stopping.max_tokens == 0:
        return [], FinishReason.LENGTH, None
    while True:
        token = next_token(sequence.sampling.seed, choice, tokens)
        tokens.append(token)
        output_len = len(tokens) - prompt_len
        if output_len >= stopping.min_tokens:
            if token == EOS and not stopping.ignore_eos:
                return tokens[already:], FinishReason.STOP, None
            if token in stopping.stop_token_ids:
                return tokens[already:], FinishReason.STOP, token
        if output_len >= stopping.max_tokens or len(tokens) >= context:
            return tokens[already:], FinishReason.LENGTH, None


def scores_of(seed: int, tokens: list[int]) -> list[float]:
    """Log-probabilities of every next token, no two alike; some tokens are impossible."""
    before = digest(seed, 0, tokens)
    values = [(before + token * 7_919) % 9_973 for token in range(VOCAB)]
    return [-inf if value % 11 == 0 else -0.001 * value for value in values]


def undisturbed_beams(request: Request, context: int) -> list[tuple[list[int], FinishReason, int | None]]:
    """The answers of a beam search that runs all alone, written down from transformers' description of it."""
    sequence = request.sequences[0]
    spec, stopping, prompt = sequence.sampling.beams, sequence.stopping, sequence.token_ids[: sequence.prompt_len]
    longest = min(stopping.max_tokens, context - len(prompt))
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int], FinishReason, int | None]] = []
    while beams:
        scored = [(beam, scores_of(sequence.sampling.seed, prompt + beam[1])) for beam in beams]
        ranked = sorted(
            ((total + scores[token], [*tokens, token]) for (total, tokens), scores in scored for token in range(VOCAB)),
            key=lambda each: -each[0],
        )
        beams = []
        for rank, (total, tokens) in enumerate(each for each in ranked if each[0] > -inf):
            early = len(tokens) < stopping.min_tokens
            eos = not early and tokens[-1] == EOS and not stopping.ignore_eos
            stop = not early and not eos and tokens[-1] in stopping.stop_token_ids
            if not (eos or stop or len(tokens) == longest):
                beams.append((total, tokens))
            elif rank < spec.width:
                reason = FinishReason.STOP if eos or stop else FinishReason.LENGTH
                done.append((total / len(tokens) ** spec.length_penalty, tokens, reason, tokens[-1] if stop else None))
        done = sorted(done, key=lambda each: -each[0])[: spec.width]
        beams = beams[: spec.width]
        if len(done) == spec.width and beams:
            total, tokens = beams[0]
            if total / len(tokens) ** spec.length_penalty <= done[-1][0]:
                break
    return [(tokens, reason, stop) for _, tokens, reason, stop in done]


class Driver:
    """Runs a scheduler with the arithmetic model, and checks what must hold after every step."""

    def __init__(self, limits: SchedulerLimits, speculation: Speculation | None = None) -> None:
        self.limits = limits
        self.scheduler = Scheduler(limits, eos_token_ids=frozenset({EOS}), speculation=speculation)
        self.requests: dict[str, Request] = {}
        self.outputs: dict[tuple[str, int], list[SequenceOutput]] = {}
        self.plans: list[Plan] = []
        self.impossible: Container[int] = ()
        """Tokens that no beam can go on with."""
        # Block -> slot -> everything that the K/V at that place depends on.
        self.memory: dict[int, dict[int, tuple[int, ...]]] = {}
        # Place in the swap space -> what was copied there.
        self.host: dict[int, dict[int, tuple[int, ...]]] = {}

    def add(self, request: Request) -> Request:
        self.scheduler.add(request)
        self.requests[request.request_id] = request
        return request

    def step(self, between: Callable[[], object] | None = None) -> list[SequenceOutput]:
        before = {id(sequence) for sequence in self.live(SequenceState.RUNNING)}
        plan = self.scheduler.plan()
        self.plans.append(plan)
        self._check_plan(plan, before)
        sampled = self._execute(plan)
        self.scheduler.cost.note(plan.load, 1.0 + plan.num_tokens)
        if between is not None:
            between()
        outputs = self.scheduler.commit(plan, sampled)
        for output in outputs:
            self.outputs.setdefault((output.request_id, output.choice), []).append(output)
        self.check_blocks()
        return outputs

    def run(self, most_steps: int = 5000) -> None:
        for _ in range(most_steps):
            if not self.scheduler.has_work():
                return
            self.step()
        pytest.fail("the requests never end")

    def live(self, *states: SequenceState) -> list[Sequence]:
        every = [sequence for request in self.requests.values() for sequence in request.sequences]
        return [sequence for sequence in every if sequence.state in states]

    def tokens(self, request_id: str, choice: int = 0) -> list[int]:
        return [token for output in self.outputs.get((request_id, choice), []) for token in output.token_ids]

    def last(self, request_id: str, choice: int = 0) -> SequenceOutput:
        return self.outputs[request_id, choice][-1]

    def check_blocks(self) -> None:
        """Free + used + cached = all, and the counts of users are those of the block tables."""
        pool = self.scheduler._blocks.pool
        running = self.live(SequenceState.RUNNING)
        users = Counter(block for sequence in running for block in sequence.block_table)
        assert [pool.users(block) for block in range(pool.total)] == [users[block] for block in range(pool.total)]
        blank, cached, used = set(pool._blank), set(pool._cached), set(users)
        assert len(blank) + len(cached) + len(used) == pool.total
        assert blank | cached | used == set(range(pool.total))
        assert all(not sequence.block_table for sequence in self.live(SequenceState.WAITING, SequenceState.FINISHED))
        self._check_swap_space()
        stats = self.scheduler.stats()
        assert stats.running == len(running) <= self.limits.max_num_seqs
        assert stats.waiting == len(self.live(SequenceState.WAITING, SequenceState.HELD))

    def _check_swap_space(self) -> None:
        """Each place is free or one waiting sequence's, and between two plans nothing is under way."""
        swap = self.scheduler._blocks.swap
        places = [place for kept in swap._kept.values() for place in kept.places.values()]
        assert sorted(places + swap._free) == list(range(swap.total))
        assert not swap._out
        assert not swap._coming
        assert swap._kept.keys() <= set(self.live(SequenceState.WAITING, SequenceState.HELD))
        assert self.scheduler.stats().swapped == len(swap._kept)

    def _check_plan(self, plan: Plan, running_before: set[int]) -> None:
        assert bool(plan) == self.scheduler.has_work()
        assert plan.num_tokens <= self.limits.max_num_batched_tokens
        assert len({id(part.sequence) for part in plan.slices}) == len(plan.slices)
        waiting = self.live(SequenceState.WAITING)
        for part in plan.slices:
            sequence = part.sequence
            assert sequence.state is SequenceState.RUNNING
            assert part.count >= 1
            assert part.start == sequence.num_computed
            assert len(sequence.block_table) * self.limits.block_size >= part.start + part.count
            if id(sequence) not in running_before and not self.limits.prefills.long_tokens:
                assert all(sequence.order < other.order for other in waiting), "somebody was passed"
        if waiting and not self.limits.prefills.long_tokens and plan.num_tokens < self.limits.max_num_batched_tokens:
            urgent = min(other.urgency for other in waiting)
            assert all(other.urgency <= urgent for other in self.live(SequenceState.RUNNING)), "an urgent one waits"

    def _execute(self, plan: Plan) -> Sampled:
        sampled = Sampled()
        copied = {target: dict(self.memory.get(source, {})) for source, target in plan.copies}
        self.memory.update(copied)
        for block, place in plan.swaps.out:
            self.host[place] = dict(self.memory[block])
        for place, block in plan.swaps.back:
            self.memory[block] = dict(self.host[place])
        for part in plan.slices:
            sequence, tokens = part.sequence, part.sequence.token_ids + part.guesses
            for position in range(part.start):
                assert self._slot(sequence, position) == tuple(tokens[: position + 1]), "another sequence's K/V"
            for position in range(part.start, part.start + part.count):
                self._slot(sequence, position, write=tuple(tokens[: position + 1]))
            if part.samples and sequence.sampling.beams is not None:
                scores = enumerate(scores_of(sequence.sampling.seed, tokens))
                possible = [(token, score) for token, score in scores if token not in self.impossible]
                sampled.candidates[sequence] = [Candidate(token, score) for token, score in possible]
            if part.prompt_scores:
                sampled.prompt_logprobs.append((part, self._scores(part)))
            if part.samples:
                assert part.start + part.count == len(tokens)
                drawn = self._draw(sequence, part.guesses)
                sampled.token_ids.append(drawn[0][0])
                sampled.logprobs.append(drawn[0][1])
                if drawn[1:]:
                    sampled.further[sequence] = drawn[1:]
        return sampled

    @staticmethod
    def _draw(sequence: Sequence, guesses: list[int]) -> list[Drawn]:
        """One token more than there are right guesses."""
        drawn: list[Drawn] = []
        wants = sequence.sampling.logprobs is not None
        for guess in [*guesses, None]:
            token = next_token(
                sequence.sampling.seed, sequence.choice, sequence.token_ids + [each for each, _ in drawn]
            )
            drawn.append((token, TokenLogprob(token, -1.0, 1) if wants else None))
            if token != guess:
                break
        return drawn

    def _slot(self, sequence: Sequence, position: int, write: tuple[int, ...] | None = None) -> tuple[int, ...]:
        size = self.limits.block_size
        places = self.memory.setdefault(sequence.block_table[position // size], {})
        if write is not None:
            places[position % size] = write
        return places[position % size]

    @staticmethod
    def _scores(part: Slice) -> list[TokenLogprob]:
        tokens = part.sequence.token_ids
        return [
            TokenLogprob(tokens[part.start + 1 + i], -float(part.start + 1 + i), 1) for i in range(part.prompt_scores)
        ]


class Guesser:
    """Knows the arithmetic model, and is wrong as often as it is asked to be."""

    free = True

    def __init__(self, wrong_in: int) -> None:
        """``wrong_in``: one guess of so many is wrong; 0: none."""
        self._wrong_in = wrong_in
        self.ended_with: list[list[int]] = []

    def propose(self, wishes: list[Wish]) -> list[list[int]]:
        return [self._guess(*wish) for wish in wishes]

    def ended(self, sequence: Sequence) -> None:
        self.ended_with.append(list(sequence.token_ids))

    def _guess(self, sequence: Sequence, most: int) -> list[int]:
        tokens = list(sequence.token_ids)
        for _ in range(most):
            token = next_token(sequence.sampling.seed, sequence.choice, tokens)
            wrong = self._wrong_in and digest(9, 9, tokens) % self._wrong_in == 0
            tokens.append((token + 1) % VOCAB if wrong else token)
        return tokens[sequence.num_tokens :]


def make_speculation(num_tokens: int = 4, wrong_in: int = 3, **rest) -> Speculation:
    return Speculation(Guesser(wrong_in), num_tokens, allowed=lambda _, guesses: len(guesses), **rest)


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """What the tests of the scheduler are made with."""
    return SimpleNamespace(
        Driver=Driver,
        limits=make_limits,
        request=make_request,
        undisturbed=undisturbed,
        undisturbed_beams=undisturbed_beams,
        drive=lambda speculation=None, **changes: Driver(make_limits(**changes), speculation),
        speculation=make_speculation,
        sampled=lambda *token_ids: Sampled(list(token_ids), [None] * len(token_ids)),
    )
