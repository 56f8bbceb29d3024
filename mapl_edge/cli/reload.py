"""Reload on the line: what a camera's shots are judged with after a change, and the SIGHUP that asks for one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mapl_edge.cli.app import people
from mapl_edge.cli.common import area_of
from mapl_edge.config import CameraConfig, StationConfig
from mapl_edge.masks import InspectedArea

if TYPE_CHECKING:  # as in station
    from mapl_edge.runtime import AtWork, Inspects, Judging, Reload, Sink
    from mapl_edge.runtime.camera_gate import CameraGate
    from mapl_edge.runtime.loaded import Loaded

TERMINAL = "/dev/tty"
InspectorOf = Callable[["AtWork", "Loaded", "CameraGate | None", InspectedArea | None], "Inspects"]
"""Makes a camera's inspector, as at the start."""


class Remake:
    """Makes what the shots of one camera are judged with after a change; see `Lane.judging_of`.

    Args:
        fields: what its verdicts shared at the start.
        sinks: where they go.
        keep: folder of the station's store.
        loaded, gate: at the start. A gate stays as long as its reference does, since it counts pictures in a row.
        gate_of: makes another.
    """

    def __init__(
        self,
        camera: CameraConfig,
        station: StationConfig,
        fields: Mapping[str, str],
        sinks: Sequence[Sink],
        keep: Path | None,
        loaded: Loaded,
        gate: CameraGate | None,
        gate_of: Callable[[Loaded], CameraGate | None],
        inspector_of: InspectorOf,
    ) -> None:
        self._camera, self._station, self._fields, self._sinks, self._keep = camera, station, fields, sinks, keep
        self._now, self._gate_of, self._inspector_of = (loaded, gate), gate_of, inspector_of

    def __call__(self, loaded: Loaded, engine: AtWork) -> Judging:
        """Ready to begin.

        Raises:
            ContractMismatch: the limits were made with other masks than the station has.
        """
        from mapl_edge.runtime import DriftSink, Judging, RunIdentity, Store

        area = area_of(loaded.bundle, loaded.calibration, self._camera)
        before, gate = self._now
        if _reference(loaded) != _reference(before):
            gate = self._gate_of(loaded)
        fields = {**self._fields, **loaded.digests}
        identity = RunIdentity(**fields, engine=loaded.engine.name, limits=loaded.calibration.limits)
        tell = partial(people.print, markup=False)
        charts = [
            (sink, DriftSink(loaded.calibration, self._station.drift, fields, self._keep, tell))
            for sink in self._sinks
            if isinstance(sink, DriftSink)
        ]
        stores = [sink for sink in self._sinks if isinstance(sink, Store)]

        def begin(seq: int) -> None:
            self._now = loaded, gate
            for store in stores:
                store.change(seq, identity)
            for sink, after in charts:
                sink.change(after)

        return Judging(self._inspector_of(engine, loaded, gate, area), engine, loaded.digests, area, begin)


def _reference(loaded: Loaded) -> tuple[object, object]:
    return loaded.calibration.camera, loaded.bundle.contract.roi_xywh


@contextmanager
def reload_on_hangup(reloads: Sequence[Reload]) -> Iterator[None]:
    """SIGHUP asks for a look at the disk. On a terminal it ends the run as usual: somebody has closed the window."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or _on_a_terminal():
        yield
        return

    def ask(number: int, frame: object) -> None:
        for each in reloads:
            each.ask()

    before = signal.signal(hangup, ask)
    try:
        yield
    finally:
        signal.signal(hangup, before)


def _on_a_terminal() -> bool:
    with suppress(OSError), open(TERMINAL, "rb"):
        return True
    return False
