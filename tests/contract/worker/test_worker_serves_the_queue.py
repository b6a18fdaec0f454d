"""A real worker process with the simulated engine, seen from the queue."""

import asyncio

import pytest
from queue_client import answers, generate_job, queue_client
from worker_process import card_of_fleet, workers

from headrace_shared.errors import ErrorCode
from headrace_shared.protocol.event import Delta, Failed, Finished, FinishReason, PromptScored, Started
from headrace_shared.protocol.grammar import GrammarKind, GrammarSpec
from headrace_shared.protocol.sampling import BeamSpec


async def test_a_request_is_answered_from_started_to_finished_with_its_usage(valkey_url: str) -> None:
    with workers(valkey_url, 1):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            events = await client.run(generate_job(card.queue, "r1", max_tokens=10, ignore_eos=True))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert (events[-1].prompt_tokens, events[-1].completion_tokens) == (40, 10)
    text, ids, ending = answers(events)[0]
    assert len(ids) == 10
    assert ending is FinishReason.LENGTH
    assert len(text) == 10 * len(" word")


async def test_choices_and_requests_are_answered_side_by_side_and_independently(valkey_url: str) -> None:
    with workers(valkey_url, 2):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 2)
            alone = await client.run(generate_job(card.queue, "same-seed-a", seed=7, n=3))
            jobs = [generate_job(card.queue, f"m{i}", n=2) for i in range(40)]
            crowd = await asyncio.gather(
                *(client.run(job) for job in jobs),
                client.run(generate_job(card.queue, "same-seed-b", seed=7, n=3)),
            )
    assert answers(crowd[-1]) == answers(alone)
    assert all(isinstance(events[-1], Finished) and len(answers(events)) == 2 for events in crowd[:-1])


async def test_a_stop_string_ends_generation_in_the_engine_and_frees_its_room(valkey_url: str) -> None:
    with workers(valkey_url, 1):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            whole, _, _ = answers(await client.run(generate_job(card.queue, "free", seed=3, ignore_eos=True)))[0]
            stop = whole[20:23]
            cut, _, ending = answers(await client.run(generate_job(card.queue, "cut", seed=3, stop=(stop,))))[0]
            await _until_idle(client, card.name)
    assert cut == whole[: whole.index(stop)]
    assert ending is FinishReason.STOP


async def test_prompt_logprobs_come_once_before_the_first_token(valkey_url: str) -> None:
    with workers(valkey_url, 1, max_num_batched_tokens=16, max_num_seqs=8):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            events = await client.run(generate_job(card.queue, "scored", prompt_logprobs=2, logprobs=1, max_tokens=3))
    scored = [index for index, event in enumerate(events) if isinstance(event, PromptScored)]
    first_delta = next(index for index, event in enumerate(events) if isinstance(event, Delta))
    assert len(scored) == 1
    assert scored[0] < first_delta
    entries = events[scored[0]].entries  # type: ignore[union-attr]
    assert len(entries) == 40
    assert entries[0] is None
    assert all(len(entry.top) == 2 for entry in entries[1:] if entry)


async def test_a_beam_search_is_told_at_its_end_in_one_frame(valkey_url: str) -> None:
    with workers(valkey_url, 1):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            fields = {"beams": BeamSpec(5), "n": 2, "max_tokens": 9, "logprobs": 0, "prompt_logprobs": 0}
            job = generate_job(card.queue, "beams", **fields)
            stream = await client.hub.open(card.queue, "beams")
            await client.queue.enqueue(job)
            frames = [frame async for frame in stream]
            await _until_idle(client, card.name)
    *before, last = frames
    assert [type(event) for frame in before for event in frame] in ([], [Started])
    assert [type(event) for event in last if not isinstance(event, Started)] == [PromptScored, Delta, Delta, Finished]
    first, second = (event for event in last if isinstance(event, Delta))
    assert [first.choice, second.choice] == [0, 1]
    assert first.token_ids != second.token_ids
    assert len(first.token_ids) == len(first.logprobs or ()) == 9
    assert last[-1].completion_tokens == 18


@pytest.mark.parametrize("fields", [{}, {"beams": BeamSpec(4), "n": 4}])
async def test_a_cancelled_request_ends_at_once_and_frees_its_blocks(
    valkey_url: str, fields: dict[str, object]
) -> None:
    with workers(valkey_url, 1, simulated_step_ms=20):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            job = generate_job(card.queue, "long", max_tokens=4000, ignore_eos=True, **fields)
            running = asyncio.create_task(client.run(job))
            await asyncio.sleep(0.3)
            await client.queue.cancel(card.queue, "long", "test")
            async with asyncio.timeout(2):
                events = await running
            await _until_idle(client, card.name)
    assert isinstance(events[-1], Failed)
    assert events[-1].code is ErrorCode.CANCELLED


async def test_a_prompt_that_no_block_table_can_hold_is_answered_with_an_error(valkey_url: str) -> None:
    with workers(valkey_url, 1, max_model_len=64):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            events = await client.run(generate_job(card.queue, "big", prompt_tokens=100))
    assert isinstance(events[-1], Failed)
    assert "100 tokens" in events[-1].message


async def test_lower_priority_numbers_overtake_in_a_backlog(valkey_url: str) -> None:
    with workers(valkey_url, 1, max_num_seqs=1, max_num_batched_tokens=64):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            order: list[str] = []

            async def run(name: str, priority: int) -> None:
                await client.run(generate_job(card.queue, name, priority=priority, max_tokens=20, ignore_eos=True))
                order.append(name)

            first = asyncio.create_task(run("first", 0))
            await asyncio.sleep(0.02)
            await asyncio.gather(first, run("late", 10), run("normal", 0), run("urgent", -5))
    # The running one may be displaced by the urgent one, but never by the others.
    assert order.index("urgent") < order.index("normal") < order.index("late")


async def _until_idle(client: object, name: str) -> None:
    async with asyncio.timeout(5):
        while True:
            fleet = await client.presence.fleet()  # type: ignore[attr-defined]
            states = [worker for model in fleet.models if model.card.name == name for worker in model.workers]
            if all(state.running == 0 and state.waiting == 0 for state in states):
                return
            await asyncio.sleep(0.05)


async def test_the_simulated_engine_refuses_a_grammar(valkey_url: str) -> None:
    with workers(valkey_url, 1):
        async with queue_client(valkey_url) as client:
            card = await card_of_fleet(client.presence, 1)
            events = await client.run(generate_job(card.queue, "g", grammar=GrammarSpec(GrammarKind.REGEX, "a")))
    assert card.grammar_backends == ()
    assert isinstance(events[-1], Failed)
    assert events[-1].code is ErrorCode.INVALID_REQUEST
