"""Writes the Grafana dashboards beside this file: ``python observability/dashboards/generate.py``.

With ``--check`` nothing is written; the exit status is 1 when a dashboard is not what this file says. What is shown is
the data in BOARDS; tests hold its queries to the series that the processes really have.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MODEL = 'model_name=~"$model_name"'
RATE = "$__rate_interval"
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3


@dataclass(frozen=True)
class Query:
    """``legend`` names each line by its labels."""

    expr: str
    legend: str = ""
    source: str = "prometheus"


@dataclass(frozen=True)
class Panel:
    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    text: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class Board:
    """``rows``: titles and their panels, from top to bottom."""

    name: str
    title: str
    rows: dict[str, tuple[Panel, ...]]
    traces: bool = False


def rate(series: str, by: str = "", labels: str = MODEL, *, rare: bool = False) -> str:
    """Events per second. ``rare``: zero is told where nothing has happened yet."""
    grouped = f" by ({by})" if by else ""
    total = f"sum{grouped} (rate({series}{{{labels}}}[{RATE}]))"
    return f"{total} or vector(0)" if rare else total


def quantiles(series: str, labels: str = MODEL) -> tuple[Query, ...]:
    """The median and the slow end of a histogram."""
    return tuple(
        Query(f"histogram_quantile({q}, sum by (le) (rate({series}_bucket{{{labels}}}[{RATE}])))", f"p{round(q * 100)}")
        for q in (0.5, 0.95, 0.99)
    )


def mean(series: str, by: str, labels: str = MODEL) -> str:
    """A histogram's mean."""
    total, count = (f"sum by ({by}) (rate({series}_{end}{{{labels}}}[{RATE}]))" for end in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def level(series: str, by: str = "model_name", how: str = "max", labels: str = MODEL) -> str:
    """What all API nodes tell alike (max), or each worker of itself (sum)."""
    return f"{how} by ({by}) ({series}{{{labels}}})"


def lines(title: str, expr: str, legend: str, unit: str = "short", **options: Any) -> Panel:
    return Panel(title, (Query(expr, legend),), unit, **options)


def spread(title: str, series: str, text: str = "", labels: str = MODEL) -> Panel:
    return Panel(title, quantiles(series, labels), "s", text=text)


OVERVIEW = Board(
    "overview",
    "Headrace: overview",
    {
        "Now": (
            lines("Workers", level("headrace:workers", "model_name, state"), "{{model_name}} {{state}}", kind="stat"),
            lines("Waiting requests", level("headrace:queue_requests"), "{{model_name}}", kind="stat"),
            lines("Redis", "min(headrace:redis_up)", "reachable from every node", kind="stat"),
        ),
        "Clients": (
            spread("Time to first token", "vllm:time_to_first_token_seconds"),
            spread("Time between tokens", "vllm:inter_token_latency_seconds"),
            spread("End to end", "vllm:e2e_request_latency_seconds"),
            lines("Requests by outcome", rate("headrace:api_requests_total", "outcome"), "{{outcome}}", "reqps"),
            lines("Rejected", rate("vllm:admission_rejections_total", "reason", rare=True), "{{reason}}", "reqps"),
            lines(
                "HTTP answers", rate("http_requests_total", "status", labels=""), "{{status}}", "reqps", stacked=True
            ),
        ),
        "Work": (
            Panel(
                "Tokens",
                (
                    Query(rate("vllm:prompt_tokens_total"), "prompt"),
                    Query(rate("vllm:generation_tokens_total"), "generated"),
                ),
                "tps",
            ),
            Panel(
                "Running and waiting",
                (
                    Query(level("vllm:num_requests_running", how="sum"), "{{model_name}} running"),
                    Query(level("vllm:num_requests_waiting", how="sum"), "{{model_name}} waiting"),
                ),
            ),
            Panel(
                "Workers and how many there should be",
                (
                    Query(
                        level("headrace:workers", "model_name", labels=f'{MODEL}, state="ready"'),
                        "{{model_name}} ready",
                    ),
                    Query(level("headrace:desired_workers"), "{{model_name}} desired"),
                ),
            ),
        ),
    },
)

QUEUE = Board(
    "queue",
    "Headrace: queue",
    {
        "What waits": (
            lines("Requests by model", level("headrace:queue_requests"), "{{model_name}}"),
            lines("Tokens by model", level("headrace:queue_tokens"), "{{model_name}}"),
            lines("Age of the oldest", level("headrace:queue_oldest_seconds"), "{{model_name}}", "s"),
            lines(
                "Requests by priority",
                f"{level('headrace:queue_priority_requests', 'priority')} or vector(0)",
                "{{priority}}",
                stacked=True,
            ),
            lines(
                "Tokens by priority",
                f"{level('headrace:queue_priority_tokens', 'priority')} or vector(0)",
                "{{priority}}",
                stacked=True,
            ),
            lines(
                "Requests by tenant",
                f"{level('headrace:queue_tenant_requests', 'tenant')} or vector(0)",
                "{{tenant}}",
                stacked=True,
            ),
            lines(
                "Tokens by tenant",
                f"{level('headrace:queue_tenant_tokens', 'tenant')} or vector(0)",
                "{{tenant}}",
                stacked=True,
            ),
        ),
        "How it moves": (
            spread("Wait until claimed", "headrace:claim_latency_seconds", "By Redis' clock."),
            lines("Drain rate", level("headrace:queue_tokens_per_second"), "{{model_name}}", "tps"),
            lines("Claims", rate("headrace:claimed_requests_total", "instance", labels=""), "{{instance}}", "reqps"),
            lines("Running", level("headrace:queue_running"), "{{model_name}}"),
            lines("Workers wanted", level("headrace:desired_workers"), "{{model_name}}"),
        ),
        "What went wrong": (
            lines("Continuations", rate("headrace:continuations_total", labels="", rare=True), "continued", "reqps"),
            lines(
                "Continuations that clients lived through",
                rate("headrace:api_continuations_total", rare=True),
                "continued",
                "reqps",
            ),
            lines(
                "Put back from dead workers", rate("headrace:requests_requeued_total", labels=""), "requests", "reqps"
            ),
            lines(
                "Frames by the log's answer", rate("headrace:frames_appended_total", "status", labels=""), "{{status}}"
            ),
            lines("Log reads", rate("headrace:stream_log_reads_total", "why", labels="", rare=True), "{{why}}"),
            lines("Frames that came twice", rate("headrace:stream_frames_ignored_total", labels=""), "frames"),
            lines(
                "Cancelled by phase", rate("headrace:cancellations_total", "phase", labels="", rare=True), "{{phase}}"
            ),
            lines("Dead letters", level("headrace:dead_letters"), "{{model_name}}"),
        ),
        "Batches": (
            lines("Not done", "max(headrace:batches_open)", "batches"),
            lines(
                "Items with a result",
                "max by (outcome) (rate(headrace:batch_items_total[$__rate_interval]))",
                "{{outcome}}",
            ),
            lines("Tokens", "max by (kind) (rate(headrace:batch_tokens_total[$__rate_interval]))", "{{kind}}"),
            lines("Ended", "max by (status) (increase(headrace:batches_total[$__rate_interval]))", "{{status}}"),
            lines(
                "Webhooks",
                "max by (outcome) (increase(headrace:webhook_deliveries_total[$__rate_interval]))",
                "{{outcome}}",
            ),
        ),
        "Redis": (
            spread("Round trips", "headrace:redis_call_seconds", labels=""),
            lines("Mean by script", mean("headrace:redis_call_seconds", "operation", ""), "{{operation}}", "s"),
            lines(
                "Scripts, by Redis' own count",
                f"max (rate(headrace:redis_script_calls_total[{RATE}]))",
                "scripts",
                "ops",
            ),
            lines(
                "Busy with scripts",
                f"max (rate(headrace:redis_script_seconds_total[{RATE}]))",
                "busy",
                "percentunit",
            ),
            lines("Calls", rate("headrace:redis_call_seconds_count", "operation", labels=""), "{{operation}}", "ops"),
            lines(
                "Failures",
                rate("headrace:redis_call_failures_total", "operation", labels="", rare=True),
                "{{operation}}",
            ),
        ),
    },
)

WORKER = Board(
    "worker",
    "Headrace: workers",
    {
        "Batch": (
            lines("Sequences running", level("vllm:num_requests_running", "instance", "sum"), "{{instance}}"),
            lines("Waiting in the worker", level("headrace:worker_waiting", "instance", "sum"), "{{instance}}"),
            lines(
                "Waiting by reason",
                level("vllm:num_requests_waiting_by_reason", "reason", "sum"),
                "{{reason}}",
                stacked=True,
            ),
            lines("Batch size", mean("headrace:step_sequences", "instance"), "{{instance}}"),
            lines("Tokens per step", mean("vllm:iteration_tokens_total", "instance"), "{{instance}}"),
            lines("Generated", rate("vllm:generation_tokens_total", "instance"), "{{instance}}", "tps"),
        ),
        "Step": (
            lines("Time by part", mean("headrace:step_seconds", "part"), "{{part}}", "s", stacked=True),
            lines(
                "Steps",
                rate("headrace:step_seconds_count", "instance", f'{MODEL}, part="execute"'),
                "{{instance}}",
                "ops",
            ),
            spread("Wait in the worker", "headrace:worker_wait_seconds"),
            lines("Time by what was expected", mean("headrace:step_time_ratio", "instance"), "{{instance}}"),
        ),
        "Background": (
            lines("Sequences", level("headrace:background_sequences", "state", "sum"), "{{state}}", stacked=True),
            lines("Steps given up", rate("headrace:steps_given_up_total", "instance"), "{{instance}}", "ops"),
        ),
        "KV cache": (
            lines("In use", level("vllm:kv_cache_usage_perc", "instance"), "{{instance}}", "percentunit"),
            lines("Blocks", level("headrace:kv_blocks", "state", "sum"), "{{state}}", stacked=True),
            lines("Preemptions", rate("vllm:num_preemptions_total", "instance"), "{{instance}}"),
            lines(
                "Prefix cache hits",
                f"{rate('vllm:prefix_cache_hits_total')} / ({rate('vllm:prefix_cache_queries_total')} > 0)",
                "share of tokens",
                "percentunit",
            ),
            lines("Prompt tokens by source", rate("vllm:prompt_tokens_by_source_total", "source"), "{{source}}", "tps"),
            lines("Settings", f"vllm:cache_config_info{{{MODEL}}}", "", kind="table"),
        ),
        "Requests": (
            spread("Queue", "vllm:request_queue_time_seconds"),
            spread("Prefill", "vllm:request_prefill_time_seconds"),
            spread("Decode", "vllm:request_decode_time_seconds"),
            lines("Ends", rate("vllm:request_success_total", "finished_reason"), "{{finished_reason}}", "reqps"),
            lines("Attempts", rate("headrace:attempts_total", "outcome"), "{{outcome}}", "reqps"),
            Panel("Prompt lengths", quantiles("vllm:request_prompt_tokens")),
            Panel("Answer lengths", quantiles("vllm:request_generation_tokens")),
        ),
        "Process": (
            lines("Lease age", level("headrace:lease_age_seconds", "instance"), "{{instance}}", "s"),
            lines("Memory", 'process_resident_memory_bytes{job="headrace-worker"}', "{{instance}}", "bytes"),
            lines("CPU", f'rate(process_cpu_seconds_total{{job="headrace-worker"}}[{RATE}])', "{{instance}}"),
        ),
    },
)

API = Board(
    "api",
    "Headrace: API nodes",
    {
        "HTTP": (
            lines("Requests by route", rate("http_requests_total", "handler", labels=""), "{{handler}}", "reqps"),
            lines("By status", rate("http_requests_total", "status", labels=""), "{{status}}", "reqps"),
            spread("Duration", "http_request_duration_highr_seconds", labels=""),
            lines("Mean duration by route", mean("http_request_duration_seconds", "handler", ""), "{{handler}}", "s"),
            lines("Received", rate("http_request_size_bytes_sum", "handler", labels=""), "{{handler}}", "Bps"),
            lines("Sent", rate("http_response_size_bytes_sum", "handler", labels=""), "{{handler}}", "Bps"),
        ),
        "Generation": (
            lines("In flight", level("headrace:api_requests_in_flight", "instance", "sum"), "{{instance}}"),
            lines("Streams open", "sum by (instance) (headrace:sse_clients)", "{{instance}}"),
            lines(
                "Time to the first token by part",
                mean("headrace:request_phase_seconds", "phase"),
                "{{phase}}",
                "s",
                stacked=True,
            ),
            Panel("Mean time per token of a request", quantiles("vllm:request_time_per_output_token_seconds"), "s"),
            Panel("Longest answers asked for", quantiles("vllm:request_params_max_tokens")),
            Panel("Choices asked for", quantiles("vllm:request_params_n")),
        ),
        "Process": (
            spread("Event-loop lag", "headrace:event_loop_lag_seconds", labels='job="headrace-api"'),
            lines("Memory", 'process_resident_memory_bytes{job="headrace-api"}', "{{instance}}", "bytes"),
            lines("CPU", f'rate(process_cpu_seconds_total{{job="headrace-api"}}[{RATE}])', "{{instance}}"),
            lines("Models", "max by (instance) (headrace:models)", "{{instance}}"),
            lines("Card conflicts", "max by (instance) (headrace:model_card_conflicts)", "{{instance}}"),
        ),
    },
)

REQUEST = Board(
    "request",
    "Headrace: one request",
    {
        "Its trace": (
            Panel(
                "Spans",
                (Query('{ span.headrace.request_id = "$request_id" }', source="tempo"),),
                kind="traces",
                text="By X-Headrace-Request-Id; GET /v1/requests/{id} tells its phases while it runs.",
            ),
        ),
        "What others took": (
            lines("Parts of the first token", mean("headrace:request_phase_seconds", "phase"), "{{phase}}", "s"),
            lines("Prefill", mean("vllm:request_prefill_time_seconds", "model_name"), "{{model_name}}", "s"),
            lines("Decode", mean("vllm:request_decode_time_seconds", "model_name"), "{{model_name}}", "s"),
        ),
    },
    traces=True,
)

BOARDS = (OVERVIEW, QUEUE, WORKER, API, REQUEST)


def queries(board: Board) -> list[str]:
    """Every question that the board asks Prometheus."""
    return [
        query.expr
        for panels in board.rows.values()
        for panel in panels
        for query in panel.queries
        if query.source == "prometheus"
    ]


def rendered(board: Board) -> dict[str, Any]:
    """The board as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in board.rows.items():
        panels.append({"type": "row", "title": title, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        y += 1
        for index, panel in enumerate(row):
            column, line = index % _COLUMNS, index // _COLUMNS
            wide = panel.kind == "traces"
            place = {"h": 2 * _HEIGHT if wide else _HEIGHT, "w": 24 if wide else _WIDTH, "x": column * _WIDTH}
            panels.append(_panel(panel) | {"gridPos": place | {"y": y + line * _HEIGHT}})
        y += -(-len(row) // _COLUMNS) * _HEIGHT * (2 if row[0].kind == "traces" else 1)
    for number, each in enumerate(panels, start=1):
        each["id"] = number
    return {
        "uid": f"headrace-{board.name}",
        "title": board.title,
        "tags": ["headrace"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": _variables(board)},
        "links": [
            {"type": "dashboards", "tags": ["headrace"], "title": "Headrace", "asDropdown": True, "keepTime": True}
        ],
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.stacked else {}
    targets = []
    for number, query in enumerate(panel.queries):
        source = {"type": query.source, "uid": f"${{{'datasource' if query.source == 'prometheus' else query.source}}}"}
        name = "query" if query.source == "tempo" else "expr"
        target = {"refId": chr(ord("A") + number), "datasource": source, name: query.expr}
        if panel.kind == "table":
            target |= {"format": "table", "instant": True}
        targets.append(target | ({"legendFormat": query.legend} if query.legend else {}))
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": targets[0]["datasource"],
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": targets,
    }


def _variables(board: Board) -> list[dict[str, Any]]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    found: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "model_name",
            "type": "query",
            "label": "Model",
            "datasource": source,
            "query": {"query": "label_values(headrace:queue_requests, model_name)", "refId": "models"},
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
            "refresh": 2,
        },
    ]
    if board.traces:
        found.append({"name": "tempo", "type": "datasource", "query": "tempo", "label": "Tempo"})
        found.append({"name": "request_id", "type": "textbox", "label": "Request id", "query": ""})
    return found


def main() -> int:
    stale = []
    for board in BOARDS:
        path = FOLDER / f"{board.name}.json"
        text = json.dumps(rendered(board), indent=1) + "\n"
        if "--check" in sys.argv[1:]:
            if not path.is_file() or path.read_text("utf-8") != text:
                stale.append(path.name)
        else:
            path.write_text(text, "utf-8")
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run: python observability/dashboards/generate.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
