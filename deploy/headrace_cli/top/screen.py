"""A picture of the fleet, drawn for a terminal."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from headrace_cli.terminal import without_controls
from headrace_cli.top.feed import Snapshot

_BAR_CELLS = 8
_STATES = {"ready": "green", "finished": "green", "running": "cyan", "cancelled": "dim"}
_PHASES = (("prepare", "white"), ("enqueue", "magenta"), ("queue", "yellow"), ("prefill", "blue"), ("decode", "green"))
_WATERFALL_CELLS = 24
_MOST_LANES = 12


def draw(snapshot: Snapshot, most_requests: int = 20, note: str = "") -> RenderableType:
    """All of it; ``note``: what is to be said in the first line."""
    parts: list[RenderableType] = [_head(snapshot, note), _throughput(snapshot["point"])]
    for model in snapshot["models"]:
        parts += [Text(), _facts(model), _workers(model["workers"])]
        if model["lanes"]:
            parts.append(_lanes(model["lanes"]))
    if not snapshot["models"]:
        parts += [Text(), Text("No worker is alive.", style="dim")]
    if requests := snapshot["requests"][:most_requests]:
        parts += [Text(), _requests(requests, snapshot["now_ms"])]
    if snapshot["dead_letters"]:
        parts += [Text(), _dead_letters(snapshot["dead_letters"][:5], snapshot["now_ms"])]
    return Group(*parts)


def _head(snapshot: Snapshot, note: str) -> Text:
    state = note or ("live" if snapshot["redis"] else "Redis is away")
    style = "green" if state == "live" else "bold red"
    where = f"  {snapshot['node']}  {snapshot['version']}  "
    return Text.assemble(("headrace top", "bold"), (_plain(where), "dim"), (state, style))


def _throughput(point: dict[str, Any]) -> Text:
    figures = (
        ("tokens/s", _count(point["tokens_per_s"])),
        ("requests/s", _count(point["requests_per_s"])),
        ("in flight", str(point["in_flight"])),
        ("first token p50/p95", f"{_ms(point['ttft_p50_ms'])} / {_ms(point['ttft_p95_ms'])}"),
        ("between tokens p50/p95", f"{_ms(point['itl_p50_ms'])} / {_ms(point['itl_p95_ms'])}"),
    )
    return _told(figures)


def _facts(model: dict[str, Any]) -> Text:
    figures = (
        ("running", f"{model['running']}/{model['slots']}"),
        ("waiting", f"{model['queued_requests']} ({_count(model['queued_tokens'])} tokens)"),
        ("oldest", _ms(model["oldest_ms"]) if model["queued_requests"] else "-"),
        ("workers", f"{len(model['workers'])} (wanted {model['desired_workers']})"),
        ("dead letters", str(model["dead_letters"])),
    )
    down = ("" if model["up"] else "down  ", "bold red")
    return Text.assemble((_plain(model["name"]), "bold"), "  ", down, _told(figures))


def _told(figures: Iterable[tuple[str, str]]) -> Text:
    line = Text(no_wrap=False)
    for name, value in figures:
        line.append(f"{name} ", "dim").append(f"{value}  ")
    return line


def _workers(workers: Sequence[dict[str, Any]]) -> Table:
    table = _table("worker", "state", "KV cache", "batch>", "waiting>", "step>", "tokens/s>", "prefix hits>", "lease>")
    for worker in workers:
        total = worker["kv_blocks_total"]
        used = 1 - worker["kv_blocks_free"] / total if total else 0.0
        lease_ms = worker["lease_ms"]
        table.add_row(
            Text(_plain(worker["id"])),
            Text(_plain(worker["state"]), style=_STATES.get(worker["state"], "yellow")),
            _bar(used, f"{used:.0%}"),
            f"{worker['running']}/{worker['max_num_seqs']}",
            str(worker["waiting"]),
            _ms(worker["step_ms"]),
            _count(worker["tokens_per_s"]),
            f"{worker['prefix_hit_rate']:.0%}",
            "-" if lease_ms is None else _ms(max(lease_ms, 0)),
        )
    return table


def _lanes(lanes: Sequence[dict[str, Any]]) -> Table:
    table = _table("priority>", "waiting", "tokens>", "oldest>")
    deepest = max(lane["requests"] for lane in lanes)
    for lane in lanes[:_MOST_LANES]:
        depth = _bar(lane["requests"] / deepest, str(lane["requests"]))
        table.add_row(str(lane["priority"]), depth, _count(lane["tokens"]), _ms(lane["oldest_ms"]))
    if len(lanes) > _MOST_LANES:
        table.add_row("...", Text(f"{len(lanes) - _MOST_LANES} lanes more", style="dim"))
    return table


def _requests(requests: Sequence[dict[str, Any]], now_ms: int) -> Table:
    legend = Text.assemble(*((f"{name} ", style) for name, style in _PHASES))
    table = _table("request", "model", "tenant", "prio>", "phases", "total>", "first token>", "tokens>", "state")
    table.columns[4].header = legend
    longest = max(max(_total_ms(request, now_ms) for request in requests), 1.0)
    for request in requests:
        running = request["outcome"] == "running"
        tokens = "" if running else f"{request['prompt_tokens']}+{request['completion_tokens']}"
        table.add_row(
            Text(_plain(request["id"])[:12]),
            Text(_plain(request["model"])[:20]),
            Text(_plain(request["tenant"])[:12]),
            str(request["priority"]),
            _waterfall(request, now_ms, longest),
            _ms(_total_ms(request, now_ms)),
            _ms(request["first_token_ms"]),
            tokens,
            Text(_plain(request["outcome"]), style=_STATES.get(request["outcome"], "red")),
        )
    return table


def _dead_letters(letters: Sequence[dict[str, Any]], now_ms: int) -> Table:
    table = _table("dead letter", "queue", "tenant", "lost workers>", "age>")
    for letter in letters:
        names = [Text(_plain(letter[field])) for field in ("request_id", "queue", "tenant")]
        table.add_row(*names, str(letter["lost"]), _ms(max(now_ms - letter["died_ms"], 0)))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name.rstrip(">"), justify="right" if name.endswith(">") else "left", no_wrap=True)
    return table


def phases_ms(request: dict[str, Any], now_ms: int) -> list[tuple[str, float, float]]:
    """Name, beginning and end of each that was reached, from the arrival on; the one that lasts ends now."""
    enqueued, first, queue_ms = request["enqueued_ms"], request["first_token_ms"], request["queue_ms"]
    claimed = None if enqueued is None or queue_ms is None else enqueued + queue_ms
    if claimed is not None and first is not None:
        claimed = min(claimed, first)
    marks = (0.0, request["prepared_ms"], enqueued, claimed, first)
    end_ms = _total_ms(request, now_ms)
    found = []
    for number, ((name, _), start) in enumerate(zip(_PHASES, marks, strict=True)):
        if start is not None:
            later = (mark for mark in marks[number + 1 :] if mark is not None)
            found.append((name, start, max(start, min(next(later, end_ms), end_ms))))
    return found


def _waterfall(request: dict[str, Any], now_ms: int, longest_ms: float) -> Text:
    bar = Text()
    styles = dict(_PHASES)
    for name, _, end_ms in phases_ms(request, now_ms):
        cells = round(end_ms / longest_ms * _WATERFALL_CELLS) - len(bar)
        bar.append("█" * max(cells, 0), styles[name])
    return bar


def _total_ms(request: dict[str, Any], now_ms: int) -> float:
    ended = request["ended_ms"]
    return float(max(0, now_ms - request["arrived_ms"]) if ended is None else ended)


def _bar(share: float, text: str) -> Text:
    cells = min(round(share * _BAR_CELLS), _BAR_CELLS)
    return Text.assemble(("█" * cells, "cyan"), ("·" * (_BAR_CELLS - cells), "dim"), f" {text}")


def _plain(text: str) -> str:
    """What clients and workers call things must not be able to drive the terminal."""
    return without_controls(text).replace("\n", " ")


def _count(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 10_000 else f"{value:.1f}".removesuffix(".0")


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 1000:
        return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 60_000 else f"{value / 60_000:.0f} min"
