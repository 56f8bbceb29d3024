"""A production line for tests, benchmarks and pictures: machined flanges with defects of known place and kind.

Every picture follows from the line's fields and an index alone, so any part can be had at any time, from any thread.
A part is shaded on a flat sheet of its own, then carried to the camera. The same index gives the same part, light and
sensor noise whether the part is good or bad, so outside the mask the two pictures are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, radians, sin
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mapl_edge.testing.ageing import Ageing

UInt8Array = NDArray[np.uint8]
Array = NDArray[Any]  # float32 unless said otherwise; cv2 and numpy's stubs lose track of it
Pose = Literal["fixed", "any"]

DEFECTS: tuple[str, ...] = ("scratch", "dent", "stain", "missing_hole", "wrong_part")


@dataclass(frozen=True, slots=True, eq=False)  # eq: arrays have no single truth; compare the fields
class Part:
    """One photographed part and the truth about it; the caller owns both arrays.

    Attributes:
        image: uint8, shape (H, W, 3), BGR, the picture that the virtual camera takes.
        mask: uint8, shape (H, W), 255 where the defect is visible, else 0; all 0 for a good part.
        defect: one of DEFECTS, or None for a good part.
        index: place of the part on its line.
    """

    image: UInt8Array
    mask: UInt8Array
    defect: str | None
    index: int


@dataclass(frozen=True, slots=True)
class SyntheticLine:
    """An endless line of parts with random access; holds no state, so threads may share it.

    Attributes:
        seed: >= 0; other seeds give other parts.
        defect_rate: 0..1, the share of defective parts among part(0), part(1), ...
        size_hw: picture height and width in pixels, each >= 64; the part scales with the shorter side.
        pose: "fixed" lays the part down within 1.5 % of the shorter side, 1.5 degrees and 1 % scale; "any" draws it
            smaller, at any angle, anywhere in the picture but never cut off.
        defects: the kinds that part() and write_mvtec() choose from, each equally likely.
        ageing: how the station wears out; it may carry parts out of the picture.

    Raises:
        ValueError: a field is out of its range.
    """

    seed: int = 0
    defect_rate: float = 0.3
    size_hw: tuple[int, int] = (320, 320)
    pose: Pose = "fixed"
    defects: tuple[str, ...] = DEFECTS
    ageing: Ageing = Ageing()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; expected 0 or more")
        if not 0.0 <= self.defect_rate <= 1.0:
            raise ValueError(f"defect_rate is {self.defect_rate}; expected a share from 0 to 1")
        if min(self.size_hw) < _MIN_SIDE_PX:
            raise ValueError(f"size_hw is {self.size_hw}; expected (height, width), each {_MIN_SIDE_PX} px or more")
        if self.pose not in _ZOOMS:
            raise ValueError(f"pose is {self.pose!r}; expected one of {', '.join(map(repr, _ZOOMS))}")
        if not self.defects and self.defect_rate > 0:
            raise ValueError("defects is empty; expected at least one kind, or defect_rate=0")
        for kind in self.defects:
            _check_kind(kind)

    def part(self, index: int, defect: str | None = "auto") -> Part:
        """Part number `index` (>= 0): by chance good or bad ("auto"), good (None), or with the given kind of defect.

        part(i), good(i) and bad(i, kind) show the same underlying part; part(i, part(i).defect) is part(i).

        Raises:
            ValueError: the index is negative or the kind unknown.
        """
        if index < 0:
            raise ValueError(f"index is {index}; expected 0 or more")
        kind = self._drawn_kind(index) if defect == "auto" else defect
        if kind is not None:
            _check_kind(kind)
        scene = _scene_of(self, index)
        picture = _photo(scene, _shape(scene.px_per_unit, "right"), _Damage())
        mask = np.zeros(self.size_hw, np.uint8)
        if kind is not None:
            damaged, mask = _damaged_photo(scene, picture, kind, _stream(self, index, 5 + DEFECTS.index(kind)))
            cv2.copyTo(damaged, mask, picture)
        image = cv2.add(picture, _sensor_noise(self.size_hw, _stream(self, index, 4)), dtype=cv2.CV_8U)
        return Part(np.asarray(image, np.uint8), mask, kind, index)

    def good(self, index: int) -> Part:
        """The part without any defect."""
        return self.part(index, None)

    def bad(self, index: int, kind: str) -> Part:
        """The part with a defect of this kind, which need not be among the line's own."""
        _check_kind(kind)
        return self.part(index, kind)

    def empty(self, index: int) -> UInt8Array:
        """The belt without a part, uint8 (H, W, 3), BGR, owned by the caller."""
        (h, w), rng = self.size_hw, _stream(self, index, 5 + len(DEFECTS))
        rubber, vignette = _belt(self.size_hw)
        top, left = (int(rng.integers(n // 2)) for n in (h, w))
        grey = rubber[top : top + h, left : left + w] * vignette
        picture = cv2.merge([grey * tint for tint in _RUBBER_BGR])
        return np.asarray(cv2.add(picture, _sensor_noise(self.size_hw, rng), dtype=cv2.CV_8U), np.uint8)

    def write_mvtec(
        self, folder: Path | str, n_train: int, n_test_good: int, n_test_per_defect: int, start: int = 0
    ) -> int:
        """Write PNG files laid out like an MVTec AD category and return the first index not used.

        Every picture shows another index, counted up from `start`: train/good, then test/good, then test/<defect> with
        ground_truth/<defect>/<name>_mask.png.

        Raises:
            ValueError: a count or `start` is negative.
            FileExistsError: the folder already holds a data set, whose left-over pictures would mix with the new ones.
        """
        root = Path(folder)
        if min(n_train, n_test_good, n_test_per_defect, start) < 0:
            given = (
                f"n_train={n_train}, n_test_good={n_test_good}, n_test_per_defect={n_test_per_defect}, start={start}"
            )
            raise ValueError(f"got {given}; expected 0 or more for each")
        for taken in (root / "train", root / "test", root / "ground_truth"):
            if taken.exists():
                raise FileExistsError(f"{taken} already exists; expected a folder without a data set: remove it first")
        plan: list[tuple[str, str | None, int]] = [("train", None, n_train), ("test", None, n_test_good)]
        plan += [("test", kind, n_test_per_defect) for kind in self.defects]
        index = start
        for split, kind, count in plan:
            for name in (f"{n:03d}" for n in range(count)):
                part = self.part(index, kind)
                _write_png(root / split / (kind or "good") / f"{name}.png", part.image)
                if kind is not None:
                    _write_png(root / "ground_truth" / kind / f"{name}_mask.png", part.mask)
                index += 1
        return index

    def _drawn_kind(self, index: int) -> str | None:
        rng = _stream(self, index, 0)
        if rng.random() >= self.defect_rate:
            return None
        return self.defects[int(rng.integers(len(self.defects)))]


# Lengths on the part are in units of its sheet: x to the right, y down, (0, 0) in the middle, the part is 0.78 wide.
_MIN_SIDE_PX = 64
_ZOOMS = {"fixed": 1.1, "any": 0.82}  # camera: shorter sides of the picture per unit
_SHEET_HALF_XY = (0.42, 0.31)
_SHEET_OVERSAMPLING = 1.25  # sheet pixels per camera pixel
_BORE = (-0.05, 0.0, 0.125)  # x, y, radius
_BOSS_RADIUS = 0.185
_CHAMFER = 0.011
_RUBBER_BGR = (1.09, 1.0, 0.95)  # its tint
_HOLES = (  # x, y, radius, width of the countersink
    (-0.325, -0.175, 0.034, 0.016),
    (0.325, -0.175, 0.034, 0.016),
    (-0.325, 0.175, 0.034, 0.016),
    (0.325, 0.175, 0.034, 0.016),
    (-0.05, -0.235, 0.019, 0.008),
    (-0.05, 0.235, 0.019, 0.008),
)
_WRONG_PARTS = ("slot_turned", "slot_as_holes", "edge_notch", "small_bore", "second_cut")
_VISIBLE_LEVELS = 4.0  # a defect counts as visible where it changes a pixel by this many grey levels before noise


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """A kind of part on its sheet (h, w); shared between calls, so the arrays are read-only."""

    cover: Array  # uint8, 255 on metal, 0 beside it and in holes, antialiased
    shadow: Array  # uint8, the same, soft
    outline: Array  # uint8, cover of the right part as if it had no holes
    depth: Array  # units from the nearest edge, > 0 on metal
    slope_x: Array  # rise of the surface per unit
    slope_y: Array
    face: Array  # 1 on the turned face of the boss
    ring: tuple[Array, Array]  # face times cos and sin of twice the angle around the bore
    radius_px: Array  # distance from the bore's axis, for the lathe's grooves
    hull: Array  # (N, 2) outline's convex hull, x and y in sheet pixels


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """All that a good part and its defective twin have in common."""

    px_per_unit: int
    ref_px: float  # sheet pixels per pixel of a 320 px picture
    size_hw: tuple[int, int]
    to_camera: Array  # (2, 3) affine, sheet to picture
    sun_xy: tuple[float, float]  # direction towards the light, in the sheet
    texture: Array  # (h, w) on the sheet, around 0
    belt: Array  # (H, W, 3) background with the part's shadow
    light: Array  # (H, W, 3) factor around 1
    blur_px: float


@dataclass(frozen=True, slots=True, eq=False)
class _Damage:
    """What a defect does to the sheet (h, w)."""

    glow: Array | None = None  # added grey levels
    dent: tuple[Array, Array] | None = None  # added slope_x, slope_y
    stain: Array | None = None  # opacity 0..1
    stain_bgr: tuple[float, float, float] = (0.0, 0.0, 0.0)


def _check_kind(kind: str) -> None:
    if kind not in DEFECTS:
        raise ValueError(f"defect is {kind!r}; expected one of {', '.join(DEFECTS)}")


def _stream(line: SyntheticLine, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([line.seed, index, purpose])


def _write_png(path: Path, image: UInt8Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())  # imwrite is silent when it fails


def _smooth(rng: np.random.Generator, grid_hw: tuple[int, int], size_hw: tuple[int, int]) -> Array:
    """Normal noise on a coarse grid, enlarged to float32 (H, W)."""
    grid = rng.standard_normal(grid_hw, dtype=np.float32)
    (rows, columns), (h, w) = grid_hw, size_hw
    half_way = (min(8 * columns, w), min(8 * rows, h))  # cubic all the way takes 4 times as long
    curved = cv2.resize(grid, half_way, interpolation=cv2.INTER_CUBIC)
    return cv2.resize(curved, size_hw[::-1], interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=32)
def _shape(px_per_unit: int, variant: str) -> _Shape:
    """The right part, a variant from _WRONG_PARTS, or "no_hole_<i>", from signed distances (< 0 inside) in units."""
    w, h = (2 * round(half * px_per_unit) for half in _SHEET_HALF_XY)
    x = ((np.arange(w, dtype=np.float32) - (w - 1) / 2) / px_per_unit)[None, :]
    y = ((np.arange(h, dtype=np.float32) - (h - 1) / 2) / px_per_unit)[:, None]

    def disc(cx: float, cy: float, radius: float) -> Array:
        return np.hypot(x - cx, y - cy) - radius

    def box(cx: float, cy: float, half_x: float, half_y: float, corner: float) -> Array:
        qx, qy = np.abs(x - cx) - (half_x - corner), np.abs(y - cy) - (half_y - corner)
        return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - corner

    plate, bulge = box(0, 0, 0.39, 0.24, 0.05), disc(_BORE[0], _BORE[1], 0.285)
    fillet = np.maximum(0.05 - np.abs(plate - bulge), 0)
    outline = np.maximum(np.minimum(plate, bulge) - fillet**2 / 0.2, (x - y) / 2**0.5 - 0.42)
    right_outline = outline
    if variant == "edge_notch":
        outline = np.maximum(outline, -disc(0.39, 0.03, 0.042))
    if variant == "second_cut":
        outline = np.maximum(outline, (y - x) / 2**0.5 - 0.375)

    bore_radius = _BORE[2] * (0.84 if variant == "small_bore" else 1.0)
    holes = [(disc(_BORE[0], _BORE[1], bore_radius), _CHAMFER)]
    if variant == "slot_turned":
        holes += [(box(0.262, 0, 0.09, 0.026, 0.026), _CHAMFER)]
    elif variant == "slot_as_holes":
        holes += [(disc(0.26, cy, 0.028), _CHAMFER) for cy in (-0.064, 0.064)]
    else:
        holes += [(box(0.26, 0, 0.026, 0.09, 0.026), _CHAMFER)]
    holes += [(disc(*hole[:3]), hole[3]) for i, hole in enumerate(_HOLES) if variant != f"no_hole_{i}"]

    axis_px = np.hypot(x - _BORE[0], y - _BORE[1])
    height = np.clip(-outline, 0, _CHAMFER) + np.clip(_BOSS_RADIUS - axis_px, 0, 0.009)
    for hole, sink in holes:
        height -= 0.9 * np.clip(sink - hole, 0, sink)
    height -= 0.0035 * _stamp(px_per_unit, (h, w))
    slope_y, slope_x = (cv2.GaussianBlur(rise, (3, 3), 0) for rise in np.gradient(height, 1 / px_per_unit))
    depth = -np.maximum.reduce([outline, *(-hole for hole, _ in holes)])
    face = np.clip((_BOSS_RADIUS - 0.012 - axis_px) * px_per_unit, 0, 1)
    turn = 2 * np.arctan2(y - _BORE[1], x - _BORE[0])
    cover, outline_cover = (
        (np.clip(0.5 + inside * px_per_unit, 0, 1) * 255).astype(np.uint8) for inside in (depth, -right_outline)
    )
    shadow = cv2.GaussianBlur(cover, (0, 0), 0.011 * px_per_unit)
    ring, radius_px = (face * np.cos(turn), face * np.sin(turn)), (axis_px * px_per_unit).astype(np.intp)
    hull = cv2.convexHull(np.argwhere(outline_cover)[:, ::-1].astype(np.float32)).reshape(-1, 2)
    for array in (cover, shadow, outline_cover, depth, slope_x, slope_y, face, *ring, radius_px, hull):
        array.setflags(write=False)
    return _Shape(cover, shadow, outline_cover, depth, slope_x, slope_y, face, ring, radius_px, hull)


def _stamp(px_per_unit: int, size_hw: tuple[int, int]) -> Array:
    """The part number stamped into the left edge, read from below: float32 (h, w), 0..1."""
    h, w = size_hw
    text = np.zeros((w, h), np.uint8)  # lies on its side
    scale, thickness = px_per_unit * 0.0021, max(1, round(px_per_unit * 0.006))
    (length, tall), _ = cv2.getTextSize("ME-07", cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    corner = ((h - length) // 2, round(w / 2 - 0.312 * px_per_unit + tall / 2))
    cv2.putText(text, "ME-07", corner, cv2.FONT_HERSHEY_SIMPLEX, scale, (255,), thickness, cv2.LINE_AA)
    return cv2.GaussianBlur(np.rot90(text), (3, 3), 0).astype(np.float32) / 255


@lru_cache(maxsize=8)
def _belt(size_hw: tuple[int, int]) -> tuple[Array, Array]:
    """Ribbed rubber half as large again as the picture, of which each part sees a cut, and the lens's vignette."""
    h, w = size_hw
    rng, scale = np.random.default_rng(7), min(size_hw) / 320
    tall, wide = h * 3 // 2, w * 3 // 2
    grain = 3.5 * rng.standard_normal((tall, wide), dtype=np.float32)
    ribs = 2.5 * np.sin(np.arange(tall, dtype=np.float32) * (2 * pi / (11 * scale)))[:, None]
    rubber = cv2.GaussianBlur(grain, (0, 0), 0.6) + ribs + 36
    rubber += 2.5 * _smooth(rng, (9, 9), (tall, wide)) + 2 * _smooth(rng, (40, 6), (tall, wide))
    yy, xx = np.linspace(-1, 1, h, dtype=np.float32)[:, None], np.linspace(-1, 1, w, dtype=np.float32)[None, :]
    vignette = 1.02 - 0.11 * (yy**2 + xx**2)
    rubber.setflags(write=False)
    vignette.setflags(write=False)
    return rubber, vignette


def _scene_of(line: SyntheticLine, index: int) -> _Scene:
    h, w = line.size_hw
    side = min(h, w)
    px_per_unit = round(side * _ZOOMS[line.pose] * _SHEET_OVERSAMPLING)
    shape = _shape(px_per_unit, "right")
    to_camera, angle = _pose(line, shape.hull, _stream(line, index, 1))
    to_camera[0, 2] += line.ageing.shift_px(index)

    rng = _stream(line, index, 2)
    sun = radians(rng.uniform(-140, -115)) - angle  # the lamp hangs at the upper left of the camera
    reach = 0.016 * side  # of the shadow, away from the lamp
    offset = np.array([[0, 0, -reach * cos(sun + angle)], [0, 0, -reach * sin(sun + angle)]])
    shadow = cv2.warpAffine(shape.shadow, to_camera + offset, (w, h))
    rubber, vignette = _belt(line.size_hw)
    top, left = (int(rng.integers(n // 2)) for n in (h, w))
    belt = rubber[top : top + h, left : left + w] * (1 - shadow.astype(np.float32) * (0.6 / 255))

    lamp = line.ageing.light(index)
    gain, tilt, way = rng.uniform(0.92, 1.08), rng.uniform(0, 0.1), rng.uniform(0, 2 * pi)
    across = np.linspace(-tilt * cos(way), tilt * cos(way), w, dtype=np.float32)[None, :]
    down = np.linspace(-tilt * sin(way), tilt * sin(way), h, dtype=np.float32)[:, None]
    field = vignette * (gain + across + down) * lamp
    warmth = rng.uniform(-0.055, -0.005)  # of a cool lamp
    return _Scene(
        px_per_unit=px_per_unit,
        ref_px=side / 320 * _SHEET_OVERSAMPLING,
        size_hw=line.size_hw,
        to_camera=to_camera,
        sun_xy=(cos(sun), sin(sun)),
        texture=_texture(shape, _stream(line, index, 3)),
        belt=cv2.merge([belt * tint for tint in _RUBBER_BGR]),
        light=cv2.merge([field * (1 + k * warmth) for k in (-1, 0, 1)]),
        blur_px=line.ageing.blur_px(index, rng.uniform(0.4, 0.75)),
    )


def _pose(line: SyntheticLine, hull: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """Affine (2, 3) from sheet to picture, and its turn in radians (clockwise as seen)."""
    h, w = line.size_hw
    turn_limit = 180.0 if line.pose == "any" else 1.5
    angle = radians(rng.uniform(-turn_limit, turn_limit))
    scale = rng.uniform(0.99, 1.01) / _SHEET_OVERSAMPLING
    linear = scale * np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    turned = hull @ linear.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    if line.pose == "any":
        shift = rng.uniform(2 - low, (w - 3, h - 3) - high)
    else:
        jitter = 0.015 * min(h, w)
        shift = ((w - 1, h - 1) - low - high) / 2 + rng.uniform(-jitter, jitter, 2)
    return np.column_stack([linear, shift]), angle


def _texture(shape: _Shape, rng: np.random.Generator) -> Array:
    """Brush strokes along the plate, a lathe's grooves around the bore, and faint handling marks: (h, w)."""
    h, w = shape.depth.shape
    strokes = 4.0 * _smooth(rng, (h, 10), (h, w)) + 3.0 * _smooth(rng, (h // 3, 4), (h, w))
    grooves = cv2.GaussianBlur(rng.standard_normal((1, w), dtype=np.float32), (3, 1), 0)[0]
    strokes += shape.face * (8.0 * grooves[shape.radius_px] - strokes)
    return strokes + 2.5 * _smooth(rng, (5, 7), (h, w))


def _photo(scene: _Scene, shape: _Shape, damage: _Damage) -> Array:
    """The picture without sensor noise: float32 (H, W, 3), 0..255 or somewhat more."""
    slope_x, slope_y = shape.slope_x, shape.slope_y
    if damage.dent is not None:
        slope_x, slope_y = slope_x + damage.dent[0], slope_y + damage.dent[1]
    (sun_x, sun_y), (ring_cos, ring_sin) = scene.sun_xy, shape.ring
    facing = cv2.addWeighted(slope_x, -sun_x, slope_y, -sun_y, 0)
    fan = cv2.addWeighted(ring_cos, sun_x**2 - sun_y**2, ring_sin, 2 * sun_x * sun_y, 0)  # cos of twice the angle to it
    metal = cv2.addWeighted(facing, 52, fan, 15, 140)
    metal += scene.texture
    metal += 34 * np.maximum(facing, 0)
    metal += 20 * np.square(np.square(np.maximum(fan, 0)))
    if damage.glow is not None:
        metal += damage.glow
    grey = np.clip(metal, 0, 240, out=metal)
    planes = [grey, grey, grey]
    if damage.stain is not None:
        planes = [grey + damage.stain * (tone - grey) for tone in damage.stain_bgr]
    sheet = cv2.merge([*(cv2.convertScaleAbs(plane) for plane in planes), shape.cover])
    seen = cv2.warpAffine(sheet, scene.to_camera, scene.size_hw[::-1])
    cover = np.multiply(cv2.extractChannel(seen, 3), np.float32(1 / 255), dtype=np.float32)
    bare = cv2.cvtColor(seen, cv2.COLOR_BGRA2BGR).astype(np.float32)
    picture = cv2.blendLinear(bare, scene.belt, cover, 1 - cover)
    return _blurred(cv2.multiply(picture, scene.light), scene.blur_px)


def _blurred(picture: Array, blur_px: float) -> Array:
    side = max(5, 2 * round(3 * blur_px) + 1)  # 5 for every lens in focus
    return cv2.GaussianBlur(picture, (side, side), blur_px)


def _damaged_photo(scene: _Scene, clean: Array, kind: str, rng: np.random.Generator) -> tuple[Array, UInt8Array]:
    """The picture of the defective twin, and where it visibly differs from the clean one: 0 or 255, (H, W)."""
    variant = "right"
    if kind == "missing_hole":
        variant = f"no_hole_{rng.integers(len(_HOLES))}"
    elif kind == "wrong_part":
        variant = _WRONG_PARTS[int(rng.integers(len(_WRONG_PARTS)))]
    shape = _shape(scene.px_per_unit, variant)
    outline = cv2.warpAffine(shape.outline, scene.to_camera, scene.size_hw[::-1])
    outline = cv2.threshold(_blurred(outline, scene.blur_px), 5, 255, cv2.THRESH_BINARY)[1]
    closing = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(min(scene.size_hw) / 160)) + 1,) * 2)
    damage = _DAMAGES[kind](scene, shape, rng) if kind in _DAMAGES else _Damage()
    damaged = _photo(scene, shape, damage)
    blue, green, red = cv2.split(cv2.absdiff(clean, damaged))
    change = cv2.threshold(cv2.max(cv2.max(blue, green), red), _VISIBLE_LEVELS, 255, cv2.THRESH_BINARY)[1]
    mask = cv2.morphologyEx(change.astype(np.uint8), cv2.MORPH_CLOSE, closing)
    return damaged, np.asarray(cv2.copyTo(mask, outline), np.uint8)


def _spot(shape: _Shape, margin_px: float, px_per_unit: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random sheet pixel (x, y) on metal, at least about margin_px from every edge where the part is that wide."""
    margin = min(margin_px / px_per_unit, 0.7 * float(shape.depth.max()))
    candidates = np.flatnonzero(shape.depth > margin)
    y, x = divmod(int(candidates[rng.integers(len(candidates))]), shape.depth.shape[1])
    return x, y


def _patch(shape: _Shape, centre: tuple[int, int], reach_px: float) -> tuple[tuple[slice, slice], Array, Array]:
    """The part of the sheet around `centre`, and x and y in it, counted from the centre."""
    (h, w), (x, y), reach = shape.depth.shape, centre, int(reach_px) + 1
    xs = slice(max(0, x - reach), min(w, x + reach + 1))
    ys = slice(max(0, y - reach), min(h, y + reach + 1))
    dx, dy = np.arange(w, dtype=np.float32)[xs] - x, np.arange(h, dtype=np.float32)[ys] - y
    return (ys, xs), dx[None, :], dy[:, None]


def _scratch(scene: _Scene, shape: _Shape, rng: np.random.Generator) -> _Damage:
    """A thin bent line, bright or dark, of uneven depth."""
    length, steps = scene.ref_px * rng.uniform(30, 120), 8
    thickness = max(1, round(scene.ref_px * rng.uniform(0.7, 2.6)))
    levels = rng.uniform(28, 75) * (1 if rng.random() < 0.65 else -1)
    heading = rng.uniform(0, 2 * pi) + np.linspace(-0.5, 0.5, steps) * rng.normal(0, 0.7) + rng.normal(0, 0.05, steps)
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * (length / steps), axis=0)
    points += np.array(_spot(shape, 5 * scene.ref_px, scene.px_per_unit, rng)) - points[steps // 2]
    line = np.zeros(shape.depth.shape, np.uint8)
    fixed_point = np.round(points * 16).astype(np.int32)
    for k, tone in enumerate(rng.uniform(0.55, 1.0, steps - 1)):
        begin, end = ((int(v[0]), int(v[1])) for v in fixed_point[k : k + 2])
        cv2.line(line, begin, end, 255 * tone, thickness, cv2.LINE_AA, 4)
    return _Damage(glow=line.astype(np.float32) * (levels / 255))


def _dent(scene: _Scene, shape: _Shape, rng: np.random.Generator) -> _Damage:
    """A smooth elliptical hollow or bump, bright on one flank and dark on the other."""
    long = max(4.0, scene.ref_px * rng.uniform(8, 20))
    wide, turn = long * rng.uniform(0.65, 1.0), rng.uniform(0, pi)
    along, aside = cos(turn), sin(turn)
    steep = rng.uniform(0.35, 0.8) * (1 if rng.random() < 0.3 else -1)
    (ys, xs), dx, dy = _patch(shape, _spot(shape, 0.6 * long, scene.px_per_unit, rng), long)
    u, v = (dx * along + dy * aside) / long, (dy * along - dx * aside) / wide
    fall = -3.5 * steep * np.maximum(1 - u**2 - v**2, 0) ** 2  # a hill (1 - r^2)^3, differentiated
    slopes = np.zeros((2, *shape.depth.shape), np.float32)
    slopes[:, ys, xs] = fall * (u * along - v * aside * long / wide), fall * (u * aside + v * along * long / wide)
    return _Damage(dent=(slopes[0], slopes[1]))


def _stain(scene: _Scene, shape: _Shape, rng: np.random.Generator) -> _Damage:
    """A ragged translucent blot of oil, rust or soot, darker at its rim."""
    radius = max(4.0, scene.ref_px * rng.uniform(7.5, 25))
    (ys, xs), dx, dy = _patch(shape, _spot(shape, 0.4 * radius, scene.px_per_unit, rng), 1.5 * radius)
    far = (dx**2 + dy**2) / radius**2
    ragged = 0.8 - far + 0.45 * np.minimum(far, 1) * _smooth(rng, (8, 8), (far.shape[0], far.shape[1]))
    blot = np.clip(ragged * 5, 0, 1)
    rim = np.clip(1 - np.abs(ragged - 0.2) * 5, 0, 1)
    opacity = np.zeros(shape.depth.shape, np.float32)
    opacity[ys, xs] = rng.uniform(0.25, 0.6) * blot * (0.8 + 0.3 * rim)
    tones = ((28.0, 38.0, 46.0), (22.0, 58.0, 104.0), (30.0, 30.0, 32.0))
    return _Damage(stain=opacity, stain_bgr=tones[int(rng.integers(len(tones)))])


_DAMAGES: dict[str, Callable[[_Scene, _Shape, np.random.Generator], _Damage]] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
}


def _sensor_noise(size_hw: tuple[int, int], rng: np.random.Generator) -> Array:
    """Noise of 2 to 3 grey levels, float32 (H, W, 3): four bytes add up to nearly a normal, in a third of the time."""
    gain = rng.uniform(2, 3) / 147.8  # what four bytes deviate by
    dice = np.frombuffer(rng.bytes(4 * 3 * size_hw[0] * size_hw[1]), np.uint8).reshape(4, *size_hw, 3)
    noise: Array = cv2.addWeighted(dice[0], gain, dice[1], gain, -510 * gain, dtype=cv2.CV_32F)
    noise += cv2.addWeighted(dice[2], gain, dice[3], gain, 0, dtype=cv2.CV_32F)
    return noise
