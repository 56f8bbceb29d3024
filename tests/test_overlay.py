"""What failed a part is drawn where people look, in what the store keeps and in reports."""

from pathlib import Path

import cv2
import numpy as np

from mapl_edge.bundle import Bundle
from mapl_edge.calibrate.shown_part import pictures_of
from mapl_edge.calibration import Limits, PixelLimit
from mapl_edge.clock import SystemClock
from mapl_edge.config import StoreConfig
from mapl_edge.contract import InputContract
from mapl_edge.engine import Reading
from mapl_edge.frame import Frame
from mapl_edge.judge import Judge, Judgement
from mapl_edge.masks import InspectedArea
from mapl_edge.overlay import marked
from mapl_edge.runtime import Inspection, Inspector, RunIdentity, open_store
from mapl_edge.runtime.history import Wanted, open_history
from mapl_edge.testing import FakeEngine
from mapl_edge.verdict import Outcome

CONTRACT = InputContract(size_hw=(64, 64))
LIMITS = Limits(fail=2.0, pixel=PixelLimit(limit=0.5))
IGNORED = np.zeros((64, 64), bool)
IGNORED[:16] = True
IGNORED_HERE = np.zeros((96, 64), bool)
IGNORED_HERE[70:] = True
SPOT = np.zeros((64, 64), np.float32)
SPOT[30:40, 20:40] = 0.9
GREY = np.full((64, 64, 3), 100, np.uint8)


class SpotEngine(FakeEngine):
    """Sees the same spot in every picture."""

    def infer(self, picture: np.ndarray) -> Reading:  # type: ignore[type-arg]
        """See `Engine`."""
        return Reading(0.1, SPOT, 0)


def inspected() -> Inspection:
    """A part with one region and an ignored strip, seen by a camera of twice the size."""
    clock = SystemClock()
    area = InspectedArea((128, 128), IGNORED)
    inspector = Inspector(SpotEngine(), CONTRACT, LIMITS, area=area)
    return inspector.inspect(Frame(np.zeros((128, 128, 3), np.uint8), 0, clock.monotonic(), clock.utc()))


def test_regions_are_outlined_and_ignored_places_dark() -> None:
    """On a copy, and only there."""
    before = GREY.copy()

    drawn = marked(GREY, inspected().judgement)

    assert (drawn[:16] == 35).all()
    assert drawn[29:31, 25:35].min() > 150, "white, smoothed over the two rows beside the border"
    assert (drawn[33:37, 23:37] == 100).all()
    assert (drawn[50:] == 100).all()
    assert (before == GREY).all()


def test_nothing_to_draw_is_the_picture_itself() -> None:
    """Without regions and masks nothing is copied."""
    judged = Judge(Limits(fail=1.0), CONTRACT)(Reading(0.0, SPOT, 0), (64, 64))

    assert marked(GREY, judged) is GREY
    assert marked(GREY, None) is GREY


def test_the_store_keeps_regions_and_draws_them(tmp_path: Path) -> None:
    """History tells them as the line did; the heat map has outline and shade."""
    inspection = inspected()
    identity = RunIdentity("r", "c", "b" * 64, "c" * 64, "fake", LIMITS)
    with open_store(tmp_path, identity, StoreConfig(folder=tmp_path, min_free_mb=0)) as store:
        store.expect(inspection.shot)
        store.emit(inspection)
        store.flush(pictures=True)
        store.flush()

    with open_history(tmp_path) as history:
        (entry,) = history.entries(Wanted())
    assert entry.regions == [region.as_json() for region in inspection.verdict.regions]
    assert [region["box_xywh"] for region in entry.regions] == [[40, 60, 40, 20]]
    assert entry.stored_map is not None
    drawn = cv2.imread(str(entry.stored_map))
    assert drawn is not None
    assert drawn[30, 25:35].min() > 150, "white, as far as JPEG lets it"
    assert drawn[:12].max() < 0.5 * drawn[50:].max()


def test_the_report_draws_them(bundle: Bundle) -> None:
    """Outlined and dark on the anomaly map, and not on the part itself."""
    judged = Judgement(Outcome.FAIL, 3.0, outlines=(np.array([[10, 20], [30, 20], [30, 40]]),), ignored=IGNORED_HERE)
    reading, image = Reading(3.0, np.zeros((96, 64), np.float32), 0), np.full((192, 128, 3), 100, np.uint8)

    part, drawn, _ = (picture for _, picture in pictures_of(image, reading, judged, bundle))
    _, plain, _ = (picture for _, picture in pictures_of(image, reading, None, bundle))

    assert (part == 100).all()
    assert drawn.shape == plain.shape == (192, 128, 3)
    assert drawn[40, 30:50].min() > plain.max() + 50, "the outline's upper side"
    assert drawn[150:].max() < 0.5 * plain[150:].max(), "ignored"
    assert (drawn[90:110] == plain[90:110]).all()
