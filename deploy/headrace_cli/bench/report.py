"""The figures of a load run as a table and a picture of how they are spread."""

import math
from collections.abc import Sequence

from headrace_cli.bench.measures import Measurement, Spread, Summary, percentile

_BAR_CELLS = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def report(summary: Summary, measurements: Sequence[Measurement]) -> str:
    """Plain text, about 80 columns wide."""
    good = [m for m in measurements if m.error is None]
    parts = [_rates(summary), _table(summary)]
    if ttfts_s := [m.ttft_s for m in good]:
        parts.append("TTFT, requests\n" + histogram([1000 * t for t in ttfts_s]))
    if gaps_s := [gap for m in good for gap in m.gaps_s()]:
        parts.append("ITL, chunks\n" + histogram([1000 * gap for gap in gaps_s]))
    if summary.errors:
        parts.append("Errors\n" + "\n".join(f"  {count:>6} x {error}" for error, count in summary.errors.items()))
    return "\n\n".join(parts)


def _rates(summary: Summary) -> str:
    rows = [
        ("Requests", f"{summary.completed} completed, {summary.failed} failed, in {summary.duration_s:.2f} s"),
        ("Tokens", f"{summary.prompt_tokens} prompt, {summary.output_tokens} output"),
        (
            "Throughput",
            f"{summary.output_tokens_per_s:.1f} output tokens/s, {summary.total_tokens_per_s:.1f} tokens/s, {summary.requests_per_s:.2f} requests/s",
        ),
    ]
    return "\n".join(f"{name:<11} {value}" for name, value in rows)


def _table(summary: Summary) -> str:
    spreads: list[tuple[str, Spread | None]] = [
        ("TTFT  time to first token", summary.ttft_ms),
        ("ITL   between chunks", summary.itl_ms),
        ("TPOT  per token after it", summary.tpot_ms),
        ("E2E   whole request", summary.e2e_ms),
    ]
    lines = [f"{'milliseconds':<26}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}{'max':>10}"]
    for name, spread in spreads:
        if spread is not None:
            values = (spread.mean, spread.p50, spread.p90, spread.p99, spread.max)
            lines.append(f"{name:<26}" + "".join(f"{value:>10.1f}" for value in values))
    return "\n".join(lines)


def histogram(values: Sequence[float], bins: int = 12) -> str:
    """Horizontal bars over equal ranges up to the 99th percentile; what lies above is the last bar's."""
    ordered = sorted(values)
    low, high = ordered[0], percentile(ordered, 0.99)
    width = (high - low) / bins
    if width <= 0:
        return _bar_line(low, len(ordered), len(ordered))
    counts = [0] * (bins + 1)
    for value in ordered:
        counts[min(int((value - low) / width), bins)] += 1
    # Rounding may put the 99th percentile itself one bar too far; an empty last bar says nothing.
    shown = counts if counts[-1] else counts[:-1]
    top = max(counts)
    return "\n".join(_bar_line(low + index * width, count, top) for index, count in enumerate(shown))


def _bar_line(from_ms: float, count: int, top: int) -> str:
    # Whatever is there is seen: at least an eighth of a cell.
    eighths = max(math.floor(count / top * _BAR_CELLS * 8), 1) if count else 0
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return f"  {from_ms:>9.1f} ms │{bar:<{_BAR_CELLS}} {count}"
