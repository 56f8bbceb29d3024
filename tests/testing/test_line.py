"""The synthetic line is a fair judge: repeatable, random access, and its masks tell the whole truth."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mapl_edge.testing.line import DEFECTS, Part, SyntheticLine

SMALL = (96, 96)
POSES = ("fixed", "any")
sides_px = st.integers(64, 140)


def same(a: Part, b: Part) -> bool:
    """Equal to the last bit."""
    fields_agree = (a.defect, a.index) == (b.defect, b.index)
    return fields_agree and np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)


def silhouette(part: Part, reach_px: int = 0) -> NDArray[np.uint8]:
    """Where the part lies, holes filled, found in the picture alone: metal is bright, the belt is dark."""
    _, bright = cv2.threshold(part.image.min(axis=2), 75, 255, cv2.THRESH_BINARY)
    outlines, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(part.mask)
    cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 255, cv2.FILLED)
    return cv2.dilate(filled, np.ones((2 * reach_px + 1,) * 2)).astype(np.uint8)


@pytest.mark.parametrize("pose", POSES)
def test_same_index_gives_the_same_part(pose: Any) -> None:
    """A failing picture can be drawn again from its number, in another process too: nothing but the fields counts."""
    line, twin = (SyntheticLine(seed=4, size_hw=SMALL, pose=pose) for _ in range(2))

    assert all(same(line.part(i), twin.part(i)) for i in range(12))


def test_order_of_asking_does_not_matter() -> None:
    """Random access: part 7 is the same after part 6 and out of the blue."""
    line = SyntheticLine(size_hw=SMALL)
    forwards = [line.part(i) for i in range(10)]
    backwards = [line.part(i) for i in reversed(range(10))]

    assert all(same(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))


def test_threads_share_one_line() -> None:
    """Several cameras may look at one line at a time."""
    line = SyntheticLine(size_hw=(72, 88), defect_rate=0.8)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(line.part, range(40)))

    assert all(same(part, line.part(part.index)) for part in together)


def test_seeds_and_indices_give_different_parts() -> None:
    """Train and test pictures must not repeat each other."""
    parts = [SyntheticLine(seed=seed, size_hw=SMALL).good(i).image.tobytes() for seed in range(3) for i in range(5)]

    assert len(set(parts)) == len(parts)


def test_pictures_are_8_bit_bgr_of_the_size_asked_for() -> None:
    """What comes out can stand in for a camera's frame."""
    part = SyntheticLine(size_hw=(80, 112)).bad(3, "dent")

    assert part.image.dtype == part.mask.dtype == np.uint8
    assert part.image.shape == (80, 112, 3)
    assert part.mask.shape == (80, 112)
    assert part.image.flags.writeable


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("kind", DEFECTS)
def test_defect_differs_from_its_clean_twin_only_inside_the_mask(kind: str, pose: Any) -> None:
    """The mask is the truth that detectors are measured by, so no trace of a defect may lie outside it."""
    line = SyntheticLine(seed=2, pose=pose, size_hw=(160, 160))
    for i in range(15):
        bad, good = line.bad(i, kind), line.good(i)
        change = cv2.absdiff(bad.image, good.image).max(axis=2)

        assert not change[bad.mask == 0].any()
        assert np.count_nonzero(change[bad.mask == 255]) > 0.75 * np.count_nonzero(bad.mask)
        assert change.max() >= 6, "a defect that the noise hides is no fair test"


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("kind", DEFECTS)
def test_defects_lie_on_the_part(kind: str, pose: Any) -> None:
    """A mark on the belt is not a defect of the part."""
    line = SyntheticLine(seed=5, pose=pose, size_hw=(160, 160))
    for i in range(15):
        on_part = silhouette(line.good(i), reach_px=3)

        assert not line.bad(i, kind).mask[on_part == 0].any()


@pytest.mark.parametrize("kind", DEFECTS)
def test_no_mask_is_empty(kind: str) -> None:
    """Every defective part can be found: at the smallest size, where little room is left, as well."""
    line = SyntheticLine(size_hw=(64, 64))
    masks = [line.bad(i, kind).mask for i in range(120)]

    assert min(np.count_nonzero(mask) for mask in masks) >= 3
    assert all(set(np.unique(mask)) == {0, 255} for mask in masks)


def test_good_parts_have_an_empty_mask() -> None:
    """Good parts count as negatives everywhere."""
    part = SyntheticLine(size_hw=SMALL).good(1)

    assert part.defect is None
    assert not part.mask.any()


def test_defects_come_at_their_rate_and_evenly_by_kind() -> None:
    """Statistics on part(i) need a known share of bad parts."""
    line = SyntheticLine(size_hw=(64, 64), defect_rate=0.4)
    seen = Counter(line.part(i).defect for i in range(600))

    assert 0.33 < 1 - seen[None] / 600 < 0.47
    assert set(seen) == {None, *DEFECTS}
    assert min(seen.values()) > 25


@pytest.mark.parametrize(("rate", "kinds"), [(0.0, {None}), (1.0, {"stain", "dent"})])
def test_rate_at_its_ends_is_exact(rate: float, kinds: set[str | None]) -> None:
    """Lines with only good parts, or only chosen defects, are what most tests want."""
    line = SyntheticLine(size_hw=(64, 64), defect_rate=rate, defects=("stain", "dent"))

    assert {line.part(i).defect for i in range(30)} == kinds


def test_drawn_part_equals_the_part_asked_for_by_kind() -> None:
    """Having met a bad part by chance, one can ask for it, and for its clean twin, by name."""
    line = SyntheticLine(size_hw=SMALL, defect_rate=0.9)
    drawn = [line.part(i) for i in range(8)]

    assert all(same(part, line.part(part.index, part.defect)) for part in drawn)


def test_fixed_pose_stays_within_a_few_pixels() -> None:
    """A fixture holds the part: anomaly maps may rely on places, up to a small play."""
    line = SyntheticLine(size_hw=(320, 320))
    boxes = np.array([cv2.boundingRect(silhouette(line.good(i))) for i in range(20)])

    assert np.ptp(boxes, axis=0).max() <= 22  # 2 * 4.8 px of shift, the rest turn and scale
    assert np.ptp(boxes[:, :2], axis=0).min() > 3


def test_any_pose_uses_all_angles_and_the_whole_picture() -> None:
    """Free parts must not secretly come in one place."""
    line = SyntheticLine(size_hw=(120, 200), pose="any")
    outlines = [cv2.findNonZero(silhouette(line.good(i))) for i in range(60)]
    boxes = np.array([cv2.boundingRect(outline) for outline in outlines])
    angles_deg = np.array([cv2.fitEllipse(cv2.convexHull(outline))[2] for outline in outlines])

    assert np.ptp(boxes[:, 0]) > 60
    assert np.histogram(angles_deg, bins=6, range=(0, 180))[0].min() > 0


@settings(max_examples=40, deadline=None)
@given(h=sides_px, w=sides_px, seed=st.integers(0, 2**40), index=st.integers(0, 2**40))
def test_any_pose_never_leaves_the_frame(h: int, w: int, seed: int, index: int) -> None:
    """A part cut off by the frame would be a defect that no mask tells of."""
    part = SyntheticLine(seed=seed, size_hw=(h, w), pose="any").good(index)
    x, y, width, height = cv2.boundingRect(silhouette(part))

    assert min(x, y, w - x - width, h - y - height) >= 1


@settings(max_examples=40, deadline=None)
@given(h=sides_px, w=sides_px, index=st.integers(0, 2**40), kind=st.sampled_from(DEFECTS), pose=st.sampled_from(POSES))
def test_every_size_tells_the_truth(h: int, w: int, index: int, kind: str, pose: Any) -> None:
    """Odd, narrow and tall pictures keep every promise of the square ones."""
    line = SyntheticLine(size_hw=(h, w), pose=pose)
    good, bad = line.good(index), line.bad(index, kind)
    changed = (good.image != bad.image).any(axis=2)

    assert good.image.shape == bad.image.shape == (h, w, 3)
    assert changed.any()
    assert not changed[bad.mask == 0].any()


def test_mvtec_folder_has_the_usual_layout(tmp_path: Path) -> None:
    """Anything that reads MVTec AD reads this folder."""
    line = SyntheticLine(size_hw=(64, 64), defects=("dent", "stain"))
    after = line.write_mvtec(tmp_path, n_train=3, n_test_good=2, n_test_per_defect=1, start=10)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}

    assert after == 17
    assert files == {
        *(f"train/good/00{i}.png" for i in range(3)),
        *(f"test/good/00{i}.png" for i in range(2)),
        *("test/dent/000.png", "ground_truth/dent/000_mask.png"),
        *("test/stain/000.png", "ground_truth/stain/000_mask.png"),
    }


def test_mvtec_pictures_are_the_parts_themselves_and_never_shared(tmp_path: Path) -> None:
    """PNG loses nothing, and no index serves both training and test."""
    line = SyntheticLine(size_hw=(64, 64), defects=("scratch",))
    line.write_mvtec(tmp_path, 2, 1, 1)
    names = ("train/good/000", "train/good/001", "test/good/000", "test/scratch/000")
    pictures = [np.asarray(cv2.imread(str(tmp_path / f"{name}.png"))) for name in names]
    mask = np.asarray(cv2.imread(str(tmp_path / "ground_truth/scratch/000_mask.png"), cv2.IMREAD_UNCHANGED))
    expected = [line.good(0), line.good(1), line.good(2), line.bad(3, "scratch")]

    assert all(np.array_equal(a, b.image) for a, b in zip(pictures, expected, strict=True))
    assert np.array_equal(mask, expected[3].mask)


def test_mvtec_folder_in_use_is_refused(tmp_path: Path) -> None:
    """Pictures left over from a larger set would be counted as part of the new one."""
    (tmp_path / "train").mkdir()

    with pytest.raises(FileExistsError, match="train already exists"):
        SyntheticLine(size_hw=(64, 64)).write_mvtec(tmp_path, 1, 1, 1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"defect_rate": 1.5}, "defect_rate is 1.5; expected a share from 0 to 1"),
        ({"defect_rate": float("nan")}, "defect_rate is nan"),
        ({"size_hw": (63, 320)}, r"size_hw is \(63, 320\); expected \(height, width\), each 64 px or more"),
        ({"pose": "upside"}, "pose is 'upside'; expected one of 'fixed', 'any'"),
        ({"defects": ("rust",)}, "defect is 'rust'; expected one of scratch, dent"),
        ({"defects": ()}, "defects is empty"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_field_is_refused(fields: dict[str, Any], says: str) -> None:
    """Mistakes show where they are made, with what was found and what is expected."""
    with pytest.raises(ValueError, match=says):
        SyntheticLine(**fields)


def test_wrong_index_kind_or_count_is_refused(tmp_path: Path) -> None:
    """The same for what is asked of a line."""
    line = SyntheticLine(size_hw=(64, 64))

    with pytest.raises(ValueError, match="index is -1; expected 0 or more"):
        line.part(-1)
    with pytest.raises(ValueError, match="defect is 'rust'; expected one of scratch"):
        line.part(0, "rust")
    with pytest.raises(ValueError, match="defect is 'auto'"):
        line.bad(0, "auto")
    with pytest.raises(ValueError, match=r"n_train=-2.*expected 0 or more"):
        line.write_mvtec(tmp_path, -2, 1, 1)
