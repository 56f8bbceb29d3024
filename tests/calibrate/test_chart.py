"""Charts: the right place, whatever the numbers, and words for those who do not see them."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mapl_edge.calibrate.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, ticks


def elements(chart: Chart, tag: str) -> list[ElementTree.Element]:
    """What was drawn; the SVG is well-formed XML."""
    return list(ElementTree.fromstring(chart.svg()).iter(tag))


def test_bars_stand_where_their_counts_are() -> None:
    """Upwards and downwards from zero; empty bins draw nothing."""
    chart = Chart("t", "x", "y", (0, 4), (-2, 2), whole=True)

    chart.bars(np.array([0, 1, 2, 4]), np.array([2, 0, -1]), "good", "parts")

    up, down, legend = elements(chart, "rect")
    unit, zero = (HEIGHT - BOTTOM - TOP) / 4, (HEIGHT - BOTTOM + TOP) / 2
    assert (float(up.attrib["y"]), float(up.attrib["height"])) == pytest.approx((TOP, 2 * unit), abs=0.1)
    assert (float(down.attrib["y"]), float(down.attrib["height"])) == pytest.approx((zero, unit), abs=0.1)
    assert float(down.attrib["x"]) == pytest.approx((LEFT + WIDTH - RIGHT) / 2, abs=0.1)
    assert legend.attrib["class"] == "good"


def test_steps_have_the_height_of_their_end() -> None:
    """Average precision is the area under just these steps."""
    chart = Chart("t", "x", "y", (0, 1), (0, 1))

    chart.line([0, 0.5, 1], [1, 1, 0.5], "good", "p", steps=True)

    path = elements(chart, "path")
    drawn = next(each.attrib["d"] for each in path if each.attrib.get("class") == "good")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    assert re.findall(r"[MVH][\d. ]+", drawn)[-2:] == [f"V{middle:.1f}", f"H{WIDTH - RIGHT:.1f}"]


def test_words_are_for_everybody_and_escaped() -> None:
    """A screen reader reads title and legend; a name cannot leave the text."""
    chart = Chart("<b>scores</b>", "x", "y", (0, 1), (0, 1))

    chart.limit(0.5, "fail", 'fail "&" limit')

    (svg,) = elements(chart, "svg")
    assert svg.attrib["aria-label"] == '<b>scores</b>: fail "&" limit'
    assert "<b>" not in chart.svg()


def test_values_beyond_the_axes_stay_inside() -> None:
    """And a range of one value has a width."""
    chart = Chart("t", "x", "y", (3, 3), (0, 1))

    chart.point(99, -5, "fail", "far")

    mark = elements(chart, "circle")[0]
    assert (float(mark.attrib["cx"]), float(mark.attrib["cy"])) == (WIDTH - RIGHT, HEIGHT - BOTTOM)


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ((-12, 31), [-10, 0, 10, 20, 30]),
        ((0, 4e-7), [0, 1e-7, 2e-7, 3e-7, 4e-7]),
    ],
    ids=str,
)
def test_ticks_are_round(span: tuple[float, float], expected: list[float]) -> None:
    """Steps of 1, 2 or 5."""
    assert ticks(*span) == pytest.approx(expected)


def test_ticks_of_counts_are_whole() -> None:
    """Nobody counts half a part."""
    assert ticks(0, 2, least_step=1.0) == [0, 1, 2]
