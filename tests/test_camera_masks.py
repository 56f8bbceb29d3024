"""Masks: where a part can fail, where it cannot, and what is refused."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mapl_edge.config import CameraConfig, StationConfig, config_from_dict
from mapl_edge.contract import InputContract
from mapl_edge.errors import ConfigError, ContractMismatch, PictureError
from mapl_edge.masks import InspectedArea, Masks, map_score, masks_from_camera

CONTRACT = InputContract(size_hw=(64, 96))
PICTURE_HW = (128, 192)
LEFT_HALF = [[[0, 0], [96, 0], [96, 128], [0, 128]]]


def masks(**drawn: object) -> Masks:
    """From what stands in a station file."""
    found = masks_from_camera(config_from_dict(drawn, CameraConfig))
    assert found is not None
    return found


def blob(x: float, y: float, height: float = 0.95, spread: float = 8.0) -> np.ndarray:  # type: ignore[type-arg]
    """A round hill, float32 (64, 96)."""
    rows, columns = np.indices((64, 96))
    return (height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * spread**2))).astype(np.float32)


def test_without_a_mask_there_is_none() -> None:
    """And nothing is computed."""
    assert masks_from_camera(CameraConfig()) is None


def test_ignore_takes_away_and_inspect_leaves_only() -> None:
    """In pixels of the map."""
    ignored = masks(ignore=LEFT_HALF).area(CONTRACT, PICTURE_HW).ignored
    kept = masks(inspect=LEFT_HALF).area(CONTRACT, PICTURE_HW).ignored
    both = masks(inspect=LEFT_HALF, ignore=[[[0, 0], [48, 0], [48, 128], [0, 128]]]).area(CONTRACT, PICTURE_HW).ignored

    assert ignored[:, :48].all()
    assert not ignored[:, 48:].any()
    assert np.array_equal(kept, ~ignored)
    assert not both[:, 24:48].any()
    assert both.sum() == 64 * 72


@pytest.mark.parametrize("size_hw", [(64, 96), (128, 192), (160, 224), (96, 64)], ids=str)
def test_a_map_pixel_is_ignored_as_soon_as_a_part_of_it_is(size_hw: tuple[int, int]) -> None:
    """Whether the picture is shrunk or grown: one ignored camera pixel is enough."""
    ignored = masks(ignore=[[[50, 40], [51, 40], [51, 41], [50, 41]]])
    h, w = size_hw

    found = ignored.area(InputContract(size_hw=size_hw), PICTURE_HW).ignored

    expected = np.zeros(size_hw, bool)
    for row in range(h):
        for column in range(w):
            x, y = np.array([column, column + 1]) * 192 / w, np.array([row, row + 1]) * 128 / h
            expected[row, column] = x[0] < 51 and x[1] > 50 and y[0] < 41 and y[1] > 40
    assert np.array_equal(found, expected)


def test_the_region_of_interest_is_cut_out_of_the_mask() -> None:
    """Polygons are in pixels of the whole camera picture."""
    contract = InputContract(size_hw=(64, 64), roi_xywh=(64, 32, 64, 64))

    ignored = masks(ignore=LEFT_HALF).area(contract, PICTURE_HW).ignored

    assert ignored[:, :32].all()
    assert not ignored[:, 32:].any()


def test_what_leaks_out_of_an_ignored_area_does_not_count() -> None:
    """The model's answer to a defect in the ignored half is broader than the defect: all of it goes."""
    area = masks(ignore=LEFT_HALF).area(CONTRACT, PICTURE_HW)
    leaking = blob(44, 32)

    assert leaking[:, 48:].max() > 0.8
    assert area.seen(leaking).max() == 0
    assert map_score(area.seen(leaking)) == 0


def test_a_defect_beside_an_ignored_one_still_counts() -> None:
    """It stands out from what leaks, and keeps its height."""
    area = masks(ignore=LEFT_HALF).area(CONTRACT, PICTURE_HW)
    both = np.maximum(blob(30, 32), blob(75, 32))

    seen = area.seen(both)

    assert seen[32, 75] == both[32, 75]
    assert map_score(seen) == pytest.approx(map_score(blob(75, 32)), rel=0.01)


def test_a_calm_ignored_area_changes_nothing_elsewhere() -> None:
    """A part with a clean label is judged as if the label were not masked."""
    area = masks(ignore=LEFT_HALF).area(CONTRACT, PICTURE_HW)
    calm = blob(75, 32) + np.float32(0.01)

    seen = area.seen(calm)

    clearly = (calm > 0.04) & ~area.ignored
    assert np.array_equal(seen[clearly], calm[clearly])


def test_score_of_a_map_is_the_mean_of_its_highest_pixels() -> None:
    """25 of 256 x 256."""
    values = np.random.default_rng(0).permutation(65536).reshape(256, 256).astype(np.float32)

    assert map_score(values) == np.arange(65536 - 25, 65536).mean()


@pytest.mark.parametrize(
    ("drawn", "says"),
    [
        (
            {"ignore": [[[0, 0], [193, 0], [0, 50]]]},
            r"camera\.ignore\.0: point \(193, 0\) lies outside .* of 192x128 px",
        ),
        ({"inspect": [LEFT_HALF[0], [[0, -1], [9, 9], [0, 9]]]}, r"camera\.inspect\.1: point \(0, -1\) lies outside"),
        ({"ignore": [[[0, 0], [192, 0], [192, 128], [0, 128]]]}, "leave nothing to inspect"),
        ({"inspect": LEFT_HALF, "ignore": LEFT_HALF}, "leave nothing to inspect"),
        ({"inspect": [[[10, 10], [10.2, 10], [10.2, 10.2]]]}, "leave nothing to inspect"),
    ],
    ids=["outside", "negative", "all-ignored", "no-rest", "no-pixel"],
)
def test_a_mask_that_does_not_fit_the_picture_is_one_line(drawn: dict[str, object], says: str) -> None:
    """With the polygon that is wrong."""
    with pytest.raises(ConfigError, match=says) as caught:
        masks(**drawn).area(CONTRACT, PICTURE_HW)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ignore", "says"),
    [
        ([[[0, 0], [1, 1]]], "camera.ignore: polygon 0 has 2 points"),
        ([[[0, 0], [9, 9], [9, 0], [0, 9]]], "camera.ignore: polygon 0 crosses itself"),
        ([], "camera.ignore: expected polygons"),
        (3, "camera.ignore: expected polygons"),
        ([[0, 0], [1, 1], [2, 0]], "camera.ignore: polygon 0 expected a list of points"),
    ],
    ids=["few", "crossing", "none", "number", "no-list-of-polygons"],
)
def test_a_wrong_polygon_is_a_mistake_in_the_station_file(ignore: object, says: str) -> None:
    """Told by its key with all other mistakes."""
    with pytest.raises(ConfigError) as caught:
        config_from_dict({"camera": {"ignore": ignore, "fps": -1}}, StationConfig)

    assert any(mistake.startswith(says) for mistake in caught.value.mistakes), caught.value.mistakes
    assert len(caught.value.mistakes) == 2


def test_a_png_says_the_same_as_a_polygon(tmp_path: Path) -> None:
    """White is drawn."""
    pixels = np.zeros(PICTURE_HW, np.uint8)
    pixels[:, :96] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), pixels)

    painted = masks(ignore=str(tmp_path / "mask.png")).area(CONTRACT, PICTURE_HW)

    assert np.array_equal(painted.ignored, masks(ignore=LEFT_HALF).area(CONTRACT, PICTURE_HW).ignored)


def test_a_png_of_another_size_or_none_is_refused(tmp_path: Path) -> None:
    """Resizing it would move its borders without a word."""
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.full((64, 96), 255, np.uint8))
    small = masks(inspect=str(path))
    path.write_bytes(path.read_bytes()[:40])

    with pytest.raises(ConfigError, match=r"camera\.inspect: the mask is 96x64 px, the camera picture 192x128 px"):
        small.area(CONTRACT, PICTURE_HW)
    with pytest.raises(PictureError, match="truncated"):
        masks(inspect=str(path))


def test_a_picture_of_another_size_is_refused() -> None:
    """The camera was changed, the masks were not."""
    area = InspectedArea(PICTURE_HW, np.zeros((64, 96), bool))

    with pytest.raises(ContractMismatch, match="picture is 100x90 px, the masks are for 192x128 px"):
        area.check((90, 100))


def test_the_digest_tells_masks_apart(tmp_path: Path) -> None:
    """The same drawing has the same digest, whatever the file is called; each change another one."""
    pixels = np.zeros(PICTURE_HW, np.uint8)
    pixels[:50] = 255
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), pixels)
    pixels[50] = 255
    cv2.imwrite(str(tmp_path / "c.png"), pixels)
    a, b, c = (masks(ignore=str(tmp_path / f"{name}.png")).digest for name in "abc")
    moved = [[[0, 0], [96, 0], [96, 127], [0, 128]]]

    assert a == b
    digests = [
        a,
        c,
        *(masks(**drawn).digest for drawn in ({"ignore": LEFT_HALF}, {"inspect": LEFT_HALF}, {"ignore": moved})),
    ]
    assert len(set(digests)) == 5
