"""What a worker counts and measures, declared once; its ``/metrics`` prints it."""

from prometheus_client import CollectorRegistry

from headrace_shared.clock import mono_s
from headrace_shared.telemetry.buckets import (
    PREEMPTIONS,
    RATIO,
    REQUEST_S,
    SEQUENCES,
    STEP_S,
    STEP_TOKENS,
    WAIT_S,
    tokens_up_to,
)
from headrace_shared.telemetry.queue_metrics import ProcessMetrics
from headrace_shared.telemetry.series import ENGINE, MODEL, THE_ENGINE, Counted, Observed, ObservedCount, Spread
from headrace_worker.engine.generate import StepFacts

_RENEWING = ("append", "claim", "renew")
CACHE_LABELS = (
    *ENGINE,
    "block_size",
    "num_gpu_blocks",
    "cache_dtype",
    "enable_prefix_caching",
    "gpu_memory_utilization",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
)


class WorkerMetrics(ProcessMetrics):
    """The instruments of one worker, in a registry of their own."""

    running = Observed("vllm:num_requests_running", "Sequences in the batch.", ENGINE)
    waiting = Observed(
        "vllm:num_requests_waiting",
        "Sequences waiting in this worker, and its equal share of the requests waiting in the model's queue: the sum "
        "over all workers is all that waits.",
        ENGINE,
    )
    waiting_by_reason = Observed(
        "vllm:num_requests_waiting_by_reason",
        "The same by reason: capacity (a place in a batch), deferred (a grammar or processor is being prepared).",
        (*ENGINE, "reason"),
    )
    own_waiting = Observed(
        "headrace:worker_waiting", "Sequences waiting in this worker, preempted ones included.", MODEL
    )
    background = Observed(
        "headrace:background_sequences",
        "Background sequences in this worker: running (in the latest step), paused (waiting for time that others leave).",
        ("model_name", "state"),
    )
    given_up = ObservedCount(
        "headrace:steps_given_up", "Steps of background requests that were given up when somebody else came.", MODEL
    )
    kv_usage = Observed(
        "vllm:kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.", ENGINE, also="vllm:gpu_cache_usage_perc"
    )
    kv_blocks = Observed(
        "headrace:kv_blocks",
        "KV blocks by state: used, cached (free, but can be found), blank.",
        ("model_name", "state"),
    )
    swapped = Observed(
        "vllm:num_requests_swapped", "Waiting sequences of which KV blocks are in the swap space.", ENGINE
    )
    swap_usage = Observed("vllm:cpu_cache_usage_perc", "Share of the swap space in use, 0 to 1.", ENGINE)
    cache_config = Observed(
        "vllm:cache_config_info", "1; the cache's and the scheduler's settings are labels.", CACHE_LABELS
    )
    preemptions = ObservedCount("vllm:num_preemptions", "Sequences that lost their blocks to more urgent ones.", ENGINE)
    prefix_queries = ObservedCount("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache.", ENGINE)
    prefix_hits = ObservedCount("vllm:prefix_cache_hits", "Tokens found there.", ENGINE)
    prefix_block_queries = ObservedCount(
        "vllm:gpu_prefix_cache_queries", "The same in blocks, as older dashboards want it.", ENGINE
    )
    prefix_block_hits = ObservedCount("vllm:gpu_prefix_cache_hits", "Blocks found there.", ENGINE)
    drafts = ObservedCount("vllm:spec_decode_num_drafts", "Times that a sequence had guessed tokens in a step.", ENGINE)
    draft_tokens = ObservedCount("vllm:spec_decode_num_draft_tokens", "Tokens guessed and computed.", ENGINE)
    accepted_tokens = ObservedCount("vllm:spec_decode_num_accepted_tokens", "Those that were right.", ENGINE)
    accepted_per_position = ObservedCount(
        "vllm:spec_decode_num_accepted_tokens_per_pos",
        "The same by their place among the guesses of a step, from 0.",
        (*ENGINE, "position"),
    )

    prompt_tokens = Counted("vllm:prompt_tokens", "Prompt tokens of requests whose prefill is done.", ENGINE)
    prompt_tokens_by_source = Counted(
        "vllm:prompt_tokens_by_source",
        "The same by where their keys and values came from: local_compute, local_cache_hit.",
        (*ENGINE, "source"),
    )
    prompt_tokens_cached = Counted("vllm:prompt_tokens_cached", "Those that came from the prefix cache.", ENGINE)
    generation_tokens = Counted("vllm:generation_tokens", "Tokens generated.", ENGINE)
    successes = Counted(
        "vllm:request_success", "Choices that ended, by why: stop, length, abort, error.", (*ENGINE, "finished_reason")
    )
    step_tokens = Spread("vllm:iteration_tokens_total", "Tokens computed in a step.", ENGINE, buckets=STEP_TOKENS)
    request_prompt_tokens = Spread(
        "vllm:request_prompt_tokens", "Prompt tokens of a request.", ENGINE, buckets=tokens_up_to()
    )
    request_generation_tokens = Spread(
        "vllm:request_generation_tokens", "Tokens generated for a request.", ENGINE, buckets=tokens_up_to()
    )
    request_max_generation_tokens = Spread(
        "vllm:request_max_num_generation_tokens",
        "Tokens of its longest choice that a request was allowed to have.",
        ENGINE,
        buckets=tokens_up_to(),
    )
    request_computed_tokens = Spread(
        "vllm:request_prefill_kv_computed_tokens",
        "Prompt tokens of a request that were not cached.",
        ENGINE,
        buckets=tokens_up_to(),
    )
    request_preemptions = Spread(
        "vllm:request_num_preemptions", "How often a request was preempted.", ENGINE, buckets=PREEMPTIONS
    )
    queue_time = Spread(
        "vllm:request_queue_time_seconds",
        "From the queue's entry to the first step: the wait in the queue and that in the worker.",
        ENGINE,
        buckets=REQUEST_S,
    )
    prefill_time = Spread(
        "vllm:request_prefill_time_seconds", "From the first step to the first token.", ENGINE, buckets=REQUEST_S
    )
    decode_time = Spread(
        "vllm:request_decode_time_seconds", "From the first token to the last one.", ENGINE, buckets=REQUEST_S
    )
    inference_time = Spread(
        "vllm:request_inference_time_seconds", "From the first step to the last token.", ENGINE, buckets=REQUEST_S
    )

    claim_latency = Spread(
        "headrace:claim_latency_seconds",
        "From the queue's entry to a worker's claim, by Redis' clock alone.",
        MODEL,
        buckets=WAIT_S,
    )
    worker_wait = Spread("headrace:worker_wait_seconds", "From the claim to the first step.", MODEL, buckets=WAIT_S)
    step_parts = Spread(
        "headrace:step_seconds",
        "Parts of a step: plan, execute (inputs, model, sampling), forward (the model alone), commit, handover (to the "
        "event loop).",
        ("model_name", "part"),
        buckets=STEP_S,
    )
    step_surprise = Spread(
        "headrace:step_time_ratio",
        "What a step took, by what was expected of one of its size: 1 is as expected.",
        MODEL,
        buckets=RATIO,
    )
    batch = Spread("headrace:step_sequences", "Sequences in a step's batch.", MODEL, buckets=SEQUENCES)
    cancellations = Counted(
        "headrace:cancellations",
        "Requests cancelled by phase: API nodes count queued, workers waiting, prefill and decode.",
        ("phase",),
    )
    outcomes = Counted(
        "headrace:attempts",
        "Attempts at requests by how they ended: finished, handed over, fenced, claimed again, or an error's code.",
        ("model_name", "outcome"),
    )
    lease_age = Observed(
        "headrace:lease_age_seconds",
        "Time since Redis renewed this worker's lease; beyond the lease others take over its requests.",
        MODEL,
    )
    lease = Observed("headrace:lease_seconds", "How long the lease lasts.", MODEL)

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry)
        self.lease_renewed_s = mono_s()

    def called(self, operation: str, seconds: float, *, failed: bool) -> None:
        super().called(operation, seconds, failed=failed)
        if operation in _RENEWING and not failed:
            self.lease_renewed_s = mono_s()


class StepTallies:
    """What is counted of every step, its labels looked up once."""

    def __init__(self, metrics: WorkerMetrics, model: str) -> None:
        self._plan, self._execute, self._commit, self._handover, self._forward = (
            metrics.step_parts.labels(model, part) for part in ("plan", "execute", "commit", "handover", "forward")
        )
        self._surprise = metrics.step_surprise.labels(model)
        self._tokens = metrics.step_tokens.labels(model, THE_ENGINE)
        self._sequences = metrics.batch.labels(model)
        self._generated = metrics.generation_tokens.labels(model, THE_ENGINE)

    def count(self, facts: StepFacts, generated: int, now_s: float) -> None:
        """``generated``: tokens that it brought; ``now_s``: when the event loop learnt of it."""
        self._plan.observe(facts.planned_s - facts.begun_s)
        self._execute.observe(facts.executed_s - facts.planned_s)
        self._commit.observe(facts.ended_s - facts.executed_s)
        self._handover.observe(now_s - facts.ended_s)
        if facts.forward_s:
            self._forward.observe(facts.forward_s)
        if facts.expected_s:
            self._surprise.observe((facts.ended_s - facts.begun_s) / facts.expected_s)
        self._tokens.observe(facts.tokens)
        self._sequences.observe(facts.sequences)
        self._generated.inc(generated)
