"""The pictures show when each token came, and when /health was answered, on one time axis for all servers.

Colours are CSS classes, which the page defines for light and dark.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from study.common.client import Stream
from study.compare.experiments import Together

WIDTH = 960
LEFT = 150
RIGHT = 90
STRIP = 10
GAP = 16
LATE_SECONDS = 0.1
"""A /health that took longer is drawn as late."""


@dataclass(frozen=True)
class Lane:
    """One server in a picture."""

    title: str
    together: Together


def timeline(title: str, lanes: Sequence[Lane]) -> str:
    """An SVG: for each server a line per stream, a dot per token, a tick where the headers came, and beneath them a
    bar for each question to /health, from asking to answer."""
    last = max(max(lane.together.end, *(pulse.answered_at for pulse in lane.together.pulses)) for lane in lanes)
    row = 14.0 if len(lanes[0].together.streams) == 1 else 5.0 if len(lanes[0].together.streams) <= 16 else 2.0
    axis = _Axis(last)
    parts: list[str] = []
    y = 10.0
    for lane in lanes:
        height = row * len(lane.together.streams)
        parts.append(f'<text class="name" x="{LEFT - 10}" y="{y + height / 2 + 4:.1f}">{escape(lane.title)}</text>')
        parts.append(
            f'<text class="end" x="{axis.x(lane.together.end) + 6:.1f}" y="{y + height / 2 + 4:.1f}">'
            f"{1e3 * lane.together.end:,.0f} ms</text>"
        )
        parts += [_stream(axis, stream, y + row * (n + 0.5), row) for n, stream in enumerate(_by_end(lane.together))]
        y += height + 3
        parts += _strip(axis, lane.together, y)
        y += STRIP + GAP
    parts += axis.ticks(y)
    return (
        f'<svg viewBox="0 0 {WIDTH} {y + 24:.0f}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


class _Axis:
    """Time, from left to right."""

    def __init__(self, last: float) -> None:
        self._step = _round_step(last)
        self._scale = (WIDTH - LEFT - RIGHT) / last
        self._last = last

    def x(self, seconds: float) -> float:
        return LEFT + self._scale * seconds

    def ticks(self, y: float) -> list[str]:
        count = int(self._last / self._step + 1e-9)
        return [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{y:.1f}"/>'
            f'<text class="tick" x="{x:.1f}" y="{y + 16:.1f}">{1e3 * self._step * n:,.0f} ms</text>'
            for n in range(count + 1)
            for x in (self.x(self._step * n),)
        ]


def _round_step(last: float) -> float:
    """About six ticks, at 1, 2 or 5 times a power of ten."""
    unit = 10.0 ** math.floor(math.log10(last / 6))
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= last / 6)


def _by_end(together: Together) -> list[Stream]:
    return sorted(together.streams, key=lambda stream: stream.ended_at)


def _stream(axis: _Axis, stream: Stream, y: float, row: float) -> str:
    dots = "".join(f"M{axis.x(at):.1f} {y:.1f}h0" for at in stream.tokens_at)
    begun, headers, ended = axis.x(stream.asked_at), axis.x(stream.headers_at), axis.x(stream.ended_at)
    return (
        f'<line class="open" x1="{begun:.1f}" x2="{ended:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line class="headers" x1="{headers:.1f}" x2="{headers:.1f}" y1="{y - row / 2:.1f}" y2="{y + row / 2:.1f}"/>'
        f'<path class="tokens" stroke-width="{min(5.0, row):g}" d="{dots}"/>'
    )


def _strip(axis: _Axis, together: Together, y: float) -> list[str]:
    bars = []
    for pulse in together.pulses:
        x, end = axis.x(pulse.asked_at), axis.x(pulse.answered_at)
        kind = "late" if pulse.waited > LATE_SECONDS else "prompt"
        bars.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(2.0, end - x):.1f}" height="{STRIP}"/>')
    return [f'<text class="strip" x="{LEFT - 10}" y="{y + STRIP - 1:.1f}">/health</text>', *bars]
