"""The synthetic line wears as it is told to, and not at all by default."""

import numpy as np
import pytest

from mapl_edge.config import ConfigError
from mapl_edge.runtime import source_from_uri
from mapl_edge.testing import Ageing, SyntheticLine

SIZE = (96, 96)


def centre_x(image: np.ndarray) -> float:
    """Of the bright part."""
    grey = image.astype(float).sum(axis=(0, 2))
    return float(grey @ np.arange(len(grey)) / grey.sum())


def test_a_line_without_wear_is_bit_for_bit_the_line() -> None:
    """Data sets and figures made before stay."""
    plain = SyntheticLine(size_hw=SIZE).part(7).image
    unworn = SyntheticLine(size_hw=SIZE, ageing=Ageing(lamp=0.5, defocus=3, shift=9, start=7)).part(7).image

    assert np.array_equal(plain, unworn)


def test_the_lamp_loses_its_share_every_thousand_parts() -> None:
    """0.97 after a thousand, 0.97 squared after two."""
    new, worn = (
        SyntheticLine(size_hw=SIZE, ageing=Ageing(lamp=0.03, start=start)).good(0).image.mean() for start in (0, -2000)
    )

    assert worn / new == pytest.approx(0.97**2, abs=0.004)


def test_defocus_takes_edges_away_and_leaves_the_light() -> None:
    """Blurs add as variances."""
    sharp, soft = (
        SyntheticLine(size_hw=SIZE, ageing=Ageing(defocus=1.0, start=start)).good(0).image for start in (0, -2000)
    )

    assert np.abs(np.diff(soft.astype(int), axis=1)).mean() < 0.8 * np.abs(np.diff(sharp.astype(int), axis=1)).mean()
    assert soft.mean() == pytest.approx(sharp.mean(), rel=0.01)
    assert Ageing(defocus=1.0).blur_px(2000, 1.5) == pytest.approx(2.5)


def test_a_slipping_camera_carries_parts_to_the_right() -> None:
    """And to the left with a negative rate."""
    start, right, left = (
        centre_x(SyntheticLine(size_hw=SIZE, ageing=Ageing(shift=shift, start=-1000)).good(0).image)
        for shift in (0, 4, -4)
    )

    assert left < start - 1 < start + 1 < right


def test_a_source_ages_from_its_first_part() -> None:
    """`start=` chooses other parts, not an older lamp."""
    (first,) = (shot.image for shot in source_from_uri("line:?parts=1&size=96&start=500&lamp=0.9&defects=0").shots())

    assert np.array_equal(first, SyntheticLine(defect_rate=0, size_hw=SIZE).part(500).image)


@pytest.mark.parametrize("wrong", ["lamp=1", "lamp=-0.1", "defocus=-1", "shift=nan"])
def test_an_impossible_wear_is_refused(wrong: str) -> None:
    """Before a part is made."""
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        source_from_uri(f"line:?{wrong}")


@pytest.mark.parametrize("wrong", [{"lamp": 1.0}, {"lamp": -0.1}, {"defocus": -1.0}])
def test_an_impossible_ageing_is_refused(wrong: dict[str, float]) -> None:
    """Where it is born."""
    with pytest.raises(ValueError, match="expected"):
        Ageing(**wrong)
