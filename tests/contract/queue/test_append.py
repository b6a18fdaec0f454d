"""The token log: numbered, fenced, said once."""

from queue_traffic import QUEUE, MakeWorker, finish, make_job, positions, speak, token
from redis.asyncio import Redis

from headrace_shared.protocol.codec import encode_frame
from headrace_shared.queue import keys
from headrace_shared.queue.claims import AppendStatus, Claim, FrameOut, WorkerQueue
from headrace_shared.queue.requests import RequestQueue
from headrace_shared.queue.token_log import TokenLog

ALL = 10**9


async def claim_one(requests: RequestQueue, worker: WorkerQueue, request_id: str = "r") -> Claim:
    await requests.enqueue(make_job(request_id))
    [claim] = await worker.claim(1, ALL)
    return claim


async def statuses(worker: WorkerQueue, claim: Claim, *seqs: int) -> list[AppendStatus]:
    frames = [FrameOut(claim.request_id, claim.epoch, seq, [token(seq)]) for seq in seqs]
    return [answer.status for answer in await worker.append(frames)]


async def test_frames_of_a_step_are_logged_in_order(redis: Redis, requests: RequestQueue, worker: WorkerQueue) -> None:
    claim = await claim_one(requests, worker)
    answers = await speak(worker, claim, 0, 1, 2)
    assert [(a.status, a.seq, a.receivers) for a in answers] == [(AppendStatus.OK, seq, 0) for seq in (1, 2, 3)]
    assert await TokenLog(redis).frames(QUEUE, "r") == [encode_frame([token(p)]) for p in (0, 1, 2)]


async def test_a_repeated_frame_is_said_once(redis: Redis, requests: RequestQueue, worker: WorkerQueue) -> None:
    claim = await claim_one(requests, worker)
    assert await statuses(worker, claim, 1, 2) == [AppendStatus.OK] * 2
    assert await statuses(worker, claim, 1, 2, 3) == [AppendStatus.DUPLICATE, AppendStatus.DUPLICATE, AppendStatus.OK]
    assert len(await TokenLog(redis).frames(QUEUE, "r")) == 3


async def test_a_gap_is_refused_and_names_where_to_go_on(requests: RequestQueue, worker: WorkerQueue) -> None:
    claim = await claim_one(requests, worker)
    await statuses(worker, claim, 1)
    [answer] = await speak(worker, claim, 9, first_seq=3)
    assert (answer.status, answer.seq) == (AppendStatus.GAP, 1)


async def test_another_epoch_another_worker_or_an_unknown_request_is_fenced(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue, make_worker: MakeWorker
) -> None:
    claim = await claim_one(requests, worker)
    wrong = [
        (worker, FrameOut("r", claim.epoch + 1, 1, [token(0)])),
        (worker, FrameOut("r", claim.epoch - 1, 1, [token(0)])),
        (make_worker("other"), FrameOut("r", claim.epoch, 1, [token(0)])),
        (worker, FrameOut("unknown", 1, 1, [token(0)])),
    ]
    for speaker, frame in wrong:
        [answer] = await speaker.append([frame])
        assert answer.status is AppendStatus.FENCED
    assert await TokenLog(redis).frames(QUEUE, "r") == []


async def test_the_final_frame_ends_everything_at_once(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    claim = await claim_one(requests, worker)
    await speak(worker, claim, 0)
    assert (await finish(worker, claim, 2)).status is AppendStatus.OK
    assert (await finish(worker, claim, 2)).status is AppendStatus.DUPLICATE
    assert await statuses(worker, claim, 3) == [AppendStatus.FENCED]
    assert (await requests.depth(QUEUE)).running == 0
    assert await redis.exists(f"{keys.base(QUEUE)}body:r") == 0


async def test_after_the_last_request_only_keys_with_a_lifetime_and_the_worker_are_left(
    redis: Redis, requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(30):
        await requests.enqueue(make_job(f"r{number}", priority=number % 3, tenant=f"t{number % 4}"))
    await requests.cancel(QUEUE, "r7", "changed my mind")
    for claim in await worker.claim(100, ALL):
        await finish(worker, claim, 1)
    assert await worker.release() == 0
    base = keys.base(QUEUE)
    left = {key.decode().removeprefix(base) for key in await redis.keys("*") if await redis.pttl(key) == -1}
    assert left == {"cnt"}
    assert {int(count) for count in await redis.hvals(keys.counters(QUEUE))} == {0}  # type: ignore[misc]
    assert 590_000 < await redis.pttl(keys.token_log(QUEUE, "r1")) <= 600_000
    assert 590_000 < await redis.pttl(keys.request(QUEUE, "r7")) <= 600_000


async def test_a_batch_larger_than_one_call_keeps_its_answers_in_order(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    for number in range(150):
        await requests.enqueue(make_job(f"r{number}"))
    claims = await worker.claim(150, ALL)
    frames = [FrameOut(c.request_id, c.epoch, seq, [token(seq)]) for c in claims for seq in (1, 2)]
    frames[70] = FrameOut(frames[70].request_id, 99, 1, [token(1)])
    answers = await worker.append(frames)
    assert [i for i, a in enumerate(answers) if a.status is AppendStatus.FENCED] == [70]
    assert [i for i, a in enumerate(answers) if a.status is AppendStatus.GAP] == [71]
    assert sum(a.status is AppendStatus.OK for a in answers) == 298


async def test_a_claim_repeats_frames_of_earlier_attempts_as_events(
    requests: RequestQueue, worker: WorkerQueue
) -> None:
    claim = await claim_one(requests, worker)
    await speak(worker, claim, *range(600))
    assert await worker.release() == 1
    [again] = await worker.claim(1, ALL)
    assert (again.attempt, again.seq) == (2, 600)
    assert again.epoch > claim.epoch
    assert positions(again.log) == list(range(600))
