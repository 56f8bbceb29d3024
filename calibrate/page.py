"""Page: one HTML file that works offline and on paper. All that goes into it is text, and is escaped here."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import cv2

from mapl_edge.arrays import UInt8Array
from mapl_edge.calibrate.chart import STYLE as CHART_STYLE

STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --paper: #fff; --line: #cfd6de; --soft: #5a6675; --ok: #dff3e5;
  --wrong: #fbdcd8; --note: #fdf1cf; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e9ef; --paper: #14181d; --line: #3a434e;
  --soft: #a3aebb; --ok: #1d4029; --wrong: #5a241f; --note: #4a3d12; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1120px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { max-width: 75ch; } p.small, figcaption { font-size: .85rem; color: var(--soft); }
p.ok, p.wrong, p.note { padding: .5rem .8rem; border: 1px solid var(--line); border-left-width: 5px; max-width: none; }
.ok { background: var(--ok); } .wrong { background: var(--wrong); } .note { background: var(--note); }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .6rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .2rem; }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.digest { font: .78rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
figure { margin: 0; break-inside: avoid; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1rem; }
.parts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 1.2rem; }
.part { border-top: 1px solid var(--line); padding-top: .5rem; }
.pictures { display: flex; gap: 4px; }
.pictures div { flex: 1 1 0; min-width: 0; font-size: .75rem; color: var(--soft); }
.pictures img { width: 100%; height: auto; display: block; }
figcaption { overflow-wrap: anywhere; }
@media print { @page { margin: 14mm; }
  body { margin: 0; max-width: none; font-size: 10pt; color: #000; background: #fff; }
  .ok, .wrong, .note { background: none; } p.ok, p.wrong, p.note { border-color: #000; }
  .wrong { font-weight: 700; } h2, caption { break-after: avoid; }
  tr, p { break-inside: avoid; } thead { display: table-header-group; } td.digest { font-size: 6.5pt; }
  .parts, .charts { grid-template-columns: 1fr 1fr; gap: 6mm; } .wide { overflow: visible; } }
"""
QUALITIES = (88, 75, 60)

Cell = str | tuple[str, str]
"""Text, or text and its class: n (a number), digest, ok, wrong, note."""


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page: its title, then sections of heading (text) and body (HTML)."""
    body = "".join(f"<section><h2>{html.escape(heading)}</h2>\n{content}</section>\n" for heading, content in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}{CHART_STYLE}</style>'
        f"</head><body>\n<h1>{html.escape(title)}</h1>\n{body}</body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """One paragraph; kind is small, ok, wrong or note."""
    return f'<p class="{kind}">{html.escape(text)}</p>\n' if kind else f"<p>{html.escape(text)}</p>\n"


def table(head: Sequence[Cell], rows: Sequence[Sequence[Cell]], caption: str = "") -> str:
    """A table; without a head the first column names the others."""
    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    top = f"<thead><tr>{''.join(_cell(cell, 'th') for cell in head)}</tr></thead>" if head else ""
    body = "\n".join(f"<tr>{''.join(_cell(cell, 'td') for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{said}{top}<tbody>{body}</tbody></table></div>\n'


def charts(drawn: Sequence[tuple[str, str]]) -> str:
    """Charts side by side: what each shows (text), and its SVG."""
    figures = "".join(f"<figure>{svg}<figcaption>{html.escape(says)}</figcaption></figure>\n" for says, svg in drawn)
    return f'<div class="charts">{figures}</div>\n'


def parts(figures: Sequence[tuple[str, Sequence[tuple[str, UInt8Array]]]], most_bytes: int) -> str:
    """Parts to look at, each with a caption and its pictures, uint8 (H, W, 3) BGR, by what they show.

    No JPEG becomes larger than `most_bytes`.
    """
    found = ""
    for caption, pictures in figures:
        shown = "".join(
            f'<div><img alt="{html.escape(f"{what}: {caption}")}" src="{jpeg_uri(image, most_bytes)}">'
            f"{html.escape(what)}</div>"
            for what, image in pictures
        )
        found += (
            f'<figure class="part"><div class="pictures">{shown}</div>'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>\n"
        )
    return f'<div class="parts">{found}</div>\n'


def jpeg_uri(image: UInt8Array, most_bytes: int) -> str:
    """A JPEG as data URI: of less quality, then smaller, until it has at most `most_bytes`."""
    while True:
        for quality in QUALITIES:
            _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
            if jpeg.size <= most_bytes or max(image.shape[:2]) <= 32:
                return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
        half = (max(1, image.shape[1] // 2), max(1, image.shape[0] // 2))
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]


def _cell(cell: Cell, tag: str) -> str:
    text, kind = (cell, "") if isinstance(cell, str) else cell
    return f'<{tag} class="{kind}">{html.escape(text)}</{tag}>' if kind else f"<{tag}>{html.escape(text)}</{tag}>"
