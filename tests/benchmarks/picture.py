"""Draw the figures of warm requests, of first sight and of growth, side by side, as one SVG that is readable on light and on dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from . import contenders, scale
from .rounds import Timing

WIDTH, PANEL_GAP, BAR, LEFT = 760, 34, 18, 250
OURS, OTHERS = "ours", "others"
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #57606a }
.title { font-weight: 600 }
.ours { fill: #2f81c7 } .others { fill: #8c959f }
.line { fill: none; stroke: #2f81c7; stroke-width: 2 } .dashed { stroke-dasharray: 5 4 }
.axis { stroke: #8c959f; stroke-width: 1 }
@media (prefers-color-scheme: dark) { text { fill: #a9b2bb } .others { fill: #6e7781 } }
"""
Bar = tuple[str, float, str]


def drawn(timings: Mapping[str, Timing]) -> str:
    """The picture of timings that include all contenders of one request, and those of growth."""
    bare_us = timings[contenders.BARE].best_us

    def added(name: str, label: str) -> Bar:
        return label, timings[name].best_us - bare_us, OURS if name.startswith("ours") else OTHERS

    parts: list[str] = []
    y = _bars(
        parts,
        20,
        "A warm request: added to a bare app, µs (less is better)",
        [
            added(contenders.STARLETTE, contenders.STARLETTE),
            added("starsessions, in memory", "starsessions, in memory"),
            added(contenders.WARM, "ours, cookie"),
            added(contenders.WARM_BEARER, "ours, bearer"),
            added(contenders.WARM_NESTED, "ours, nested data"),
        ],
    )
    y = _bars(
        parts,
        y,
        "First sight of a token, µs",
        [
            ("PyJWT, HS256 decode alone", timings[contenders.PYJWT].best_us, OTHERS),
            added(contenders.FIRST_SIGHT, "ours, the whole middleware"),
        ],
    )
    y = _lines(parts, y, timings)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">\n'
        f"<title>What a session costs</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def _text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def _bars(parts: list[str], y: int, title: str, bars: Sequence[Bar]) -> int:
    parts.append(_text(0, y, title, "title"))
    scale_x = (WIDTH - LEFT - 60) / max(value for _, value, _ in bars)
    for label, value, kind in bars:
        y += BAR + 6
        parts.append(_text(LEFT - 8, y, label, anchor="end"))
        parts.append(f'<rect x="{LEFT}" y="{y - BAR + 5}" width="{value * scale_x:.1f}" height="{BAR}" rx="2" class="{kind}"/>')
        parts.append(_text(LEFT + value * scale_x + 6, y, f"{value:.1f}"))
    return y + PANEL_GAP


def _lines(parts: list[str], y: int, timings: Mapping[str, Timing]) -> int:
    """The time of a request by the number of live sessions, a line for each draw."""
    parts.append(_text(0, y, "A request, by the number of live sessions, µs", "title"))
    top, height, right = y + 16, 110, WIDTH - 190
    found = {draw: _by_size(timings, draw) for draw in (scale.BY_ZIPF, scale.ALIKE)}
    sizes = [size for size, _ in found[scale.BY_ZIPF]]
    highest = max(value for line in found.values() for _, value in line) * 1.1
    step = (right - 40) / max(1, len(sizes) - 1)
    bottom = top + height
    parts.append(f'<line x1="40" y1="{bottom}" x2="{right}" y2="{bottom}" class="axis"/>')
    parts += [_text(40 + step * index, bottom + 18, f"{size:,}", anchor="middle") for index, size in enumerate(sizes)]
    for draw, line in found.items():
        at = [(40 + step * index, bottom - height * value / highest) for index, (_, value) in enumerate(line)]
        path = " ".join(f"{x:.1f},{v:.1f}" for x, v in at)
        parts.append(f'<polyline points="{path}" class="line{" dashed" if draw == scale.ALIKE else ""}"/>')
        beside = 8 if draw == scale.BY_ZIPF else -8  # the ends of the two lines may be close to each other
        parts.append(_text(at[-1][0] + 8, at[-1][1] + 4 + beside, f"{line[-1][1]:.1f}  {draw}"))
    return bottom + 30


def _by_size(timings: Mapping[str, Timing], draw: str) -> list[tuple[int, float]]:
    ending = f" live sessions, {draw}"
    return [(int(name.removesuffix(ending).replace(",", "")), one.best_us) for name, one in timings.items() if name.endswith(ending)]
