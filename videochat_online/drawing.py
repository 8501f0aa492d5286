"""Curves as SVG, a page of text with nothing to load. Knows nothing of what is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

EDGE, LINE = 66, 14
"""Margin for the numbers, and a line of text, in pixels."""
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563")


def chart(
    title: str, lines: Mapping[str, Sequence[tuple[float, float]]], *, width: int = 400, height: int = 170
) -> str:
    """Curves through (x, y), each with its name below the picture; nothing where there are no points."""
    if not (points := [point for line in lines.values() for point in line]):
        return ""
    (left, low), (right, high) = map(min, zip(*points, strict=True)), map(max, zip(*points, strict=True))
    bottom = height - 22
    across, up = (width - EDGE - 8) / ((right - left) or 1), (height - 48) / max(high - low, 1e-12)
    drawn = f'<text x="{EDGE}" y="14">{escape(title)}, {left:,.6g} to {right:,.6g}</text>'
    drawn += f'<text y="30">{high:.3g}</text><text y="{height - 18}">{low:.3g}</text>'
    drawn += f'<path d="M{EDGE} 26V{bottom}H{width - 8}" fill="none" stroke="#9ca3af"/>'
    for number, (label, line) in enumerate(lines.items()):
        colour, place = COLOURS[number % len(COLOURS)], height - 4 + LINE * number
        places = [f"{EDGE + (x - left) * across:.1f},{bottom - (y - low) * up:.1f}" for x, y in line]
        drawn += f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}"/>'
        drawn += f'<text x="{EDGE}" y="{place}" fill="{colour}">{escape(label)}</text>'
    tall = height + LINE * (len(lines) - 1)
    shape = f'width="{width}" height="{tall}" font-size="11" font-family="sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {shape}>{drawn}</svg>'
