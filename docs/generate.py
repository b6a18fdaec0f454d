"""Writes the pages in PAGES from the code: ``python docs/generate.py``.

With ``--check`` nothing is written; the exit status is 1 when a page is not what the code says.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import compatibility
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from headrace_api.app import create_app
from headrace_api.batches.metrics import BatchMetrics
from headrace_api.metrics import Metrics
from headrace_api.settings import ApiSettings
from headrace_cli import flags
from headrace_shared.settings import MetricsSettings, OtlpMetricsSettings, QueueSettings, RedisSettings, TracingSettings
from headrace_shared.settings_report import variable_of
from headrace_shared.telemetry.series import Series
from headrace_worker.service.metrics import WorkerMetrics
from headrace_worker.settings import WorkerSettings

DOCS = Path(__file__).parent
SECTIONS: list[tuple[str, type[BaseSettings], str]] = [
    ("Redis", RedisSettings, "Read by API nodes and workers."),
    ("Queue", QueueSettings, "Read by API nodes and workers."),
    ("API node", ApiSettings, "Read by `headrace api` and `headrace serve`."),
    ("Worker", WorkerSettings, "Read by `headrace worker` and `headrace serve`."),
    (
        "Traces",
        TracingSettings,
        "Read by API nodes and workers; the rest of OpenTelemetry's variables are left to its SDK.",
    ),
    ("Metrics over OTLP", OtlpMetricsSettings, "Read by API nodes and workers, as above."),
    ("Metrics of several processes", MetricsSettings, "Read by API nodes."),
]
CONFIGURATION_HEAD = """# Configuration

A setting comes from the command line, else from the environment, else from a file, else it has its default. Options
set the same variables that every process reads. What does not fit ends the process at once with exit status 2 and a
line that names it. Durations and sizes have their unit in the name; `-` and `_` are the same in the names of options.

A file for `--config` is YAML with options by their long names, at the top or below the process that they are for;
below one, they may also be called by the rest of their variable's name. One file can serve all processes: each takes
what is its own.

```yaml
model: Qwen/Qwen3-0.6B
served-model-name: [small, qwen]
max-model-len: 32K
override-generation-config: {temperature: 0.5}
api:
  port: 9000
  log-level: warning
redis:
  url: redis://queue:6379/0
```

`headrace config show` takes the options of `headrace serve` and prints every setting with its value and where that
comes from. Options of other servers are in [compatibility.md](compatibility.md).

| Variable of the command line | Default | What it is |
|---|---|---|
| `HEADRACE_CONFIG` | | The same as `--config`. |
| `HEADRACE_CACHE` | `~/.cache/headrace` | Folder of the demo model. |
| `HEADRACE_STATE` | `~/.local/state/headrace` | Folder below which `headrace serve` keeps its embedded queue. |
| `HEADRACE_STATE_DIR` | | The same as `--state-dir`: the folder of that queue itself. |
"""
API_HEAD = """# HTTP API

What OpenAI's clients send is understood, with further fields known from other servers. A value out of its range is
answered with status 400 and the field's name; so is a field that Headrace knows but does not support yet, unless its
value asks for nothing. A field that nobody knows is ignored, and named in the answer's header
`X-Headrace-Unknown-Fields`. A running server shows this page as `/openapi.json` and, to try out, at `/docs`.

Errors have OpenAI's form: `{"error": {"message", "type", "param", "code"}}`. With `"stream": true` an error before the
first token is an ordinary status; after it, an event with such a body ends the stream.
"""
NOTE = "<!-- Made by docs/generate.py; do not edit. -->\n"


def configuration_page() -> str:
    parts = [NOTE + CONFIGURATION_HEAD]
    for title, settings, text in SECTIONS:
        rows = [_setting_row(settings, name, field) for name, field in settings.model_fields.items()]
        head = "| Variable | Option | Default | What it is |\n|---|---|---|---|"
        parts.append("\n".join([f"## {title}\n\n{text}\n", head, *rows]) + "\n")
    return "\n".join(parts)


def _setting_row(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    variable = variable_of(settings, name)
    flag = next((f for f in flags.ALL_FLAGS if variable in f.variables), None)
    option = f"`--{flag.name}`" if flag else ""
    default = "required" if field.is_required() else _default(field.default)
    return _row(f"`{variable}`", option, default, field.description or "")


def _default(value: object) -> str:
    if value is None or value in ([], (), ""):
        return ""
    if isinstance(value, SecretStr):
        raise ValueError("a secret has no default that could be shown")
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def api_page() -> str:
    document = create_app(ApiSettings(enable_tokenizer_info_endpoint=True)).openapi()
    schemas = document["components"]["schemas"]
    parts = [NOTE + API_HEAD]
    shown: dict[str, None] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(method, path, operation, shown))
    parts.append("# Bodies\n")
    # Bodies name further ones while they are written down.
    position = 0
    while position < len(shown):
        name = list(shown)[position]
        parts.append(_schema(name, schemas[name], shown))
        position += 1
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Mapping[str, Any], shown: dict[str, None]) -> str:
    lines = [
        f"## {method.upper()} {path}\n",
        f"{operation['summary']}. {operation.get('description', '')}".strip() + "\n",
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        lines.append(f"Body: {_type(body['schema'], shown)}\n")
    lines.append("| Status | Answer |\n|---|---|")
    for status, response in operation["responses"].items():
        lines.append(_row(status, _answer(response, shown)))
    return "\n".join(lines) + "\n"


def _answer(response: Mapping[str, Any], shown: dict[str, None]) -> str:
    kinds = []
    for media_type, content in response.get("content", {}).items():
        schema = content.get("schema", {})
        kinds.append(_type(schema, shown) if media_type == "application/json" and schema else f"`{media_type}`")
    return f"{response['description']} {' or '.join(kinds)}".strip()


def _schema(name: str, schema: Mapping[str, Any], shown: dict[str, None]) -> str:
    lines = [f"## {name}\n"]
    if text := schema.get("description"):
        lines.append(f"{text}\n")
    required = schema.get("required", [])
    lines.append("| Field | Type | Default | What it is |\n|---|---|---|---|")
    for field, of_field in schema.get("properties", {}).items():
        default = "required" if field in required else _default(of_field.get("default"))
        lines.append(_row(f"`{field}`", _type(of_field, shown), default, of_field.get("description", "")))
    return "\n".join(lines) + "\n"


def _type(schema: Mapping[str, Any], shown: dict[str, None]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        shown.setdefault(name)
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            kinds = [_type(each, shown) for each in schema[several] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}), shown)}"
    return " ".join([" or ".join(kind) if isinstance(kind, list) else str(kind), *_limits(schema)])


def _limits(schema: Mapping[str, Any]) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    for key, sign in signs.items():
        # The largest integers stand for "any".
        if key in schema and abs(schema[key]) < 2**53 - 1:
            yield f"{sign} {schema[key]}"


def _row(*cells: str) -> str:
    plain = (re.sub(r"\s+", " ", cell).replace("``", "`").replace("|", "\\|").strip() for cell in cells)
    return f"| {' | '.join(plain)} |"


METRICS_HEAD = """# Metrics

API nodes show theirs at `/metrics` of their port, workers at `/metrics` of `--metrics-port`, a free one unless it is set;
`GET /metrics/targets` of an API node lists all workers in the form of Prometheus' HTTP service discovery. Batch workers show
theirs at `--batch-metrics-port` where one is set, together with the `headrace:redis_*` and `headrace:event_loop_*` that API
nodes have too; they are not in that list. Nothing a client sends can make up a label's value: tenants are the ten with most
requests and `other`, routes are templates, priorities five bands.

Series of vLLM have its names, labels and buckets, and each is shown by one kind of process only, so that sums over a
fleet are right. What API nodes tell of the queue they tell all alike: take the `max`, not the `sum`. The processes of
`--api-server-count` add up what they count, whichever of them is asked, and go on from there when one of them is started
again; under another manager of processes they do so when they share a folder, `PROMETHEUS_MULTIPROC_DIR`. With
`OTEL_METRICS_EXPORTER=otlp` all series are pushed to a collector as well, by each process its own. Besides these there
are the usual `process_*` and `python_*`, except of several processes on one port.
"""
METRICS_TAIL = """## What vLLM has and Headrace has not

| Series of vLLM | Why not |
|---|---|
| `vllm:cpu_prefix_cache_hit_rate` | the swap space is no prefix cache: it holds blocks of sequences that wait to go on |
| `vllm:gpu_prefix_cache_hit_rate` | divide the rates of `_hits_total` and `_queries_total` |
| `vllm:external_prefix_cache_*`, `vllm:prompt_tokens_cached_by_source_total`, `kv_offload_*`, `nixl_*`, `mooncake_*` | a worker has no cache but its own |
| `vllm:mm_cache_queries_total`, `vllm:mm_cache_hits_total` | only text is served |
| `vllm:lora_requests_info` | adapters are not served |
| `vllm:engine_sleep_state`, `sleep_mode_operation_*`, `rl_weight_update_*` | a worker that shall sleep is stopped |
| `vllm:corrupted_requests_total` | logits are not searched for values that are no numbers |
| `vllm:watermark_requests_total` | answers have no watermarks |
| `vllm:kv_block_lifetime_seconds`, `vllm:kv_block_idle_before_evict_seconds`, `vllm:kv_block_reuse_gap_seconds` | blocks are not followed one by one; see `headrace:kv_blocks` |
| `vllm:estimated_flops_per_gpu_total`, `vllm:estimated_read_bytes_per_gpu_total`, `vllm:estimated_write_bytes_per_gpu_total` | nothing is estimated; `headrace:step_seconds` is measured |
| `vllm:time_in_queue_requests`, `vllm:model_forward_time_milliseconds`, `vllm:model_execute_time_milliseconds` | vLLM itself has replaced them; see `headrace:step_seconds` and the `gen_ai.latency.*` of [traces](tracing.md) |
| `websocket_*`, `diffusion_*` | there is nothing of the kind |
"""


def metrics_page() -> str:
    parts = [NOTE + METRICS_HEAD]
    for title, kind in (("API nodes", Metrics), ("Workers", WorkerMetrics), ("Batch workers", BatchMetrics)):
        head = "| Series | Kind | Labels | What it is |\n|---|---|---|---|"
        rows = [_series_row(series) for series in kind.declared()]
        parts.append("\n".join([f"## {title}\n", head, *rows]) + "\n")
    return "\n".join([*parts, METRICS_TAIL])


def _series_row(series: Series[Any]) -> str:
    names = ", ".join(f"`{name}`" for name in series.shown_names)
    return _row(names, series.kind.value, ", ".join(f"`{label}`" for label in series.labels), series.text)


PAGES = {
    "metrics.md": metrics_page,
    "configuration.md": configuration_page,
    "api.md": api_page,
    "compatibility.md": lambda: NOTE + compatibility.page(),
}


def main() -> int:
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if "--check" in sys.argv[1:]:
            if not path.is_file() or path.read_text("utf-8") != text:
                stale.append(name)
        else:
            path.write_text(text, "utf-8")
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run: python docs/generate.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
