"""The report of a run: one HTML file that works offline, with the pictures inside."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mapl_edge.arrays import FloatArray, UInt8Array
from mapl_edge.errors import BackendUnavailable
from mapl_edge.judge import Judgement
from mapl_edge.overlay import marked
from mapl_edge.verdict import Outcome


@dataclass(frozen=True, slots=True)
class RunRow:
    """One verdict with the truth: label "good" or the defect, raw score, capture to verdict in ms."""

    label: str
    outcome: Outcome
    score: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Reject:
    """A rejected part to look at: its picture, the anomaly map on it, the nearest good part of the memory.

    Regions and masks of its judgement are drawn on the map.
    """

    caption: str
    picture: UInt8Array
    anomaly_map: FloatArray
    nearest: UInt8Array
    judgement: Judgement | None = None


def html_from_run(
    title: str, facts: Sequence[tuple[str, str]], rows: Sequence[RunRow], threshold: float, rejects: Sequence[Reject]
) -> str:
    """One self-contained page: facts, confusion table, histograms of score and latency, the rejects.

    Args:
        title: of the page.
        facts: name and value, in order.
        rows: every verdict of the run.
        threshold: the fail limit.
        rejects: strongest first; pictures and maps uint8 / float32 of one size each.
    """
    good = [r.score for r in rows if r.label == "good"]
    bad = [r.score for r in rows if r.label != "good"]
    triples = "\n".join(
        "<figure><div class=triple>"
        f"{_img(r.picture)}{_img(marked(heat_overlay(r.picture, r.anomaly_map), r.judgement))}{_img(r.nearest)}</div>"
        f"<figcaption>{html.escape(r.caption)}</figcaption></figure>"
        for r in rejects
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1d2530; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; margin-bottom: .2rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #dde3ea; }}
th:first-child, td:first-child, .facts td {{ text-align: left; }}
td.ok {{ background: #e4f5e9; }} td.wrong {{ background: #fde4e1; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1rem; }} .plots svg {{ width: 520px; max-width: 100%; height: auto; }}
.rejects {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(500px, 1fr)); gap: 1rem; }}
figure {{ margin: 0; }}
.triple {{ display: flex; gap: 4px; }} .triple img {{ width: 33%; }}
figcaption {{ font-size: .85rem; color: #556; }}
</style></head><body>
<h1>{html.escape(title)}</h1>
<table class=facts>{"".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in facts)}</table>
<h2>Verdicts</h2>
{_confusion(rows)}
<h2>Scores and time</h2>
<div class=plots>{_score_histogram(good, bad, threshold)}{_latency_histogram([r.latency_ms for r in rows])}</div>
<h2>Strongest rejects: part | where | nearest good part in the memory</h2>
<div class=rejects>{triples or "<p>No part was rejected.</p>"}</div>
</body></html>
"""


def heat_overlay(picture: UInt8Array, anomaly_map: FloatArray) -> UInt8Array:
    """The map in colours over the picture, see-through where nothing is wrong. uint8 (H, W, 3), BGR."""
    strength = np.clip(anomaly_map, 0, 1)
    colours = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    weight = (0.15 + 0.65 * strength)[:, :, None]
    return np.asarray(picture * (1 - weight) + colours * weight, dtype=np.float32).astype(np.uint8)


def _confusion(rows: Sequence[RunRow]) -> str:
    count = Counter((row.label, row.outcome) for row in rows)
    outcomes = [outcome for outcome in Outcome if any(key[1] is outcome for key in count)]
    labels = sorted({row.label for row in rows}, key=lambda label: (label != "good", label))
    head = "".join(f"<th>{outcome.value}</th>" for outcome in outcomes)
    body = ""
    for label in labels:
        cells = ""
        for outcome in outcomes:
            right = (outcome is Outcome.PASS) == (label == "good")
            n = count[label, outcome]
            cells += f'<td class="{("ok" if right else "wrong") if n else ""}">{n}</td>'
        body += f"<tr><td>{html.escape(label)}</td>{cells}</tr>"
    return f"<table><tr><th>part is</th>{head}</tr>{body}</table>"


def _score_histogram(good: Sequence[float], bad: Sequence[float], threshold: float) -> str:
    figure, axes = _figure()
    bins = np.linspace(min([*good, *bad, threshold]), max([*good, *bad, threshold]), 41)
    axes.hist([good, bad], bins=bins, stacked=True, label=["good", "defective"], color=["#3a9d5d", "#d0493c"])
    axes.axvline(threshold, color="#1d2530", linestyle="--", label=f"limit {threshold:.3g}")
    axes.set(xlabel="raw score", ylabel="parts")
    axes.legend()
    return _svg(figure)


def _latency_histogram(latency_ms: Sequence[float]) -> str:
    figure, axes = _figure()
    p50, p99 = np.percentile(latency_ms, [50, 99])
    axes.hist(latency_ms, bins=40, color="#4a78b5")
    for value, name in ((p50, "p50"), (p99, "p99")):
        axes.axvline(value, color="#1d2530", linestyle="--" if name == "p50" else ":", label=f"{name} {value:.1f} ms")
    axes.set(xlabel="capture to verdict, ms", ylabel="parts")
    axes.legend()
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise BackendUnavailable("matplotlib is not installed; pip install 'mapl-edge[train]'") from exc
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _img(image: UInt8Array) -> str:
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}">'
