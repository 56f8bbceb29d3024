"""What goes wrong between a camera and a station, on purpose: the same faults for the same seed.

    faults = item ("," item)*        drop:0.01,freeze:50-80,unplug:100-150,slow:0.02
    item   = kind [":" when]
    when   = share 0..1              each frame by chance
           | first "-" last          these frames, both included
           | seconds                 for slow and jitter

    drop          the frame never comes
    freeze        the frame before it comes again
    burst         frames wait and come five at once, as when a switch is busy
    unplug        no frame comes, and a server hangs up and takes no calls
    wrong_colour  red and blue are swapped
    slow          the frame comes so many seconds late
    corrupt       half of the picture's bytes are missing
    dark          a quarter of the light is left
    overexposed   three times the light
    blur          out of focus, by a Gaussian of 1/160 of the shorter side
    shift         the camera has moved: 8 % of the picture to the right and down
    jitter        each frame comes late by its own chance, at most so many seconds

Without `when`, drop, freeze, burst and corrupt hit a frame in twenty, wrong_colour and those below corrupt every frame;
unplug, slow and jitter need it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np

from mapl_edge.arrays import UInt8Array

LENS = ("dark", "overexposed", "blur", "shift")
KINDS = ("drop", "freeze", "burst", "unplug", "wrong_colour", "slow", "corrupt", *LENS, "jitter")
BURST = 5  # frames that come at once
_DEFAULTS = {"drop": 0.05, "freeze": 0.05, "burst": 0.05, "corrupt": 0.05, "wrong_colour": 1.0} | dict.fromkeys(
    LENS, 1.0
)
_RANGE = re.compile(r"(\d{1,12})-(\d{1,12})")
_NUMBER = re.compile(r"\d{1,12}(\.\d{1,12})?|\.\d{1,12}")

When: TypeAlias = "float | tuple[int, int]"


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one frame.

    Attributes:
        shown: index of the frame that is seen in its place; its own unless the picture is frozen.
        lost: it never comes.
        unplugged: the camera is away.
        swapped: red and blue are swapped.
        corrupt: half of its bytes are missing.
        due: index of the frame together with which it comes; its own unless in a burst.
        late_s: seconds that it is late.
        lens: what light and lens do to it, of `LENS`.
    """

    shown: int
    lost: bool
    unplugged: bool
    swapped: bool
    corrupt: bool
    due: int
    late_s: float
    lens: tuple[str, ...] = ()

    def seen(self, image: UInt8Array) -> UInt8Array:
        """The picture as it arrives, uint8 (H, W, 3); `image` itself where nothing spoils it."""
        for kind in self.lens:
            image = spoiled(image, kind)
        return image[:, :, ::-1].copy() if self.swapped else image


def spoiled(image: UInt8Array, kind: str) -> UInt8Array:
    """A picture, uint8 (H, W, 3), with one of the faults of `LENS`."""
    h, w = image.shape[:2]
    if kind == "blur":
        return np.asarray(cv2.GaussianBlur(image, (0, 0), min(h, w) / 160), np.uint8)
    if kind == "shift":
        by = np.array([[1, 0, 0.08 * w], [0, 1, 0.08 * h]], np.float32)
        return np.asarray(cv2.warpAffine(image, by, (w, h), borderMode=cv2.BORDER_REPLICATE), np.uint8)
    return np.asarray(cv2.convertScaleAbs(image, alpha={"dark": 0.25, "overexposed": 3.0}[kind]), np.uint8)


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults of a line; `fate` follows from the fields and an index alone."""

    when: tuple[tuple[str, When], ...] = ()
    seed: int = 0

    @classmethod
    def from_text(cls, text: str, seed: int = 0) -> Faults:
        """Read the grammar above.

        Raises:
            ValueError: an unknown kind or a wrong `when`; says which.
        """
        found: dict[str, When] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            kind, _, when = item.partition(":")
            if kind not in KINDS:
                raise ValueError(f"{kind!r} is no fault; expected {', '.join(KINDS)}")
            if kind in found:
                raise ValueError(f"{kind} is there twice")
            found[kind] = _when(kind, when)
        return cls(tuple(found.items()), seed)

    def fate(self, index: int) -> Fate:
        """What happens to frame `index`."""
        shown = index
        while shown > 0 and self._hits("freeze", shown):
            shown -= 1
        group = index // BURST
        bursts = any(self._hits("burst", at) for at in range(group * BURST, (group + 1) * BURST))
        slow, jitter = (dict(self.when).get(kind, 0.0) for kind in ("slow", "jitter"))
        assert isinstance(slow, float)
        assert isinstance(jitter, float)
        return Fate(
            shown=shown,
            lost=self._hits("drop", index),
            unplugged=self._hits("unplug", index),
            swapped=self._hits("wrong_colour", index),
            corrupt=self._hits("corrupt", index),
            due=group * BURST + BURST - 1 if bursts else index,
            late_s=slow + jitter * self._chance("jitter", index) if jitter else slow,
            lens=tuple(kind for kind in LENS if self._hits(kind, index)),
        )

    def _hits(self, kind: str, index: int) -> bool:
        when = dict(self.when).get(kind)
        if when is None:
            return False
        if isinstance(when, tuple):
            return when[0] <= index <= when[1]
        rate = when / BURST if kind == "burst" else when  # five frames share the fate of each
        return self._chance(kind, index) < rate

    def _chance(self, kind: str, index: int) -> float:
        return float(np.random.default_rng([self.seed, index, KINDS.index(kind), 101]).random())


def _when(kind: str, text: str) -> When:
    span = _RANGE.fullmatch(text)
    if kind in ("slow", "jitter"):
        if not _NUMBER.fullmatch(text) or float(text) > 60:
            raise ValueError(f"{kind}:{text}: expected seconds up to 60, such as {kind}:0.02")
        return float(text)
    if span is not None:
        first, last = int(span.group(1)), int(span.group(2))
        if first > last:
            raise ValueError(f"{kind}:{text}: the first frame comes after the last")
        return first, last
    if kind == "unplug":
        raise ValueError(f"unplug:{text}: expected frames, such as unplug:100-150")
    if not text:
        return _DEFAULTS[kind]
    if not _NUMBER.fullmatch(text) or float(text) > 1:
        raise ValueError(f"{kind}:{text}: expected a share from 0 to 1 or frames, such as {kind}:0.05 or {kind}:50-80")
    return float(text)
