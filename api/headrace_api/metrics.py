"""What an API process counts and measures, declared once; ``GET /metrics`` prints it."""

from prometheus_client import CollectorRegistry

from headrace_shared.telemetry.buckets import (
    BETWEEN_TOKENS_S,
    CHOICES,
    FIRST_TOKEN_S,
    HTTP_COARSE_S,
    HTTP_FINE_S,
    REQUEST_S,
    WAIT_S,
    tokens_up_to,
)
from headrace_shared.telemetry.queue_metrics import ProcessMetrics
from headrace_shared.telemetry.series import ENGINE, MODEL, Counted, Level, Observed, ObservedCount, Spread, Totalled


class Metrics(ProcessMetrics):
    """The instruments of one process, in a registry of their own."""

    http_requests = Counted(
        "http_requests",
        "HTTP requests answered, by route and class of status; probes, scrapes and the console's events are left out.",
        ("handler", "method", "status"),
    )
    http_duration = Spread(
        "http_request_duration_seconds",
        "From the request's head to the answer's last byte.",
        ("handler", "method"),
        buckets=HTTP_COARSE_S,
    )
    http_duration_fine = Spread(
        "http_request_duration_highr_seconds", "The same for all routes together, in fine steps.", buckets=HTTP_FINE_S
    )
    http_request_bytes = Totalled("http_request_size_bytes", "Bodies received.", ("handler",))
    http_response_bytes = Totalled("http_response_size_bytes", "Bodies sent.", ("handler",))

    time_to_first_token = Spread(
        "vllm:time_to_first_token_seconds",
        "From the request's arrival to its first token: template, tokenizer, queue and prefill included.",
        ENGINE,
        buckets=FIRST_TOKEN_S,
    )
    inter_token = Spread(
        "vllm:inter_token_latency_seconds",
        "Between two deltas of one choice.",
        ENGINE,
        buckets=BETWEEN_TOKENS_S,
        also="vllm:time_per_output_token_seconds",
    )
    mean_inter_token = Spread(
        "vllm:request_time_per_output_token_seconds",
        "The same as a mean over each request.",
        ENGINE,
        buckets=BETWEEN_TOKENS_S,
    )
    end_to_end = Spread(
        "vllm:e2e_request_latency_seconds", "From the request's arrival to its last token.", ENGINE, buckets=REQUEST_S
    )
    params_n = Spread("vllm:request_params_n", "Choices asked for.", ENGINE, buckets=CHOICES)
    params_max_tokens = Spread(
        "vllm:request_params_max_tokens",
        "Most tokens of an answer, after all limits were applied.",
        ENGINE,
        buckets=tokens_up_to(),
    )
    rejections = Counted(
        "vllm:admission_rejections",
        "Requests that were well-formed but not taken in, by the error's code.",
        ("model_name", "reason"),
    )
    tool_parsers = Counted(
        "vllm:tool_call_parser_invocations",
        "Answers that were read for calls: with mode streaming their pieces, else choices. outcome: tool_call, "
        "no_tool_call; request_type: chat_completions, responses, other.",
        ("model_name", "mode", "outcome", "request_type"),
    )

    generations = Counted(
        "headrace:api_requests",
        "Generation requests that left this process, by how they ended: finished, cancelled, or an error's code.",
        ("model_name", "outcome"),
    )
    in_flight = Level("headrace:api_requests_in_flight", "Generation requests waiting or running.", MODEL)
    phases = Spread(
        "headrace:request_phase_seconds",
        "Parts of the time to the first token: prepare (template, tokens), enqueue, queue, prefill.",
        ("model_name", "phase"),
        buckets=WAIT_S,
    )
    resumed = Counted(
        "headrace:api_continuations", "Times that another worker went on with a request under a client's eyes.", MODEL
    )
    sse_clients = Level("headrace:sse_clients", "Clients that a stream is open to.")
    cancellations = Counted(
        "headrace:cancellations",
        "Requests cancelled by phase: API nodes count queued, workers waiting, prefill and decode.",
        ("phase",),
    )

    redis_up = Observed("headrace:redis_up", "1 while Redis answers this process.")
    script_calls = ObservedCount(
        "headrace:redis_script_calls", "Scripts that Redis has run since its start, as it tells itself."
    )
    script_seconds = ObservedCount(
        "headrace:redis_script_seconds",
        "Time that Redis was busy with them: near 1 per second and primary it is the bottleneck.",
    )
    models = Observed("headrace:models", "Models that can be asked for.")
    card_conflicts = Observed(
        "headrace:model_card_conflicts", "Model names that workers announce with different cards."
    )
    workers = Observed("headrace:workers", "Workers that hold a lease, by their state.", ("model_name", "state"))
    slots = Observed("headrace:model_slots", "Sequences that all workers together can run.", MODEL)
    queued_requests = Observed("headrace:queue_requests", "Requests waiting in the queue.", MODEL)
    queued_tokens = Observed("headrace:queue_tokens", "Context tokens that the waiting requests need.", MODEL)
    queued_by_priority = Observed(
        "headrace:queue_priority_requests",
        "Requests waiting, by band of priorities; lower goes first.",
        ("model_name", "priority"),
    )
    tokens_by_priority = Observed(
        "headrace:queue_priority_tokens",
        "Context tokens that they need.",
        ("model_name", "priority"),
    )
    queued_by_tenant = Observed(
        "headrace:queue_tenant_requests",
        "Requests waiting of the tenants with most of them; the rest is other.",
        ("model_name", "tenant"),
    )
    tokens_by_tenant = Observed(
        "headrace:queue_tenant_tokens", "Context tokens that they need.", ("model_name", "tenant")
    )
    queue_running = Observed("headrace:queue_running", "Requests that workers hold.", MODEL)
    queue_oldest = Observed("headrace:queue_oldest_seconds", "Age of the request that waits longest.", MODEL)
    drain_rate = Observed(
        "headrace:queue_tokens_per_second",
        "Rate of late at which the queue drains, of all workers together; 0: nothing is known.",
        MODEL,
    )
    dead_letters = Observed("headrace:dead_letters", "Requests that were given up and are kept.", MODEL)
    desired_workers = Observed(
        "headrace:desired_workers", "The autoscale signal: workers that would drain the queue in time.", MODEL
    )

    open_batches = Observed("headrace:batches_open", "Batches that are not done.")
    ended_batches = ObservedCount("headrace:batches", "Batches that have ended, by their last status.", ("status",))
    batch_items = ObservedCount(
        "headrace:batch_items", "Items of batches that have a result: completed or failed.", ("outcome",)
    )
    batch_tokens = ObservedCount(
        "headrace:batch_tokens",
        "Tokens of those items: input, cached (of the input), output, reasoning (of the output).",
        ("kind",),
    )
    webhook_deliveries = ObservedCount(
        "headrace:webhook_deliveries",
        "Attempts to tell the end of a batch: delivered, failed (tried again), given_up (for the last time).",
        ("outcome",),
    )

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry)

    def generations_in_hand(self) -> int:
        """Generation requests waiting or running, of all models."""
        return sum(int(sample.value) for family in self.in_flight.collect() for sample in family.samples)
