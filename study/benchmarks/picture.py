"""The benchmark's one picture: tokens per second over streams, as an SVG written by hand."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 48
COLOURS = {"ours": "#1f6feb", "peer": "#8b949e"}

Points = Sequence[tuple[int, float]]


def tokens_over_streams(report: Mapping[str, Any]) -> str:
    """An SVG of a report's rows: one line for each server, both axes from the data."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in report["rows"]:
        lines.setdefault(row["server"], []).append((row["streams"], row["tokens_per_second"]))
    streams = sorted({count for points in lines.values() for count, _ in points})
    top = _round_up(max(speed for points in lines.values() for _, speed in points))
    title = f"{report['shape']}, {report['how']}: tokens per second over streams"
    parts = [_text(WIDTH / 2, TOP / 2, title, "middle", 15)]
    for step in range(5):
        speed = top * step / 4
        y = _y(speed, top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#d0d7de"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{speed:g}", "end"))
    parts += [_text(_x(count, streams), HEIGHT - BOTTOM + 20, str(count), "middle") for count in streams]
    parts.append(_text(WIDTH / 2, HEIGHT - 8, "streams", "middle"))
    for server, points in lines.items():
        parts.append(_line([(_x(count, streams), _y(speed, top)) for count, speed in points], COLOURS[server]))
        parts += [
            _text(_x(count, streams), _y(speed, top) - 10, f"{speed:.0f}", "middle", colour=COLOURS[server])
            for count, speed in points
        ]
        parts.append(_text(LEFT + 12, TOP + 16 * (1 + list(lines).index(server)), server, colour=COLOURS[server]))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _x(count: int, streams: Sequence[int]) -> float:
    """Streams on a logarithmic axis: each doubling takes the same width."""
    span = math.log2(streams[-1] / streams[0]) or 1
    return round(LEFT + 24 + (WIDTH - LEFT - RIGHT - 48) * math.log2(count / streams[0]) / span, 1)


def _y(speed: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * speed / top, 1)


def _round_up(speed: float) -> float:
    """The next number that four even steps divide well."""
    unit: float = 10 ** math.floor(math.log10(speed))
    return next(factor * unit for factor in (1, 2, 4, 6, 8, 10) if factor * unit >= speed * 1.05 or factor == 10)


def _line(points: Points | Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/>' for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>{dots}'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12, colour: str = "#24292f") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{text}</text>'
