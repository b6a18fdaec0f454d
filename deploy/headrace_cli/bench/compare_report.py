"""What a comparison found, as a table and as a picture."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from headrace_cli.bench.compare import Comparison, Row

_PICTURED = ("Output tokens/s", "TTFT p50, ms", "ITL p50, ms")
_LEFT, _PLOT, _RIGHT = 210, 420, 230
_ROW, _HEAD, _FOOT, _TITLE = 26, 34, 34, 64
_MARK_GAP = 34
"""Numbers that are nearer would lie over each other."""
_STEPS = (1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100, 1000)
"""Where an axis may end, and has its marks: at these, and their reciprocals."""


def table(comparison: Comparison) -> str:
    """Plain text, 80 columns wide."""
    cell = comparison.cell
    lines = [
        f"Load {cell.title}: {cell.input_tokens} prompt and {cell.output_tokens} output tokens, "
        f"{len(comparison.pairs)} pairs of {cell.requests} requests",
        f"{'':<20}{'A':>12}{'B':>12}{'B / A':>10}{'lowest':>12}{'highest':>10}",
    ]
    for row in comparison.rows():
        lines.append(
            f"{row.metric:<20}{row.a:>12.1f}{row.b:>12.1f}{row.ratio:>10.3f}{min(row.ratios):>12.3f}{max(row.ratios):>10.3f}"
        )
    lines += [f"  {count} x {error}" for error, count in comparison.errors.items()]
    return "\n".join(lines)


def picture(comparisons: Sequence[Comparison], names: tuple[str, str]) -> str:
    """An SVG: for each metric the quotients B / A, a dot for every pair and a bar at their mean, by loads."""
    found = [(each.cell.title, {row.metric: row for row in each.rows()}) for each in comparisons]
    body, top = [_text(16, 28, f"B / A: {names[1]} / {names[0]}", size=17, weight="bold")], _TITLE
    body.append(_text(16, 48, "a dot for every pair of runs, a bar at their geometric mean", fill="#667"))
    for metric in _PICTURED:
        rows = [(title, by_metric[metric]) for title, by_metric in found if metric in by_metric]
        if rows:
            body += _panel(metric, rows, top)
            top += _HEAD + _ROW * len(rows) + _FOOT
    width = _LEFT + _PLOT + _RIGHT
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top}" viewBox="0 0 {width} {top}"'
    return "\n".join(
        [
            f'{head} font-family="sans-serif">',
            f'<rect width="{width}" height="{top}" fill="#fff"/>',
            *body,
            "</svg>",
            "",
        ]
    )


def _panel(metric: str, rows: Sequence[tuple[str, Row]], top: int) -> list[str]:
    ratios = [ratio for _, row in rows for ratio in row.ratios]
    furthest = max(max(ratios), 1 / min(ratios))
    reach = next((step for step in _STEPS[1:] if step >= furthest), furthest)

    def x(ratio: float) -> float:
        """Logarithmic, so that twice and half are as far from 1."""
        return _LEFT + _PLOT / 2 * (1 + math.log(ratio) / math.log(reach))

    better = "to the right B is faster" if metric == _PICTURED[0] else "to the left B is faster"
    bottom = top + _HEAD + _ROW * len(rows)
    shapes = [_text(16, top + 18, metric, weight="bold"), _text(_LEFT, top + 18, better, fill="#667")]
    shapes.append(_text(_LEFT + _PLOT + 16, top + 18, "A, B, and B / A", fill="#667"))
    marks: list[float] = []
    for step in _STEPS:
        if step <= reach and (not marks or x(step) - x(marks[-1]) >= _MARK_GAP):
            marks.append(step)
    for mark in [*(1 / step for step in reversed(marks[1:])), *marks]:
        stroke = "#445" if mark == 1 else "#dde"
        shapes.append(_line(x(mark), top + _HEAD - 6, bottom, stroke))
        shapes.append(_text(x(mark), bottom + 16, f"{mark:.3g}", anchor="middle", fill="#667"))
    for number, (title, row) in enumerate(rows):
        y = top + _HEAD + _ROW * number + _ROW / 2
        shapes.append(_text(16, y + 4, title))
        shapes += [
            f'<circle cx="{x(r):.1f}" cy="{y:.1f}" r="4" fill="#2f6fde" fill-opacity="0.45"/>' for r in row.ratios
        ]
        shapes.append(_line(x(row.ratio), y - 9, y + 9, "#c22", width=2.5))
        shapes.append(_text(_LEFT + _PLOT + 16, y + 4, f"{row.a:.1f}, {row.b:.1f}, {row.ratio:.3f}"))
    return shapes


def _line(x: float, top: float, bottom: float, stroke: str, width: float = 1) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{stroke}" stroke-width="{width}"/>'
    )


def _text(x: float, y: float, text: str, *, size: int = 13, **style: str) -> str:
    more = {"weight": "font-weight", "fill": "fill", "anchor": "text-anchor"}
    attributes = "".join(f' {more[name]}="{value}"' for name, value in style.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{attributes}>{escape(text)}</text>'
