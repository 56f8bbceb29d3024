"""Camera gate: stops what is the camera's fault before the model sees it, and tells people when that lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mapl_edge.arrays import UInt8Array
from mapl_edge.camera_health import CameraReference, Check, Measures, fault_in, frozen, measure
from mapl_edge.config import CameraConfig, HealthConfig
from mapl_edge.frame import Frame

logger = logging.getLogger(__name__)
LASTING = 20  # frames with a fault in a row that people are told of
FROZEN_AFTER = 5  # pictures in a row
FROZEN_AFTER_RTSP = 150  # a video encoder repeats a still picture until its next key frame


class CameraGate:
    """Looks at each picture of one camera, in order; used by one thread at a time.

    Args:
        name: of the camera, for people.
        reference: of the calibration.
        config: which checks, and how strict.
        roi_xywh: where to look; None: everywhere.
        tell: gets a line when a fault has lasted for 20 pictures, and one when it is over.
        frozen_after: so many pictures in a row that are the same are a frozen camera's; None: it cannot freeze.
    """

    def __init__(
        self,
        name: str,
        reference: CameraReference,
        config: HealthConfig = HealthConfig(),  # noqa: B008 - frozen
        roi_xywh: tuple[int, int, int, int] | None = None,
        tell: Callable[[str], None] = logger.warning,
        frozen_after: int | None = None,
    ) -> None:
        self._name, self._reference, self._config = name, reference, config
        self._roi, self._tell, self._frozen_after = roi_xywh, tell, frozen_after
        self._checks = wanted_checks(config)
        self._before: Measures | None = None
        self._image: UInt8Array | None = None
        self._same = 1  # pictures in a row, the newest included
        self._faults = 0  # in a row

    def begin(self, uri: str, live: bool) -> None:
        """Fit the check for a frozen camera to its source, and tell what is looked at and what cannot be told.

        A folder's or a video's pictures may well be equal, so only a `live` source freezes.
        """
        untold = {check: why for check, why in self._reference.untold.items() if check in self._checks}
        if live and self._config.frozen:
            usual = FROZEN_AFTER_RTSP if uri.startswith("rtsp://") else FROZEN_AFTER
            self._frozen_after = self._config.frozen_after or usual
        elif self._config.frozen:
            untold[Check.FROZEN] = "the source is not live"
        told = ", ".join(check.value for check in Check if check in self._checks - untold.keys())
        cannot = "".join(f"; no {check.value}: {why}" for check, why in untold.items())
        self._tell(f"camera health: {told or 'nothing to check'}{cannot}")

    @property
    def at_fault(self) -> bool:
        """Whether the last picture was the camera's fault."""
        return self._faults > 0

    def fault(self, frame: Frame) -> str | None:
        """What is wrong with the camera, in one line; None: let the model judge."""
        found = measure(frame.image, self._roi)
        frozen_problem = self._frozen_fault(found, frame.image)
        problem = fault_in(found, self._reference, self._checks, self._config.tolerance) or frozen_problem
        self._count(problem)
        return problem and f"camera {self._name!r} {problem}"

    def _frozen_fault(self, found: Measures, image: UInt8Array) -> str | None:
        if self._frozen_after is None:
            return None
        if image is not self._image:  # else one frame answers several triggers
            same = self._before is not None and frozen(self._before, found)
            self._same = self._same + 1 if same else 1
            self._before, self._image = found, image
        if self._same < self._frozen_after:
            return None
        return (
            f"is frozen: {self._same} pictures in a row are the same, without even noise "
            f"(camera.health.frozen_after is {self._frozen_after}); restart the camera"
        )

    def _count(self, problem: str | None) -> None:
        if problem is not None:
            self._faults += 1
            if self._faults == LASTING:
                self._tell(f"CAMERA_FAULT, {LASTING} pictures in a row: camera {self._name!r} {problem}")
            return
        if self._faults >= LASTING:
            self._tell(f"camera {self._name!r} is well again after {self._faults} pictures with a fault")
        self._faults = 0


def wanted_checks(config: HealthConfig) -> frozenset[Check]:
    """The checks that are not switched off."""
    return frozenset(check for check in Check if getattr(config, check.value))


def camera_gate(
    camera: CameraConfig,
    reference: CameraReference | None,
    roi_xywh: tuple[int, int, int, int] | None,
    tell: Callable[[str], None],
) -> CameraGate | None:
    """The gate of a station. None, and told, where it is switched off or the calibration has no reference."""
    if not wanted_checks(camera.health):
        tell("camera health: off (camera.health)")
        return None
    if reference is None:
        tell("camera health: off, since the calibration has no reference of the camera; calibrate again to have it")
        return None
    return CameraGate(camera.name, reference, camera.health, roi_xywh, tell)
