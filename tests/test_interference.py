"""Interference: of the strength it says, the same each time, and grey where the camera is."""

import numpy as np
import pytest

from mapl_edge.arrays import UInt8Array
from mapl_edge.contract import InputContract
from mapl_edge.interference import Interference
from mapl_edge.prepare import prepare

NOISE = Interference(noise_sigma=10, contrast=(1, 1))
CONTRAST = Interference(noise_sigma=0, contrast=(0.5, 1.5))


def flat(value: int | tuple[int, int, int] = (100, 110, 120)) -> UInt8Array:
    """A picture of one colour, 120x160 px."""
    return np.full((120, 160, 3), value, np.uint8)


def test_noise_has_its_sigma_in_every_channel() -> None:
    """And channels of a colour picture are disturbed each for itself."""
    change = NOISE.apply(flat(), 0).astype(float) - flat()

    assert change.std(axis=(0, 1)) == pytest.approx(10, rel=0.03)
    assert change.mean(axis=(0, 1)) == pytest.approx(0, abs=0.3)
    assert abs(np.corrcoef(change[:, :, 0].ravel(), change[:, :, 1].ravel())[0, 1]) < 0.03


def test_a_grey_picture_stays_grey() -> None:
    """Coloured noise would tell a model that something is odd which no grey camera shows."""
    disturbed = Interference().apply(flat(100), 0)

    np.testing.assert_array_equal(disturbed[:, :, 0], disturbed[:, :, 1])
    np.testing.assert_array_equal(disturbed[:, :, 0], disturbed[:, :, 2])
    assert disturbed[:, :, 0].std() == pytest.approx(10, rel=0.03)


def test_contrast_turns_about_the_mean_grey_level() -> None:
    """The mean stays, differences grow or shrink by one factor, all of which are equally likely."""
    halves = flat((90, 90, 90))
    halves[:, 80:] = 130
    factors = []
    for i in range(300):
        disturbed = CONTRAST.apply(halves, i)
        assert disturbed.mean() == pytest.approx(110, abs=0.5)
        factors.append((int(disturbed[0, -1, 0]) - int(disturbed[0, 0, 0])) / 40)

    assert (min(factors), max(factors)) == pytest.approx((0.5, 1.5), abs=0.05)
    assert np.mean(factors) == pytest.approx(1, abs=0.05)


def test_results_are_rounded_and_clipped() -> None:
    """255 and a little must not become 0."""
    white = NOISE.apply(flat(255), 0)

    assert (white.dtype, white.shape) == (np.uint8, (120, 160, 3))
    assert white.min() > 200
    assert (white == 255).mean() == pytest.approx(0.52, abs=0.02), "half, and what rounds up"


def test_it_follows_from_seed_and_index_alone() -> None:
    """Two models must be measured on the same pictures."""
    first = Interference(seed=3).apply(flat(), 7)

    np.testing.assert_array_equal(first, Interference(seed=3).apply(flat(), 7))
    assert not np.array_equal(first, Interference(seed=3).apply(flat(), 8))
    assert not np.array_equal(first, Interference(seed=4).apply(flat(), 7))
    np.testing.assert_array_equal(flat(), Interference(noise_sigma=0, contrast=(1, 1)).apply(flat(), 0))


def test_augmentation_goes_from_nothing_to_everything() -> None:
    """Training should see clean pictures too."""
    rng = np.random.default_rng(0)
    spread = [np.std(NOISE.augment(rng, flat(100)).astype(float) - 100) for _ in range(200)]

    assert min(spread) < 0.5
    assert max(spread) == pytest.approx(10, abs=0.5)
    assert np.mean(spread) == pytest.approx(5, abs=0.6)


def test_the_picture_given_is_left_alone() -> None:
    """The caller may still need the clean one."""
    picture = flat()

    Interference().apply(picture, 0)

    np.testing.assert_array_equal(picture, flat())


def test_shrinking_averages_noise_away() -> None:
    """What docs/evaluate.md says: of 10 grey levels at 320 px about 6.5 are left at 256 px."""
    noisy = NOISE.apply(np.full((320, 320, 3), 100, np.uint8), 0)

    assert prepare(noisy, InputContract()).std() == pytest.approx(6.5, abs=0.2)


@pytest.mark.parametrize(
    "wrong",
    [{"noise_sigma": -1}, {"noise_sigma": np.nan}, {"contrast": (1.2, 0.8)}, {"contrast": (-0.1, 1)}, {"seed": -1}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    """At once, not at the first picture."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Interference(**wrong)  # type: ignore[arg-type]
