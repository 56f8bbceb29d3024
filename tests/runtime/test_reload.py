"""Reload: what is new on the disk is proved beside the running bundle, and taken over or told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mapl_edge.bundle import CALIBRATION, GOLDEN, MANIFEST, SEAL, Bundle
from mapl_edge.calibration import Limits, calibration_from_file, write_calibration
from mapl_edge.errors import ContractMismatch
from mapl_edge.files import sha256_of
from mapl_edge.frame import Frame
from mapl_edge.parity import pattern
from mapl_edge.prepare import prepare
from mapl_edge.runtime import AtWork, DeadlineInspector, Judging, Lane, Reload, SwapInspector, Watchdog
from mapl_edge.runtime.loaded import Loaded, Wanted, loaded_bundle
from mapl_edge.testing import ManualClock
from mapl_edge.verdict import Outcome, Policy, Verdict

ENGINE = "onnxruntime-fp32-fused"
EASY, STRICT = Limits(fail=1e9), Limits(fail=-1e9)


class Station:
    """Cameras without a source or a thread: `look` and `inspect` are called by hand."""

    def __init__(self, path: Path, cameras: int = 1, *, watched: bool = False, watch: bool = True) -> None:
        self.told: list[str] = []
        self.opened: list[AtWork] = []
        self.misfit = False
        loaded = loaded_bundle(path, Wanted(ENGINE, 1))
        self._watched = watched
        engine = self.put_to_work(loaded)
        self.inspectors = [SwapInspector(self.judging_of(loaded, engine)) for _ in range(cameras)]
        lanes = [Lane(each, self.judging_of) for each in self.inspectors]
        self.reload = Reload(loaded, engine, lanes, self.put_to_work, self.told.append, watch=watch)
        self.seq = -1

    def put_to_work(self, loaded: Loaded) -> AtWork:
        """As `run` does."""
        engine: AtWork = loaded.engine
        if self._watched:
            engine = Watchdog(loaded.engines())
            engine.open()
        self.opened.append(engine)
        return engine

    def judging_of(self, loaded: Loaded, engine: AtWork) -> Judging:
        """Without a deadline."""
        if self.misfit:
            raise ContractMismatch("other masks")
        inspector_of = loaded.inspector_of(Policy())
        if isinstance(engine, Watchdog):
            return Judging(DeadlineInspector(engine, inspector_of, float("inf")), engine, loaded.digests)
        return Judging(inspector_of(engine), engine, loaded.digests)

    def inspect(self, camera: int = 0) -> Verdict:
        """The next part of a camera."""
        clock = ManualClock()
        self.seq += 1
        image = np.random.default_rng(self.seq).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        return self.inspectors[camera].inspect(Frame(image, self.seq, clock.monotonic(), clock.utc())).verdict

    def look(self, times: int = 2) -> list[str]:
        """Look so often; what was told."""
        before = len(self.told)
        for _ in range(times):
            self.reload.look()
        return self.told[before:]


@pytest.fixture
def station() -> Iterator[Callable[..., Station]]:
    """Makes stations and closes them."""
    made: list[Station] = []

    def make(*arguments: object, **more: object) -> Station:
        made.append(Station(*arguments, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.reload.close()


def limit(bundle: Bundle, limits: Limits) -> str:
    """Put limits in force by hand; the digest of calibration.yaml."""
    path = bundle.calibration_path
    write_calibration(calibration_from_file(path).model_copy(update={"limits": limits}), path)
    return sha256_of(path)


def another_bundle(bundle: Bundle, **changes: object) -> str:
    """The same model with another manifest, calibrated; its digest."""
    text = (bundle.path / MANIFEST).read_text().rstrip() + "\n\n"
    (bundle.path / MANIFEST).write_text(text)
    digest = sha256_of(bundle.path / MANIFEST)
    (bundle.path / SEAL).write_text(f"{digest}  {MANIFEST}\n")
    known = calibration_from_file(bundle.calibration_path)
    write_calibration(known.model_copy(update={"model_digest": digest, **changes}), bundle.calibration_path)
    return digest


@pytest.mark.parametrize("watched", [False, True], ids=["plain", "watchdog"])
def test_new_limits_judge_from_the_next_part_on_with_the_same_engine(
    bundle: Bundle, station: Callable[..., Station], watched: bool
) -> None:
    """And one line says what was and what is."""
    limit(bundle, EASY)
    running = station(bundle.path, watched=watched)
    before = running.inspect()
    digest = limit(bundle, STRICT)
    told = running.look()
    after = running.inspect()

    assert (before.outcome, after.outcome) == (Outcome.PASS, Outcome.FAIL)
    assert before.judged_by["calibration"] != after.judged_by["calibration"] == digest
    assert before.judged_by["bundle"] == after.judged_by["bundle"] == bundle.digest
    (line,) = told
    assert f"calibration {before.judged_by['calibration'][:12]} → {digest[:12]}" in line
    assert "fail 1e+09 → fail -1e+09" in line
    assert len(running.opened) == 1


@pytest.mark.parametrize("watched", [False, True], ids=["plain", "watchdog"])
def test_another_bundle_takes_over_and_the_old_engine_closes(
    bundle: Bundle, station: Callable[..., Station], watched: bool
) -> None:
    """Once every camera has had its next part, and not before."""
    limit(bundle, EASY)
    running = station(bundle.path, cameras=2, watched=watched)
    first = running.inspect(0), running.inspect(1)
    old = running.reload.running.engine
    digest = another_bundle(bundle, limits=STRICT)
    running.look()
    second = running.inspect(0)
    running.look()
    while_one_waits = old._closed
    third = running.inspect(1)
    running.look()

    assert [v.outcome for v in (*first, second, third)] == [Outcome.PASS] * 2 + [Outcome.FAIL] * 2
    assert {v.judged_by["bundle"] for v in first} == {bundle.digest}
    assert {v.judged_by["bundle"] for v in (second, third)} == {digest}
    assert (while_one_waits, old._closed) == (False, True)
    assert running.inspect().outcome is Outcome.FAIL


def test_what_is_still_being_written_is_left_alone(bundle: Bundle, station: Callable[..., Station]) -> None:
    """A change is read when it has been quiet between two looks."""
    running = station(bundle.path)
    running.look(3)
    limit(bundle, STRICT)
    once = running.look(1)
    limit(bundle, EASY)
    again = running.look(1)
    quiet = running.look(1)

    assert (once, again, len(quiet)) == ([], [], 1)
    assert running.reload.running.calibration.limits == EASY


def cut(path: Path) -> None:
    """Leave half a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "manifest-cut": (lambda path: cut(path / MANIFEST), "manifest.json cannot be read"),
    "no-limits": (lambda path: (path / CALIBRATION).unlink(), "no thresholds yet"),
    "limits-no-yaml": (lambda path: (path / CALIBRATION).write_text("limits: ["), "cannot be read"),
    "gone": (lambda path: path.rename(path.with_name("away")), "no such folder"),
    "manifest-of-other": (
        lambda path: (path / MANIFEST).write_text((path / MANIFEST).read_text() + "\n"),
        "do not agree",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told_once_and_the_old_goes_on(
    bundle: Bundle, station: Callable[..., Station], tmp_path: Path, name: str
) -> None:
    """Until it is mended: then it is taken over, or is what runs already."""
    breaks, says = BROKEN[name]
    shutil.copytree(bundle.path, tmp_path / "kept")
    running = station(bundle.path)
    before = running.inspect()
    breaks(bundle.path)
    told = running.look(6)
    after = running.inspect()
    shutil.copytree(tmp_path / "kept", bundle.path, dirs_exist_ok=True)
    mended = running.look(6)
    limit(bundle, STRICT)
    changed = running.look(6)

    (line,) = told
    assert line.startswith("not taken over, what runs goes on: ")
    assert says in line
    assert after.judged_by == before.judged_by
    assert after.outcome is not Outcome.ERROR
    assert mended == []
    assert (len(changed), running.inspect().outcome) == (1, Outcome.FAIL)


def test_a_part_of_the_copy_that_comes_last_is_noticed(bundle: Bundle, station: Callable[..., Station]) -> None:
    """The manifest may be there before the model is."""
    running = station(bundle.path)
    whole = bundle.model_path.read_bytes()
    digest = another_bundle(bundle)
    bundle.model_path.write_bytes(whole[:1000])
    early = running.look(6)
    bundle.model_path.write_bytes(whole)
    late = running.look(6)

    assert "model.onnx was changed" in early[0]
    assert (len(early), len(late)) == (1, 1)
    assert running.inspect().judged_by["bundle"] == digest


def test_what_does_not_fit_one_camera_changes_none(bundle: Bundle, station: Callable[..., Station]) -> None:
    """And the engine that was opened for it is closed."""
    running = station(bundle.path, cameras=2)
    running.misfit = True
    another_bundle(bundle)
    told = running.look()
    verdicts = [running.inspect(camera) for camera in (0, 1)]

    assert told == ["not taken over, what runs goes on: other masks"]
    assert {v.judged_by["bundle"] for v in verdicts} == {bundle.digest}
    assert [engine._closed for engine in running.opened] == [False, True]  # type: ignore[union-attr]


@pytest.mark.parametrize("watched", [False, True], ids=["plain", "watchdog"])
def test_limits_of_pictures_of_another_size_are_refused(
    bundle: Bundle, station: Callable[..., Station], watched: bool
) -> None:
    """No worker gets them, to die of."""
    path = bundle.calibration_path
    known = calibration_from_file(path)
    assert known.place is not None
    running = station(bundle.path, watched=watched)
    small = known.place.model_copy(update={"rows": known.place.rows[:-8]})
    write_calibration(known.model_copy(update={"place": small}), path)
    (told,) = running.look()

    assert told.startswith("not taken over, what runs goes on: calibration.yaml: place is of pictures of ")
    assert running.inspect().outcome is not Outcome.ERROR


def test_a_model_for_other_pictures_is_refused_by_the_newest_one(
    bundle: Bundle, station: Callable[..., Station]
) -> None:
    """Its golden pictures are right, but every part of this camera would be an ERROR."""
    running = station(bundle.path)
    running.inspect()
    contract = bundle.contract.model_copy(update={"roi_xywh": (0, 0, 200, 200)})
    golden = bundle.golden()
    arrays = {"pictures": golden.pictures, "scores": golden.scores, "maps": golden.maps}
    np.savez(bundle.path / GOLDEN, **arrays, pattern=prepare(pattern(contract), contract))
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["contract"]["roi_xywh"] = contract.roi_xywh
    manifest["files"][GOLDEN] = sha256_of(bundle.path / GOLDEN)
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    another_bundle(bundle)
    (told,) = running.look()

    assert "region of interest 200x200 at (0, 0) does not fit into a picture of 96x96 px" in told
    assert running.inspect().outcome is not Outcome.ERROR


def test_without_a_watch_it_looks_when_it_is_asked(bundle: Bundle, station: Callable[..., Station]) -> None:
    """At once, and says so even where there is nothing new."""
    running = station(bundle.path, watch=False)
    limit(bundle, STRICT)
    by_itself = running.look(4)
    running.reload.look(asked=True)
    running.reload.look(asked=True)

    assert by_itself == []
    assert len(running.told) == 2
    assert running.told[1] == f"{bundle.path}: nothing has changed"
    assert running.inspect().outcome is Outcome.FAIL


def test_a_touched_file_is_no_change(bundle: Bundle, station: Callable[..., Station]) -> None:
    """Only what is in it counts."""
    running = station(bundle.path)
    running.look(3)
    os.utime(bundle.calibration_path)

    assert running.look(4) == []


def test_a_lost_engine_does_not_start_again_from_a_bundle_that_is_not_in_force(bundle: Bundle) -> None:
    """Its limits are not for what lies there now."""
    loaded = loaded_bundle(bundle.path, Wanted(ENGINE, 1))
    open_engine = loaded.engines()[0]
    open_engine().close()
    another_bundle(bundle)

    with pytest.raises(Exception, match="another bundle lies there now"):
        open_engine()


def test_a_folder_that_goes_while_it_is_looked_at_ends_nothing(
    bundle: Bundle, station: Callable[..., Station], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles are replaced by renaming, whole folders at once."""
    running = station(bundle.path)
    (bundle.path / MANIFEST).write_text("{}")
    assert len(running.look()) == 1  # from now on it looks at every file
    real = os.scandir

    def gone(path: object) -> object:
        if Path(str(path)) != bundle.path:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", gone)
    monkeypatch.setattr(os, "listdir", gone)

    assert running.look() == []
    assert running.inspect().outcome is not Outcome.ERROR


def test_its_thread_finds_a_change_and_ends(bundle: Bundle, station: Callable[..., Station]) -> None:
    """As in a run."""
    running = station(bundle.path)
    with running.reload:
        limit(bundle, STRICT)
        running.reload.ask()
        for _ in range(1000):
            if running.told:
                break
            running.reload._thread.join(0.01)

    assert len(running.told) == 1
    assert not running.reload._thread.is_alive()
