"""Camera health: whether a picture is one that this camera can be trusted with, before anybody looks for defects.

Calibrating measures the pictures of good parts and keeps their ranges as a `CameraReference` in calibration.yaml. A
picture beyond them in a way that no defect explains is the camera's fault: of another size, too dark or too bright as a
whole, blurred, red and blue swapped, shifted. What these pictures cannot tell is left out, and the reference says so.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Annotated

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mapl_edge.arrays import AnyArray, FloatArray, UInt8Array
from mapl_edge.place import moved

ROWS = 64  # rows of full sharpness that are looked at
SIDE = 64  # of the grid of pixels that are looked at, and of the small picture that shifts are told by
SHARE = (10, 50, 90)  # percentiles of the light
TINTS = (10, 25, 50, 75, 90)  # percentiles of blue minus red
FINE_NOISE = 15.0  # grey levels squared that noise and rounding add to differences; below it nothing is sharp
SHARP_LEFT = 0.5  # share of the blurriest good picture's sharpness that is still sharp
LIGHT_BEYOND = 0.25  # share of the way from the range to black or white that is still well lit,
LIGHT_SPREAD = 0.5  # and share of the range itself: where good parts differ in light, the next may differ more
LIGHT_MOST = 0.75  # share of the way to black or white that never is
COLOURED = 4.0  # grey levels that swapping red and blue must move every good picture's tints at least
TINT_BEYOND = 2.0  # times the spread of good tints that are still theirs
SHIFT_STILL = 3.0  # small-picture pixels that good parts may move among each other for a shift to be told
SHIFT_BEYOND = 1.0  # small-picture pixels beyond those that are still in place
SHIFT_SURE = 0.3  # response of the phase correlation
PROBE = 4  # small-picture pixels by which good pictures are moved, to see whether that is found
SAME_SHARE = 0.001  # of samples that differ between two pictures of a frozen camera

Range = tuple[float, float]


class Check(str, Enum):
    """What is looked at, by the names in station.yaml; in this order, the first fault is told."""

    SIZE = "size"
    FROZEN = "frozen"
    LIGHT = "light"
    SHARPNESS = "sharpness"
    COLOUR = "colour"
    SHIFT = "shift"


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """What one camera picture measures, inside the region of interest.

    Attributes:
        size_hw: of the whole picture.
        light: mean and percentiles 10, 50 and 90 of grey levels, 0..255.
        sharpness: across and down, finest differences between neighbours over those two pixels apart, in percent;
            light and contrast hardly matter.
        tint: percentiles 10, 25, 50, 75 and 90 of blue minus red, -255..255.
        samples: uint8 (h, w, 3), untouched pixels on a grid of about 64x64.
        small: float32 (64, 64), the picture shrunk.
    """

    size_hw: tuple[int, int]
    light: tuple[float, float, float, float]
    sharpness: tuple[float, float]
    tint: tuple[float, ...]
    samples: UInt8Array
    small: FloatArray

    @property
    def saturated(self) -> float:
        """Share of samples with a channel at 250 or above."""
        return float((self.samples.max(axis=2) >= 250).mean())


def measure(image: UInt8Array, roi_xywh: tuple[int, int, int, int] | None = None) -> Measures:
    """Measure a camera picture, uint8 (H, W, 3) BGR; a region that does not fit into it is cut at its edge."""
    size_hw = image.shape[0], image.shape[1]
    if roi_xywh is not None:
        x, y, w, h = roi_xywh
        inside = image[y : y + h, x : x + w]
        image = inside if min(inside.shape[:2]) > 2 else image
    h, w = image.shape[:2]
    samples = np.ascontiguousarray(image[:: max(1, h // SIDE), :: max(1, w // SIDE)])
    grey = _sorted(cv2.cvtColor(samples, cv2.COLOR_BGR2GRAY))
    tint = _sorted(samples[:, :, 0].astype(np.int16) - samples[:, :, 2])
    step = max(1, h // ROWS)
    rows = [cv2.extractChannel(image[at : h - 2 + at : step], 1) for at in range(3)]  # each with the two below it
    small = cv2.resize(rows[0], (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    p10, p50, p90 = (float(grey[grey.size * share // 100]) for share in SHARE)
    return Measures(
        size_hw,
        (cv2.mean(grey)[0], p10, p50, p90),
        _sharpness(*rows),
        tuple(float(tint[tint.size * share // 100]) for share in TINTS),
        samples,
        small,
    )


def _sorted(values: AnyArray) -> AnyArray:
    """Of 8 or 16 bits each, for which a stable sort is a radix sort, several times faster than the others."""
    return np.sort(values, axis=None, kind="stable")


def _sharpness(above: AnyArray, middle: AnyArray, below: AnyArray) -> tuple[float, float]:
    """Energy of second differences over that of central differences, across and down, in percent.

    Both see the same contrast, but only the first the highest frequencies: the ratio falls with the width of the blur,
    as the variance of the Laplacian does (Pech-Pacheco et al. 2000), and not with light, contrast or amount of texture.
    Each way by itself, since a part that moves while it is exposed is blurred one way only. Rows go on beyond both ends
    as in a mirror: there the second difference is twice the first.
    """
    across, straight = _energies(above[:, :-2], above[:, 1:-1], above[:, 2:])
    ends = _energy(above[:, :1], above[:, 1:2]) + _energy(above[:, -2:-1], above[:, -1:])
    down, level = _energies(above, middle, below)
    noise = FINE_NOISE * above.size
    return 100 * (across + 4 * ends) / (straight + noise), 100 * down / (level + noise)


def _energies(a: AnyArray, b: AnyArray, c: AnyArray) -> tuple[float, float]:
    """Of a - 2b + c, which is 2(a - b)² + 2(b - c)² - (a - c)² and so needs no temporaries; and of a - c."""
    ac = _energy(a, c)
    return 2 * _energy(a, b) + 2 * _energy(b, c) - ac, ac


def _energy(a: AnyArray, b: AnyArray) -> float:
    return cv2.norm(a, b, cv2.NORM_L2SQR)


class ShiftReference(BaseModel):
    """Where good parts lie: their mean picture as PNG (64x64, base64), and how far they moved from it at most, in it.

    `least_response` is that of the phase correlation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str
    most_px: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    least_response: Annotated[float, Field(allow_inf_nan=False)]

    @field_validator("picture")
    @classmethod
    def _is_a_picture(cls, text: str) -> str:
        _edges_from_text(text)
        return text

    def offset(self, small: FloatArray) -> tuple[float, float, float]:
        """By how much a small picture is shifted, in its pixels: x to the right, y down, and the response."""
        return _offset(_edges_from_text(self.picture), _edges(small))


class CameraReference(BaseModel):
    """The ranges of good pictures, lowest and highest.

    Attributes:
        n: pictures that it comes from.
        size_hw: their size; None where they differ.
        light: mean and percentiles 10, 50 and 90.
        sharpness: across and down, in percent.
        tint: median of the tints; None where these pictures are not coloured enough to tell red from blue.
        tint_spread: how far a good picture's tints are from it at most, in grey levels.
        shift: None where these pictures do not agree in place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    size_hw: tuple[int, int] | None
    light: tuple[Range, Range, Range, Range]
    sharpness: tuple[Range, Range]
    tint: tuple[float, float, float, float, float] | None
    tint_spread: float
    shift: ShiftReference | None

    @property
    def untold(self) -> dict[Check, str]:
        """What these pictures cannot tell, and why."""
        reasons = {
            Check.SIZE: (self.size_hw, "its pictures differ in size"),
            Check.COLOUR: (self.tint, "its pictures are too grey to tell red from blue"),
            Check.SHIFT: (self.shift, "its pictures do not agree in place"),
        }
        return {check: why for check, (told, why) in reasons.items() if told is None}


def reference_from_measures(good: Sequence[Measures]) -> CameraReference:
    """The reference of pictures of good parts; at least one."""
    sizes = {one.size_hw for one in good}
    mean, p10, p50, p90 = (_range(levels) for levels in zip(*(one.light for one in good), strict=True))
    across, down = (_range(sharp) for sharp in zip(*(one.sharpness for one in good), strict=True))
    tints = np.array([one.tint for one in good])
    centre = np.median(tints, axis=0)
    spread = float(np.abs(tints - centre).mean(axis=1).max())
    coloured = float(np.abs(_swapped(tints) - centre).mean(axis=1).min()) > max(COLOURED, TINT_BEYOND * spread)
    return CameraReference(
        n=len(good),
        size_hw=sizes.pop() if len(sizes) == 1 else None,
        light=(mean, p10, p50, p90),
        sharpness=(across, down),
        tint=tuple(centre.tolist()) if coloured else None,
        tint_spread=round(spread, 2),
        shift=_shift_reference([one.small for one in good]),
    )


def agree_in_place(pictures: UInt8Array) -> bool:
    """Whether parts lie so nearly at one place that a shift of the camera could be told; uint8 (N, H, W, 3), N > 0."""
    return _shift_reference([measure(picture).small for picture in pictures]) is not None


def _range(values: Sequence[float]) -> Range:
    return round(min(values), 2), round(max(values), 2)


def _swapped(tints: AnyArray) -> AnyArray:
    """The percentiles of red minus blue."""
    return -tints[..., ::-1]


def _shift_reference(small: Sequence[FloatArray]) -> ShiftReference | None:
    """None unless every good picture lies nearly where their mean does, and moving it is found by the right amount."""
    mean = np.clip(np.mean(small, axis=0).round(), 0, 255).astype(np.uint8)
    ok, png = cv2.imencode(".png", mean)
    assert ok
    text = base64.b64encode(png.tobytes()).decode()
    edges = _edges_from_text(text)
    found = np.array([_offset(edges, _edges(one)) for one in small])
    most, least = float(np.abs(found[:, :2]).max()), float(found[:, 2].min())
    if most > SHIFT_STILL or least < SHIFT_SURE:
        return None
    for (x, y, _), one in zip(found, small, strict=True):
        for dx, dy in ((PROBE, 0), (-PROBE, 0), (0, PROBE), (0, -PROBE)):
            again = _offset(edges, _edges(moved(one, dx, dy)))
            if max(abs(again[0] - x - dx), abs(again[1] - y - dy)) > PROBE / 2:
                return None
    return ShiftReference(picture=text, most_px=round(most, 2), least_response=round(least, 2))


@cache
def _edges_from_text(text: str) -> FloatArray:
    try:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(text, validate=True), np.uint8), cv2.IMREAD_GRAYSCALE)
    except (ValueError, cv2.error) as exc:
        raise ValueError("is no picture") from exc
    if np.shape(pixels) != (SIDE, SIDE):  # imdecode gives None for what is no picture
        raise ValueError(f"is no picture of {SIDE}x{SIDE} px")
    return _edges(pixels.astype(np.float32))


def _edges(small: FloatArray) -> FloatArray:
    """Strength of the edges: light that changes slowly does not pass for a shift."""
    return np.asarray(cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)), np.float32)


@cache
def _window() -> FloatArray:
    return np.asarray(cv2.createHanningWindow((SIDE, SIDE), cv2.CV_32F), np.float32)


def _offset(reference: FloatArray, edges: FloatArray) -> tuple[float, float, float]:
    """Phase correlation; OpenCV writes the window into what it is given, so it gets a copy."""
    (x, y), response = cv2.phaseCorrelate(reference.copy(), edges.copy(), _window())
    return x, y, response


def fault_in(
    found: Measures, reference: CameraReference, checks: Collection[Check] = tuple(Check), tolerance: float = 1.0
) -> str | None:
    """What is wrong with the camera, for people: "is blurred: sharpness 12.1, ...". None: nothing.

    Args:
        found: of the picture.
        reference: of the calibration.
        checks: which to make; FROZEN needs more than one picture, see `frozen`.
        tolerance: a larger one lets more pass; 1 is what was measured with.
    """
    for check in Check:
        if check in checks and check in _JUDGES:
            fault = _JUDGES[check](found, reference, tolerance)
            if fault is not None:
                return fault
    return None


def frozen(before: Measures, found: Measures) -> bool:
    """The two pictures are the same but for a thousandth of their samples: even the sensor's noise is missing."""
    if before.samples.shape != found.samples.shape:
        return False
    changed = cv2.countNonZero(cv2.absdiff(before.samples, found.samples).reshape(-1))
    return changed <= SAME_SHARE * found.samples.size


def _size_fault(found: Measures, reference: CameraReference, tolerance: float) -> str | None:
    if reference.size_hw is None or found.size_hw == reference.size_hw:
        return None
    (h, w), (want_h, want_w) = found.size_hw, reference.size_hw
    return (
        f"gives another size: {w}x{h} px, calibrated with {want_w}x{want_h} px; "
        "set the camera's format back, or calibrate again"
    )


def _light_fault(found: Measures, reference: CameraReference, tolerance: float) -> str | None:
    """The mean is out of bounds, and every percentile out of its range to the same side: no part of it is as it was.

    A defect, be it large and black, leaves the rest of the picture as bright as ever.
    """
    mean, low, high = found.light[0], *reference.light[0]
    spread = LIGHT_SPREAD * (high - low)
    least = low - min(max(LIGHT_BEYOND * low, spread) * tolerance, LIGHT_MOST * low)
    most = high + min(max(LIGHT_BEYOND * (255 - high), spread) * tolerance, LIGHT_MOST * (255 - high))
    range_ = f"mean grey level {mean:.1f}, calibration's range {low:.0f} to {high:.0f}, bound"
    pairs = list(zip(found.light[1:], reference.light[1:], strict=True))
    if mean < least and all(level <= edge[0] for level, edge in pairs):
        how = "black" if found.light[3] <= 8 else "too dark"
        return f"is {how}: {range_} {least:.0f}; check light, lens cap, aperture and exposure"
    if mean > most and all(level >= edge[1] for level, edge in pairs):
        return (
            f"is over-exposed: {range_} {most:.0f}, {found.saturated:.0%} of its pixels saturated; "
            "check exposure, gain and light from outside"
        )
    return None


def _sharpness_fault(found: Measures, reference: CameraReference, tolerance: float) -> str | None:
    for way, sharp, (low, high) in zip(("across", "down"), found.sharpness, reference.sharpness, strict=True):
        least = low * SHARP_LEFT**tolerance
        if sharp < least:
            return (
                f"is blurred: sharpness {way} {sharp:.1f}, calibration's range {low:.1f} to {high:.1f}, "
                f"bound {least:.1f}; clean or focus the lens, or expose shorter"
            )
    return None


def _colour_fault(found: Measures, reference: CameraReference, tolerance: float) -> str | None:
    if reference.tint is None:
        return None
    as_is, swapped = (
        sum(abs(have - want) for have, want in zip(tint, reference.tint, strict=True)) / len(TINTS)
        for tint in (found.tint, tuple(-level for level in reversed(found.tint)))
    )
    if as_is <= TINT_BEYOND * tolerance * max(reference.tint_spread, 1.0) or 2 * swapped >= as_is:
        return None
    return (
        f"has red and blue swapped: blue minus red is {as_is:.0f} grey levels off, and {swapped:.0f} with the two "
        "changed round; set the colour order of the camera or its driver back"
    )


def _shift_fault(found: Measures, reference: CameraReference, tolerance: float) -> str | None:
    if reference.shift is None:
        return None
    x, y, response = reference.shift.offset(found.small)
    bound = reference.shift.most_px + SHIFT_BEYOND * tolerance
    if max(abs(x), abs(y)) <= bound or response < SHIFT_SURE:
        return None
    return (
        f"is shifted by {100 * x / SIDE:.1f}% of its picture's width and {100 * y / SIDE:.1f}% of its height, "
        f"calibration's parts lie within {100 * reference.shift.most_px / SIDE:.1f}%, bound {100 * bound / SIDE:.1f}%; "
        "put camera and part holder back in place"
    )


_JUDGES = {
    Check.SIZE: _size_fault,
    Check.LIGHT: _light_fault,
    Check.SHARPNESS: _sharpness_fault,
    Check.COLOUR: _colour_fault,
    Check.SHIFT: _shift_fault,
}
