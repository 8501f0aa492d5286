"""Curves as SVG, a page of text with nothing to load. Knows nothing of what is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

EDGE, LINE, LETTER = 66, 14, 7
"""Margin for the numbers, a line of text, and a letter's width, in pixels."""
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563")


def chart(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, ...]]],
    *,
    scale: tuple[float, float] | None = None,
    ticks: Mapping[float, str] | None = None,
    width: int = 400,
    height: int = 170,
) -> str:
    """Curves, each of points (x, y), or (x, y, low, high) with the ends of an interval; "" where there are no points.

    `scale`: the lowest and highest y, by default of the points. `ticks`: what is written below these x, by default the
    ends of x stand in the title.
    """
    if not (points := [point for line in lines.values() for point in line]):
        return ""
    left, right = (choose(point[0] for point in points) for choose in (min, max))
    low, high = scale or (min(point[1] for point in points), max(point[1] for point in points))
    bottom, legend = height - 22, height - 4 + LINE * bool(ticks)
    across, up = (width - EDGE - 16) / ((right - left) or 1), (height - 48) / max(high - low, 1e-12)

    def drawn_line(points: Iterable[tuple[float, float]], beside: float, colour: str) -> str:
        places = (f"{EDGE + 4 + (x - left) * across + beside:.1f},{bottom - (y - low) * up:.1f}" for x, y in points)
        return f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}"/>'

    ends = "" if ticks else f", {left:,.6g} to {right:,.6g}"
    drawn = f'<text x="{EDGE}" y="14">{escape(title + ends)}</text>'
    drawn += f'<text y="30">{high:.3g}</text><text y="{height - 18}">{low:.3g}</text>'
    drawn += f'<path d="M{EDGE} 26V{bottom}H{width - 8}" fill="none" stroke="#9ca3af"/>'
    for x, text in (ticks or {}).items():
        at = EDGE + 4 + (x - left) * across
        drawn += f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle">{escape(text)}</text>'
    beyond = max(LETTER * max(map(len, ticks.values())) // 2 - 12, 0) if ticks else 0  # half of the last tick's text
    columns = max((width - EDGE) // (LETTER * max(map(len, lines)) + LINE), 1)
    for number, (label, line) in enumerate(lines.items()):
        colour, whiskers = COLOURS[number % len(COLOURS)], [(point[0], end) for point in line for end in point[2:]]
        beside = 3.0 * (number - (len(lines) - 1) / 2) if whiskers else 0.0  # px: no interval lies on another
        drawn += drawn_line([(point[0], point[1]) for point in line], beside, colour)
        drawn += "".join(drawn_line(pair, beside, colour) for pair in zip(whiskers[::2], whiskers[1::2], strict=True))
        row, column = divmod(number, columns)
        x = EDGE + column * (width - EDGE) // columns
        drawn += f'<text x="{x}" y="{legend + LINE * row}" fill="{colour}">{escape(label)}</text>'
    tall = legend + 4 + LINE * ((len(lines) - 1) // columns)
    shape = f'width="{width + beyond}" height="{tall}" font-size="11" font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {shape}>{drawn}</svg>'
