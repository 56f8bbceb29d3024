"""Presence: a part goes by a camera that runs free; the frame in which it is nearest to the middle is its picture.

    frame ─► cells, 64 along the belt x 32 across ─► those unlike the empty belt ─► spans along it ─► parts, followed

A part is followed from the frame in which it enters until it has left, so it triggers once, whether it passes, stands,
goes back or leaves together with the next one's coming. It triggers when it has passed the middle: no belt need go
evenly, and no frame need come, for the nearest to be known by then. One that left before is an ERROR verdict, and so is
one that was on its way when a live camera went away; what lies there when it is back is followed anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.config import PresenceConfig
from mapl_edge.errors import CameraError
from mapl_edge.frame import Frame
from mapl_edge.picture import picture_from_file

logger = logging.getLogger(__name__)

ALONG, ACROSS = 64, 32  # cells
LEARN = 30  # frames that the empty belt is learned from
LIGHT = 0.1  # by which the light may change from frame to frame, as a share
LIGHTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # quantiles of the cells' change in light, one of which is the lamp's
FOLLOW = 0.02  # share by which the background follows each frame where there is no part
SURE, FAINT = 4, 2  # cells across that a part has at its widest, and everywhere
NEAR = 0.5  # ROI lengths that a part may be from where it was expected, once the belt's way is known
SAME_LENGTH = 2 / ALONG  # by which a part's length in sight may differ from frame to frame; in ROI lengths
MISSES = 3  # frames that a part may be unseen
SIGHTINGS = 2  # frames that a part is seen in before it triggers
STILL, STANDS = 1.5 / ALONG, 20  # a part stands that moved less in so many frames ...
CENTRED = 0.1  # ... and is so near to the middle; both in ROI lengths
AS_NEAR = 0.5 / ALONG  # what a span's middle may be off by: as near as this is the nearest; in ROI lengths
MOVED = 0.2  # ROI lengths that tell a part's direction from jitter
AWAY, AWAY_S = 20, 1.0  # usual intervals between frames, and seconds, after which none is a camera that was away
LONG_S = 60.0  # of standing, after which people are told
FROZEN = 150  # pictures in a row that are the same, after which they are told


@dataclass(frozen=True, slots=True)
class Span:
    """Where something is along the belt, in ROI lengths from 0 to 1."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """Of what can be seen: as a part comes in, it goes from the edge to the middle and on."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True)
class Seen:
    """What triggers.

    Attributes:
        frame: the part's picture.
        problem: why it has none, or "".
    """

    frame: Frame
    problem: str = ""


@dataclass(slots=True, eq=False)
class _Part:
    """One that is followed.

    Attributes:
        nearest: frame in which its middle was nearest to the ROI's; the newest of those that are as near.
        nearest_by: so near was it at best, in ROI lengths.
        first: where its middle was seen first.
        speed: ROI lengths a frame.
        anchor, stands: where it stands, and for so many frames.
    """

    span: Span
    nearest: Frame
    nearest_by: float
    first: float
    speed: float
    anchor: Span
    anchored_at: float
    seen: int = 1
    missed: int = 0
    stands: int = 0
    triggered: bool = False
    told: bool = False

    def distance(self, span: Span) -> float:
        """From where it was expected, with the belt going on or standing; an edge outside the ROI may come into it."""
        return min(self._distance(span, by) for by in (self.speed * (1 + self.missed), 0.0))

    def same_length(self, span: Span) -> bool | None:
        """Whether it is as long as this part; None where an end was or is out of sight."""
        if min(self.span.low, span.low) <= 0 or max(self.span.high, span.high) >= 1:
            return None
        return abs((span.high - span.low) - (self.span.high - self.span.low)) <= SAME_LENGTH

    def _distance(self, span: Span, by: float) -> float:
        low, high = self.span.low + by, self.span.high + by
        at_low = _outside(span.low, min(low, 0.0), max(low, 0.0)) if self.span.low == 0 else abs(span.low - low)
        at_high = _outside(span.high, min(high, 1.0), max(high, 1.0)) if self.span.high == 1 else abs(span.high - high)
        if low <= 0:
            at_low = min(at_low, span.low)
        if high >= 1:
            at_high = min(at_high, 1 - span.high)
        return max(at_low, at_high)


def _outside(value: float, low: float, high: float) -> float:
    return max(low - value, value - high, 0.0)


class Presence:
    """Looks at every frame of one camera, in order; used by one thread.

    Args:
        roi_xywh: where to look, in pixels of the camera picture; None: everywhere. `config.roi` goes before.
        tell: gets a line when the background is learned, and when something looks wrong.

    Raises:
        PictureError: `config.background` cannot be read.
    """

    def __init__(
        self,
        config: PresenceConfig,
        roi_xywh: tuple[int, int, int, int] | None = None,
        tell: Callable[[str], None] = logger.warning,
    ) -> None:
        self._config, self._roi, self._tell = config, config.roi or roi_xywh, tell
        self._given = None if config.background is None else picture_from_file(config.background)
        self._first: list[AnyArray] = []
        self._background: AnyArray | None = None  # float32 (3, ALONG, ACROSS)
        self._bound: AnyArray = np.full((3, ALONG, ACROSS), config.contrast, np.float32)
        self._parts: list[_Part] = []
        self._speed = self._way = 0.0  # of the belt, as far as is known: ROI lengths a frame, and its sign
        self._seen_at: float | None = None
        self._intervals, self._usual_s = 0, 0.0  # between frames; counted up to LEARN
        self._before: AnyArray | None = None
        self._same = 1
        self._ended = False

    def look(self, frame: Frame, live: bool = True) -> list[Seen]:
        """What triggers now; the picture of a part is this frame or one before, kept since then.

        Args:
            live: frames come by themselves, so that none for long means that parts went by unseen.

        Raises:
            CameraError: the ROI or the given background does not fit the picture.
        """
        cells = self._cells(frame.image)
        self._notice_frozen(cells)
        lost = self._lost_in_outage(frame) if live else []
        if self._background is None:
            self._learn(cells, frame)
            return []
        return lost + self._follow(self._spans(self._unlike(cells)), frame)

    def end(self) -> None:
        """No frame comes any more: say it where the empty belt was never learned, so that no part could be seen."""
        if self._first and self._background is None and not self._ended:
            self._ended = True
            self._tell(
                f"presence: the source ended after {len(self._first)} frames, the empty belt is learned from {LEARN}: "
                "no part could be seen; give trigger.presence.background a picture of the empty belt, or more frames"
            )

    def _cells(self, image: UInt8Array) -> AnyArray:
        """Means over a grid: uint8 (H, W, 3) → float32 (3, ALONG, ACROSS)."""
        if self._roi is not None:
            x, y, w, h = self._roi
            if x + w > image.shape[1] or y + h > image.shape[0]:
                raise CameraError(
                    f"presence looks at x {x} to {x + w}, y {y} to {y + h}, but the picture is "
                    f"{image.shape[1]}x{image.shape[0]} px; set trigger.presence.roi"
                )
            image = image[y : y + h, x : x + w]
        size_wh = (ALONG, ACROSS) if self._config.axis == "x" else (ACROSS, ALONG)
        cells = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
        order = (2, 1, 0) if self._config.axis == "x" else (2, 0, 1)
        return np.ascontiguousarray(cells.transpose(order), np.float32)

    def _notice_frozen(self, cells: AnyArray) -> None:
        same = self._before is not None and np.array_equal(cells, self._before)
        self._same, self._before = self._same + 1 if same else 1, cells
        if self._same == FROZEN:
            self._tell(f"presence: {FROZEN} pictures in a row are the same; where the camera is frozen no part is seen")

    def _lost_in_outage(self, frame: Frame) -> list[Seen]:
        """After an outage the parts that were followed are forgotten; these are told, having had no picture."""
        now, before = frame.t_mono, self._seen_at
        self._seen_at = now
        if before is None:
            return []
        limit_s = max(AWAY * self._usual_s, AWAY_S)
        away = self._intervals == LEARN and now - before > limit_s
        self._intervals = min(self._intervals + 1, LEARN)
        self._usual_s += (min(now - before, limit_s) - self._usual_s) / self._intervals
        if not away:
            return []
        parts, self._parts = self._parts, []
        return [
            Seen(
                frame,
                f"a part was last seen at {part.span.middle:.0%}, before it had reached the middle; then the "
                f"camera gave no frame for {now - before:.0f} s; check the camera",
            )
            for part in parts
            if not part.triggered
        ]

    def _learn(self, cells: AnyArray, frame: Frame) -> None:
        if self._given is not None:
            if self._given.shape != frame.image.shape:
                found, given = (f"{each.shape[1]}x{each.shape[0]}" for each in (frame.image, self._given))
                raise CameraError(
                    f"{self._config.background} is {given} px, the camera's pictures are {found} px; take it anew"
                )
            self._background = self._cells(self._given)
            return
        self._first.append(cells)
        if len(self._first) < LEARN:
            return
        seen = np.stack(self._first)
        self._background = np.median(seen, axis=0)
        noise = 1.4826 * np.median(np.abs(seen - self._background), axis=0)
        self._bound = np.clip(6 * noise, self._config.contrast, 3 * self._config.contrast)
        self._first.clear()
        self._tell(f"presence: the empty belt is learned from {LEARN} frames; parts trigger from now on")

    def _unlike(self, cells: AnyArray) -> AnyArray:
        """Which cells differ from the background by more than light can do: bool (ALONG, ACROSS)."""
        background = self._background
        assert background is not None
        ratio = np.sort((cells.sum(axis=0) + 1) / (background.sum(axis=0) + 1), axis=None)
        lights = [1.0, *np.clip(ratio[[int(q * ratio.size) for q in LIGHTS]], 1 - LIGHT, 1 + LIGHT)]
        found: list[AnyArray] = [(np.abs(cells / light - background) > self._bound).any(axis=0) for light in lights]
        best = min(range(len(lights)), key=lambda i: int(np.count_nonzero(found[i])))
        near = cv2.dilate(found[best].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        background += np.where(near, 0, FOLLOW) * (cells / lights[best] - background)
        return found[best]

    def _spans(self, unlike: AnyArray) -> list[Span]:
        """What lies on the belt, in order; parts nearer to each other than `gap` are one."""
        count, gap = unlike.sum(axis=1), self._config.gap * ALONG
        runs: list[list[int]] = []
        for cell in np.flatnonzero(count >= FAINT):
            if runs and cell - runs[-1][1] <= gap + 1:
                runs[-1][1] = int(cell)
            else:
                runs.append([int(cell), int(cell)])
        least = self._config.smallest / 2
        spans = [(Span(low / ALONG, (high + 1) / ALONG), count[low : high + 1].max()) for low, high in runs]
        return [span for span, widest in spans if span.high - span.low >= least and widest >= SURE]

    def _follow(self, spans: list[Span], frame: Frame) -> list[Seen]:
        pairs: list[tuple[int, bool, float, int, int]] = []
        for (i, part), (j, span) in product(enumerate(self._parts), enumerate(spans)):
            if (part.span.middle - span.middle) * self._way > MOVED:
                continue  # no belt goes back at such a pace
            same = part.same_length(span)
            if part.missed and same is False:
                continue  # what comes after some frames without it is another one
            # while the belt's way is not known, a part is told by its length rather than by its place
            pairs.append((part.missed, self._way == 0 and not same, part.distance(span), i, j))
        known: dict[int, int] = {}  # number of the span → of the part
        for _, _, distance, i, j in sorted(pairs):
            if distance <= (NEAR if self._way else 1.0) and j not in known and i not in known.values():
                known[j] = i
        triggers, after = [], []
        for i, part in enumerate(self._parts):
            if i in known.values():
                continue
            part.missed += 1
            if self._passes_unseen(part):
                part.triggered = True
                triggers.append(Seen(part.nearest))
            if part.missed <= MISSES:
                after.append(part)
            elif not part.triggered:
                left = (
                    f"a part left again before it had reached the middle (seen in {part.seen} frames, last at "
                    f"{part.span.middle:.0%}); give more frames a second, or slow the line"
                )
                triggers.append(Seen(frame, left))
        for j, span in enumerate(spans):
            if j in known:
                part = self._parts[known[j]]
                if self._seen_again(part, span, frame):
                    part.triggered = True
                    triggers.append(Seen(part.nearest))
                after.append(part)
            elif span.high - span.low >= self._config.smallest:
                ahead = abs(0.5 - span.middle)
                after.append(_Part(span, frame, ahead, span.middle, self._speed, span, frame.t_mono))
        self._parts = after
        return triggers

    def _seen_again(self, part: _Part, span: Span, frame: Frame) -> bool:
        """Note where it is; whether it triggers now."""
        before, frames = part.span, 1 + part.missed
        moves = [span.low - before.low] if min(span.low, before.low) > 0 else []
        moves += [span.high - before.high] if max(span.high, before.high) < 1 else []
        if not moves and span != before:
            moves = [span.middle - before.middle]  # no edge was seen twice: it moved so far at least
        if moves:
            part.speed = self._speed = sum(moves) / len(moves) / frames
        part.span, part.missed, part.seen = span, 0, part.seen + 1
        if max(abs(span.low - part.anchor.low), abs(span.high - part.anchor.high)) > STILL:
            part.anchor, part.anchored_at, part.stands, part.told = span, frame.t_mono, 0, False
        else:
            part.stands += 1
        self._notice_long(part, frame.t_mono)
        ahead, way = 0.5 - span.middle, self._way_of(part)
        passes = part.seen >= SIGHTINGS and way != 0 and ahead * way <= AS_NEAR  # in the next frame it is no nearer
        if passes:
            self._way = way
        if part.triggered:
            return False
        stands = part.stands >= STANDS and abs(ahead) <= CENTRED
        if stands or abs(ahead) <= part.nearest_by + AS_NEAR:
            part.nearest, part.nearest_by = frame, min(abs(ahead), part.nearest_by)
        return passes or (stands and part.seen >= SIGHTINGS)

    def _passes_unseen(self, part: _Part) -> bool:
        """Whether it must have passed the middle since it was seen last, as the belt goes."""
        if part.triggered or part.seen < SIGHTINGS:
            return False
        way, ahead = self._way_of(part), 0.5 - part.span.middle - part.speed * part.missed
        return part.speed * way > 0 and ahead * way < -part.nearest_by

    def _way_of(self, part: _Part) -> float:
        """The sign of its way, or of the belt's as far as that is known."""
        moved = part.span.middle - part.first
        return float(np.sign(moved)) if abs(moved) > MOVED else self._way

    def _notice_long(self, part: _Part, now: float) -> None:
        if not part.told and now - part.anchored_at > LONG_S:
            part.told = True
            self._tell(
                f"presence: something stands at {part.span.low:.0%} to {part.span.high:.0%} for {LONG_S:.0f} s; if the "
                "belt is empty there, start again with it empty, or give trigger.presence.background"
            )
