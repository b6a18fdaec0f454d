"""What the process knows, as rows of the console."""

from headrace_api.fleet_view import ModelView
from headrace_api.schemas.console import DeadLetterRow, LaneRow, ModelRow, RequestRow, WorkerRow
from headrace_api.timeline import Past
from headrace_shared.queue.dead_letters import DeadLetter
from headrace_shared.queue.presence import WorkerState


def model_row(model: ModelView) -> ModelRow:
    """Of one model."""
    backlog = model.backlog
    return ModelRow(
        name=model.name,
        up=model.up,
        queue=model.queue,
        slots=model.slots,
        queued_requests=backlog.queued_requests,
        queued_tokens=backlog.queued_tokens,
        running=backlog.running,
        oldest_ms=backlog.oldest_ms,
        drain_tokens_per_s=backlog.tokens_per_s,
        desired_workers=model.desired_workers,
        dead_letters=model.dead_letters,
        lanes=[
            LaneRow(priority=priority, requests=lane.requests, tokens=lane.tokens, oldest_ms=lane.oldest_ms)
            for priority, lane in sorted(model.by_priority.items())
            if lane.requests
        ],
        workers=[_worker_row(worker, model.leases_ms.get(worker.worker_id)) for worker in model.workers],
    )


def _worker_row(worker: WorkerState, lease_ms: int | None) -> WorkerRow:
    return WorkerRow(
        id=worker.worker_id,
        state=worker.state,
        host=worker.host,
        started_ms=worker.started_ms,
        lease_ms=lease_ms,
        kv_blocks_total=worker.kv_blocks_total,
        kv_blocks_free=worker.kv_blocks_free,
        running=worker.running,
        waiting=worker.waiting,
        max_num_seqs=worker.max_num_seqs,
        tokens_per_s=round(worker.tokens_per_s, 1),
        step_ms=round(worker.step_ms, 2),
        prefix_hit_rate=round(worker.prefix_hit_rate, 4),
    )


def request_row(past: Past) -> RequestRow:
    """Of one request."""
    return RequestRow(
        id=past.request_id,
        endpoint=past.endpoint,
        model=past.model,
        tenant=past.tenant,
        priority=past.priority,
        arrived_ms=past.arrived_ms,
        prepared_ms=past.prepared_ms,
        enqueued_ms=past.enqueued_ms,
        queue_ms=past.queue_ms,
        first_token_ms=past.first_token_ms,
        ended_ms=past.ended_ms,
        attempts=past.attempts,
        prompt_tokens=past.prompt_tokens,
        completion_tokens=past.completion_tokens,
        outcome=past.outcome,
    )


def dead_letter_row(queue: str, letter: DeadLetter) -> DeadLetterRow:
    """Of one request that was given up; what it said and was asked stays where it is."""
    return DeadLetterRow(
        queue=queue,
        id=letter.entry_id,
        request_id=letter.request_id,
        tenant=letter.job.header.tenant if letter.job is not None else "-",
        worker=letter.worker,
        lost=letter.lost,
        died_ms=letter.died_ms,
    )
