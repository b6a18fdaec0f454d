"""A roofline as SVG: operations per second against operations per byte, under what the machine can do at most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 980, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 180, 92, 64
_STYLE = """
text{fill:#334}.soft{fill:#667}.back{fill:#fff}.grid{stroke:#e3e6ee}.roof{stroke:#445;fill:none}
@media(prefers-color-scheme:dark){text{fill:#dde}.soft{fill:#99a}.back{fill:#14161c}.grid{stroke:#2a2e3a}.roof{stroke:#bbc}}
"""
_COLOURS = ("#2f6fde", "#d9482b", "#1f9d6b", "#a45bd6", "#b98a00")


@dataclass(frozen=True)
class Point:
    """Something measured. ``intensity``: operations per byte."""

    series: str
    label: str
    intensity: float
    operations_per_s: float


@dataclass(frozen=True)
class Roof:
    """The most operations per second of one kind of arithmetic."""

    name: str
    operations_per_s: float


@dataclass(frozen=True)
class _Scales:
    """Both logarithmic, in whole steps of two and of ten."""

    low_x: int
    high_x: int
    low_y: int
    high_y: int

    def x(self, intensity: float) -> float:
        share = (math.log2(intensity) - self.low_x) / (self.high_x - self.low_x)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, operations_per_s: float) -> float:
        share = (math.log2(operations_per_s / 1e9) - self.low_y) / (self.high_y - self.low_y)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def picture(title: str, points: Sequence[Point], roofs: Sequence[Roof], bytes_per_s: float) -> str:
    """``points`` of a series are joined by a line. Readable on light and on dark pages."""
    scales = _scales(points, roofs)
    named = list(dict.fromkeys(point.series for point in points))
    shapes = [*_grid(scales), *_roofs(scales, roofs, bytes_per_s)]
    for series, colour in zip(named, _COLOURS, strict=False):
        shapes += _series(scales, [point for point in points if point.series == series], colour)
    shapes.append(_text(_LEFT, 28, title, size=17, bold=True))
    at = float(_LEFT)
    for series, colour in zip(named, _COLOURS, strict=False):
        shapes.append(f'<circle cx="{at + 5:.1f}" cy="52" r="5" fill="{colour}"/>')
        shapes.append(_text(at + 16, 57, series))
        at += 40 + 8 * len(series)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    back = f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="10"/>'
    return "\n".join([f'{head} font-family="sans-serif">', f"<style>{_STYLE}</style>", back, *shapes, "</svg>", ""])


def _scales(points: Sequence[Point], roofs: Sequence[Roof]) -> _Scales:
    xs = [math.log2(point.intensity) for point in points]
    ys = [math.log2(point.operations_per_s / 1e9) for point in points]
    top = max(math.log2(roof.operations_per_s / 1e9) for roof in roofs)
    return _Scales(math.floor(min(xs) - 0.5), math.ceil(max(xs) + 0.5), math.floor(min(ys) - 0.5), math.ceil(top + 0.3))


def _grid(scales: _Scales) -> list[str]:
    shapes, right, bottom = [], WIDTH - _RIGHT, HEIGHT - _BOTTOM
    for power in range(scales.low_x, scales.high_x + 1):
        x = scales.x(2.0**power)
        shapes.append(_path("grid", [(x, _TOP), (x, bottom)]))
        if power % 2 == 0:
            shapes.append(_text(x, bottom + 20, f"{2.0**power:g}", anchor="middle", soft=True))
    for power in range(scales.low_y, scales.high_y + 1):
        y = scales.y(2.0**power * 1e9)
        shapes.append(_path("grid", [(_LEFT, y), (right, y)]))
        shapes.append(_text(_LEFT - 8, y + 4, f"{2.0**power:g}", anchor="end", soft=True))
    middle = (_LEFT + right) / 2
    shapes.append(_text(middle, HEIGHT - 16, "operations per byte of weights", anchor="middle", soft=True))
    shapes.append(_text(12, 80, "10⁹ operations/s", soft=True))
    return shapes


def _roofs(scales: _Scales, roofs: Sequence[Roof], bytes_per_s: float) -> list[str]:
    """Up the slope that memory sets, and on at each kind of arithmetic's own height."""
    top = max(roof.operations_per_s for roof in roofs)
    start = max(2.0**scales.low_x, 2.0**scales.low_y * 1e9 / bytes_per_s)
    slope = [(scales.x(each), scales.y(each * bytes_per_s)) for each in (start, top / bytes_per_s)]
    shapes = [_path("roof", slope, 2.5)]
    (x0, y0), (x1, y1) = slope
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    x, y = x0 + 0.3 * (x1 - x0), y0 + 0.3 * (y1 - y0) - 9
    told = _text(x, y, f"memory, {bytes_per_s / 1e9:.1f} GB/s", soft=True)
    shapes.append(f'<g transform="rotate({angle:.1f} {x:.1f} {y:.1f})">{told}</g>')
    for roof in roofs:
        y = scales.y(roof.operations_per_s)
        shapes.append(_path("roof", [(scales.x(roof.operations_per_s / bytes_per_s), y), (WIDTH - _RIGHT, y)], 2.5))
        told = f"{roof.name}, {roof.operations_per_s / 1e9:.0f}"
        shapes.append(_text(WIDTH - _RIGHT + 8, y + 5, told, soft=True))
    return shapes


def _series(scales: _Scales, points: Sequence[Point], colour: str) -> list[str]:
    places = [(scales.x(point.intensity), scales.y(point.operations_per_s)) for point in points]
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    shapes = [f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-opacity="0.5"/>']
    for point, (x, y) in zip(points, places, strict=True):
        shapes.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
        shapes.append(_text(x + 8, y + 15, point.label, size=11))
    return shapes


def _path(kind: str, places: Sequence[tuple[float, float]], width: float = 1) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{kind}" points="{joined}" stroke-width="{width}"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", soft: bool = False, bold: bool = False
) -> str:
    more = (' class="soft"' if soft else "") + (' font-weight="bold"' if bold else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
