"""The synthetic line as a source: line:?parts=200&defects=0.3&seed=0&start=0&pose=fixed&fps=10&faults=drop:0.01.

With conveyor=0.05 the parts go by, as a camera over a belt sees them.
"""

from __future__ import annotations

import itertools
import threading
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import Field, field_validator

from mapl_edge.arrays import UInt8Array
from mapl_edge.clock import Clock
from mapl_edge.config import Section, config_from_dict
from mapl_edge.frame import Frame
from mapl_edge.redact import redact
from mapl_edge.runtime.sources import Blank, Shot
from mapl_edge.testing.ageing import Ageing
from mapl_edge.testing.conveyor import Conveyor
from mapl_edge.testing.faults import Faults
from mapl_edge.testing.line import Part, SyntheticLine


class LineUri(Section):
    """What may follow `line:?`."""

    parts: int | None = Field(default=None, ge=1)
    """How many parts come; None: without end."""
    defects: float = Field(default=0.3, ge=0, le=1)
    """Share of defective parts."""
    seed: int = Field(default=0, ge=0)
    start: int = Field(default=0, ge=0)
    """Index of the first part."""
    pose: Literal["fixed", "any"] = "fixed"
    size: int = Field(default=320, ge=64, le=4096)
    """Side of the square picture in pixels."""
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Parts per second; with it the line is live, without it every part waits for us."""
    lamp: float = Field(default=0.0, ge=0, lt=1)
    """Share of its brightness that the lamp loses in a thousand parts, counted from the first one that comes."""
    defocus: float = Field(default=0.0, ge=0, le=100)
    """Pixels by which the lens blurs more in a thousand parts."""
    shift: float = Field(default=0.0, ge=-1000, le=1000)
    """Pixels by which parts go to the right in a thousand parts."""
    conveyor: float | None = Field(default=None, gt=0, le=1)
    """Picture widths that the belt moves from frame to frame; None: each frame is another part in its place."""
    pitch: float = Field(default=1.5, ge=1, le=100)
    """Picture widths from one part on the conveyor to the next."""
    dwell: int = Field(default=0, ge=0, le=10_000)
    """Frames for which each part on the conveyor stands in the middle."""
    flicker: float = Field(default=0.0, ge=0, lt=1)
    """Share by which the light over the conveyor differs from frame to frame, either way."""
    faults: str = ""
    """What goes wrong; the grammar is in `mapl_edge.testing.faults`. Frames count from 0, whatever `start` is."""

    @field_validator("faults")
    @classmethod
    def _faults_are_known(cls, text: str) -> str:
        Faults.from_text(text)
        return text


def line_source(uri: str, clock: Clock) -> LineSource:
    """Open a `line:` URI.

    Raises:
        ConfigError: an unknown key or a wrong value; all at once.
    """
    query = dict(urllib.parse.parse_qsl(uri.partition("?")[2], keep_blank_values=True))
    return LineSource(config_from_dict(query, LineUri, where=redact(uri)), clock)


class LineSource:
    """Parts of the synthetic line as frames; `name` is the index and the defect, such as `000017-scratch`.

    On a conveyor it is that of the part nearest to the middle, or `belt`. What a fault loses leaves a gap in seq;
    a corrupt one is a `Blank`.
    """

    def __init__(self, line: LineUri, clock: Clock) -> None:
        self.live, self.fps = line.fps is not None, line.fps
        self._uri, self._clock = line, clock
        self._faults = Faults.from_text(line.faults, line.seed)
        self._closing = threading.Event()
        self._line = SyntheticLine(
            seed=line.seed,
            defect_rate=line.defects,
            size_hw=(line.size, line.size),
            pose=line.pose,
            ageing=Ageing(line.lamp, line.defocus, line.shift, line.start),
        )
        self._conveyor: Conveyor | None = None
        if line.conveyor is not None:
            self._conveyor = Conveyor(self._line, line.conveyor, line.pitch, line.dwell, line.flicker, line.start)

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        started = self._clock.monotonic()
        for seq in self._numbers():
            fate = self._faults.fate(seq)
            image, part = self._seen(fate.shown)
            due = 0.0 if self._uri.fps is None else started + (fate.due + 1) / self._uri.fps - self._clock.monotonic()
            if self._closing.wait(max(0.0, due) + fate.late_s):
                return
            if fate.lost or fate.unplugged:
                continue
            name = "belt" if part is None else f"{part.index:06d}-{part.defect or 'good'}"
            t_mono, captured_at = self._clock.monotonic(), self._clock.utc()
            if fate.corrupt:
                yield Blank(seq, t_mono, captured_at, name, f"{name}: the JPEG is truncated; check cable and network")
            else:
                yield Frame(fate.seen(image), seq, t_mono, captured_at, name)

    def _numbers(self) -> Iterable[int]:
        parts = self._uri.parts
        if parts is None:
            return itertools.count()
        return range(parts if self._conveyor is None else self._conveyor.frames(parts))

    def _seen(self, number: int) -> tuple[UInt8Array, Part | None]:
        if self._conveyor is not None:
            return self._conveyor.frame(number, self._uri.parts)
        part = self._line.part(self._uri.start + number)
        return part.image, part

    def close(self) -> None:
        """End `shots`."""
        self._closing.set()
