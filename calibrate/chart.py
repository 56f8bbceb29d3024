"""Chart: numbers drawn as inline SVG from arrays alone, readable on paper, in black and white and in the dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Literal

import numpy.typing as npt

Kind = Literal["good", "bad", "fail", "review"]
Range = tuple[float, float]

WIDTH, HEIGHT = 520, 290
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 46
LEGEND_LINE, LETTER = 18, 6.6  # px
STYLE = """
svg.chart { width: 100%; max-width: 560px; height: auto; font: 12px system-ui, sans-serif; }
svg.chart text { fill: currentColor; }
svg.chart .axis { stroke: currentColor; fill: none; } svg.chart .grid { stroke: currentColor; opacity: .15; }
svg.chart rect.good { fill: #3a9d5d; } svg.chart rect.bad { fill: #d0493c; stroke: currentColor; stroke-width: .6; }
svg.chart path.good { stroke: #3a7fc4; stroke-width: 2; fill: none; }
svg.chart path.bad { stroke: #d0493c; stroke-width: 2; fill: none; stroke-dasharray: 2 2; }
svg.chart path.fail { stroke: currentColor; stroke-width: 2; fill: none; }
svg.chart path.review { stroke: currentColor; stroke-width: 1.5; fill: none; stroke-dasharray: 6 4; }
svg.chart circle { stroke: currentColor; stroke-width: 1.5; fill: currentColor; }
svg.chart circle.review { fill: none; }
"""


class Chart:
    """One chart; what is drawn later lies on top.

    Args:
        title: for people who hear the page, and for the caption.
        x_range, y_range: what the axes span; values beyond them are drawn at the border.
        whole: counts on the y axis: whole numbers, and those below zero without their sign.
    """

    def __init__(
        self, title: str, x_label: str, y_label: str, x_range: Range, y_range: Range, whole: bool = False
    ) -> None:
        self.title = title
        self._labels, self._x, self._y, self._whole = (x_label, y_label), _wide(x_range), _wide(y_range), whole
        self._drawn: list[str] = []
        self._legend: list[tuple[str, Kind, str]] = []

    def bars(self, edges: npt.NDArray, counts: npt.NDArray, kind: Kind, label: str) -> None:  # type: ignore[type-arg]
        """Bars between neighbouring edges from 0 to each count."""
        zero = self._down(0.0)
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
            if count:
                x0, x1, y = self._right(left), self._right(right), self._down(count)
                size = f'width="{max(x1 - x0 - 0.5, 0.5):.1f}" height="{abs(zero - y):.1f}"'
                self._drawn.append(f'<rect class="{kind}" x="{x0:.1f}" y="{min(y, zero):.1f}" {size}/>')
        self._legend.append(("rect", kind, label))

    def line(self, x: Sequence[float], y: Sequence[float], kind: Kind, label: str, steps: bool = False) -> None:
        """A line through the points; with `steps` each stretch has the height of its end."""
        path = f"M{self._right(x[0]):.1f} {self._down(y[0]):.1f}"
        for to_x, to_y in zip(x[1:], y[1:], strict=True):
            right, down = f"{self._right(to_x):.1f}", f"{self._down(to_y):.1f}"
            path += f"V{down}H{right}" if steps else f"L{right} {down}"
        self._drawn.append(f'<path class="{kind}" d="{path}"/>')
        self._legend.append(("path", kind, label))

    def limit(self, x: float, kind: Kind, label: str) -> None:
        """A line from top to bottom."""
        at = f"{self._right(x):.1f}"
        self._drawn.append(f'<path class="{kind}" d="M{at} {TOP}V{HEIGHT - BOTTOM}"/>')
        self._legend.append(("path", kind, label))

    def point(self, x: float, y: float, kind: Kind, label: str) -> None:
        """A mark."""
        self._drawn.append(f'<circle class="{kind}" cx="{self._right(x):.1f}" cy="{self._down(y):.1f}" r="5"/>')
        self._legend.append(("circle", kind, label))

    def svg(self) -> str:
        """The drawing, one `<svg>` element."""
        legend, n_lines = self._legend_drawn()
        height = HEIGHT + (n_lines and 8 + n_lines * LEGEND_LINE)
        said = html.escape(f"{self.title}: {'; '.join(label for _, _, label in self._legend)}")
        axes = f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'
        return (
            f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height}" aria-label="{said}">'
            f"<title>{said}</title>{self._grid()}{''.join(self._drawn)}{axes}{legend}</svg>"
        )

    def _grid(self) -> str:
        bottom, drawn = HEIGHT - BOTTOM, []
        for value in ticks(*self._x):
            x = f"{self._right(value):.1f}"
            drawn.append(f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{value:.6g}</text>')
        for value in ticks(*self._y, least_step=1.0 if self._whole else 0.0):
            y, shown = self._down(value), abs(value) if self._whole else value
            drawn.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            drawn.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{shown:.6g}</text>')
        x_label, y_label = map(html.escape, self._labels)
        middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + bottom) / 2
        drawn.append(f'<text x="{middle_x:.0f}" y="{bottom + 36}" text-anchor="middle">{x_label}</text>')
        turned = f'text-anchor="middle" transform="translate(14 {middle_y:.0f}) rotate(-90)"'
        return "".join([*drawn, f"<text {turned}>{y_label}</text>"])

    def _legend_drawn(self) -> tuple[str, int]:
        x, line, drawn = float(LEFT), 0, []
        for shape, kind, label in self._legend:
            needed = 34 + LETTER * len(label)
            if x > LEFT and x + needed > WIDTH:
                x, line = float(LEFT), line + 1
            y = HEIGHT + 12 + LEGEND_LINE * line
            drawn.append(
                {
                    "rect": f'<rect class="{kind}" x="{x:.0f}" y="{y - 8}" width="20" height="10"/>',
                    "path": f'<path class="{kind}" d="M{x:.0f} {y - 3}h20"/>',
                    "circle": f'<circle class="{kind}" cx="{x + 10:.0f}" cy="{y - 3}" r="5"/>',
                }[shape]
            )
            drawn.append(f'<text x="{x + 26:.0f}" y="{y + 1}">{html.escape(label)}</text>')
            x += needed
        return "".join(drawn), line + 1 if self._legend else 0

    def _right(self, x: float) -> float:
        return LEFT + _share(x, self._x) * (WIDTH - RIGHT - LEFT)

    def _down(self, y: float) -> float:
        return HEIGHT - BOTTOM - _share(y, self._y) * (HEIGHT - BOTTOM - TOP)


def ticks(low: float, high: float, most: int = 6, least_step: float = 0.0) -> list[float]:
    """Round numbers from `low` to `high`, at steps of 1, 2 or 5 times a power of ten, about `most` of them."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = max(next(step * m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= most), least_step)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _share(value: float, of: Range) -> float:
    return min(max((value - of[0]) / (of[1] - of[0]), 0.0), 1.0)


def _wide(span: Range) -> Range:
    """A range with some width, for values that are all equal."""
    return span if span[1] > span[0] else (span[0] - 0.5, span[0] + 0.5)
