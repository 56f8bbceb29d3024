"""The synthetic line as a source: line:?parts=200&defects=0.3&seed=0&start=0&pose=fixed&fps=10&faults=drop:0.01."""

from __future__ import annotations

import itertools
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from mapl_edge.clock import Clock
from mapl_edge.config import Section, config_from_dict
from mapl_edge.frame import Frame
from mapl_edge.runtime.sources import Blank, Shot
from mapl_edge.testing.ageing import Ageing
from mapl_edge.testing.faults import Faults
from mapl_edge.testing.line import SyntheticLine


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
    return LineSource(config_from_dict(query, LineUri, where=uri), clock)


class LineSource:
    """Parts of the synthetic line as frames; `name` is the index and the defect, such as `000017-scratch`.

    A part that a fault loses leaves a gap in seq; a corrupt one is a `Blank`.
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

    def shots(self) -> Iterator[Shot]:
        """See `Source`."""
        started = self._clock.monotonic()
        for seq in itertools.count() if self._uri.parts is None else range(self._uri.parts):
            fate = self._faults.fate(seq)
            part = self._line.part(self._uri.start + fate.shown)
            due = 0.0 if self._uri.fps is None else started + (fate.due + 1) / self._uri.fps - self._clock.monotonic()
            if self._closing.wait(max(0.0, due) + fate.late_s):
                return
            if fate.lost or fate.unplugged:
                continue
            name = f"{part.index:06d}-{part.defect or 'good'}"
            t_mono, captured_at = self._clock.monotonic(), self._clock.utc()
            if fate.corrupt:
                yield Blank(seq, t_mono, captured_at, name, f"{name}: the JPEG is truncated; check cable and network")
            else:
                yield Frame(fate.seen(part.image), seq, t_mono, captured_at, name)

    def close(self) -> None:
        """End `shots`."""
        self._closing.set()
