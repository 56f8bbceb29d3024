"""Words: figures of a report as people read them."""

from __future__ import annotations

from typing import Any

from mapl_edge.calibration import Limits


def figure_words(figures: dict[str, Any], name: str) -> str:
    """A metric with its interval."""
    interval = (figures.get("intervals") or {}).get(name)
    return f"{figures[name]:.4f}" + (f" ({interval[0]:.3f} - {interval[1]:.3f})" if interval else "")


def interval_words(interval: tuple[float, float] | None) -> str:
    """Shares as percentages."""
    return "-" if interval is None else f"{interval[0]:.1%} - {interval[1]:.1%}"


def limits_words(limits: Limits) -> str:
    """Each limit that there is."""
    said = [f"fail {limits.fail:.6g}"]
    said += [] if limits.review is None else [f"review {limits.review:.6g}"]
    return ", ".join(said + ([] if limits.pixel is None else [f"pixel {limits.pixel.limit:.6g}"]))


def pairs(values: dict[str, Any]) -> str:
    """Names and values, nested ones in brackets; what is empty is left out."""
    plain = {name: value for name, value in values.items() if value not in (None, "", {})}
    return ", ".join(f"{name} {_plain(value)}" for name, value in plain.items())


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"({pairs(value)})" if isinstance(value, dict) else str(value)
