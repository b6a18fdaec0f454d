"""What workers say of themselves: whether they are idle, and whether their memory is free again."""

from eventually import eventually

from headrace_shared.queue.presence import Presence, WorkerState


async def worker_states(presence: Presence) -> list[WorkerState]:
    return [worker for model in (await presence.fleet()).models for worker in model.workers]


async def until_running(presence: Presence, count: int, within_s: float = 10.0) -> None:
    """Until all workers together say that so many sequences run."""

    async def met() -> bool:
        return sum(state.running for state in await worker_states(presence)) == count

    await eventually(met, within_s)


async def until_free(presence: Presence, within_s: float = 5.0) -> None:
    """Until no worker runs or keeps anything: no sequence, no block."""

    async def met() -> bool:
        states = await worker_states(presence)
        return bool(states) and all(
            state.running == state.waiting == 0 and state.kv_blocks_free == state.kv_blocks_total for state in states
        )

    await eventually(met, within_s)
