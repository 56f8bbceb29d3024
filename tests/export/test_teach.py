"""A bundle learns a good part on the station: no training, no torch, and it can be taken off again."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY
from glare import GLARE, with_glare

from mapl_edge.arrays import UInt8Array
from mapl_edge.bundle import Bundle, open_bundle
from mapl_edge.calibrate import Wish, calibrate_bundle, calibrate_parts
from mapl_edge.calibrate.again import calibration_again
from mapl_edge.calibrate.own_limits import set_limits
from mapl_edge.calibration import Calibration, Costs, Limits, RegionFilter
from mapl_edge.dataset import bad_samples, good_samples, picture_paths
from mapl_edge.engine import Reading
from mapl_edge.engine_record import plain_engine
from mapl_edge.errors import BundleError, DataError, ParityError
from mapl_edge.export import bundle_from_checkpoint
from mapl_edge.export import lessons as folder_of_lessons
from mapl_edge.export.known_parts import Part, known_parts, labelled_defects, part_from_file
from mapl_edge.export.lessons import lessons
from mapl_edge.export.memory_graph import PlaceEncoder, columns_of, graph_from_file, memory_in
from mapl_edge.export.teach import Taught, teach_bad, teach_good, undo
from mapl_edge.files import sha256_of
from mapl_edge.masks import Masks
from mapl_edge.model.bank import Bank
from mapl_edge.model.checkpoint import Checkpoint
from mapl_edge.model.detector import Detector, empty_memory
from mapl_edge.model.memory import PatchMemory, _columns, _places
from mapl_edge.parity import require_parity
from mapl_edge.picture import picture_from_file
from mapl_edge.prepare import prepare
from mapl_edge.runtime import FusedEngine, engine_of
from mapl_edge.runtime.engine_choice import choose_engine
from mapl_edge.runtime.inspector import look
from mapl_edge.testing import SyntheticLine
from mapl_edge.verdict import Outcome


def decide(old: Any, digest: str, good: Any, defects: Any) -> Any:
    """The same wish again."""
    return calibration_again(old, old.version + 1, "tester", digest, good, defects, "onnxruntime-fp32-fused", "taught")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Part]:
    """Good parts that training and calibration did not see, darker than those: the memory does not know them."""
    folder = tmp_path_factory.mktemp("parts")
    SyntheticLine(seed=1, size_hw=(96, 96)).write_mvtec(folder, 3, 0, 0, start=5000)
    for path in picture_paths(folder / "train" / "good"):
        cv2.imwrite(str(path), picture_from_file(path) // 2)
    return [part_from_file(path) for path in picture_paths(folder / "train" / "good")]


@pytest.fixture(scope="module")
def defect(line_data: Path, calibrated: Path) -> Part:
    """The defective part that even this tiny model is surest of."""
    bundle = open_bundle(calibrated)
    folders = [path for path in sorted((line_data / "test").iterdir()) if path.name != "good"]
    found = [part_from_file(path) for folder in folders for path in picture_paths(folder)]
    surest = max(found, key=lambda part: score(bundle, part))
    assert score(bundle, surest) > bundle.calibration.limits.fail
    return surest


@pytest.fixture
def teach(calibration_data: Path) -> Callable[..., Taught]:
    """Teach with the calibration pictures at hand."""

    def taught(
        bundle: Bundle, parts: list[Part], folders: tuple[Path, ...] = (calibration_data,), **more: Any
    ) -> Taught:
        now = bundle.calibration
        known = known_parts(bundle, now.pictures, now.defects, folders)
        return teach_good(bundle, parts, known, engine_of, decide, **more)

    return taught


def score(bundle: Bundle, part: Part) -> float:
    """By the bundle's own engine."""
    with FusedEngine(bundle.model_path, threads=1) as engine:
        return look(engine, bundle.contract, picture_from_file(part.path)).score


def content(folder: Path) -> dict[str, str]:
    """Every file but the one that may change, with its digest."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: sha256_of(path) for name, path in files.items() if name != "calibration.yaml"}


def test_taught_part_is_known(bundle: Bundle, parts: list[Part], teach: Callable[..., Taught]) -> None:
    """That is what it is for; and the part beside which it is shown is itself."""
    before = score(bundle, parts[0])
    done = teach(bundle, parts[:1])
    now = open_bundle(bundle.path)
    with FusedEngine(now.model_path) as engine:
        reading = look(engine, now.contract, picture_from_file(parts[0].path))

    effect = next(one for one in done.effects if one.kind == "taught")
    assert (effect.score_before, effect.score_after) == pytest.approx((before, reading.score), abs=1e-4)
    assert effect.score_after < before
    assert (effect.before, effect.after) == (Outcome.FAIL, Outcome.PASS)
    assert done.entries == 50 == now.manifest.memory.samples - bundle.manifest.memory.samples
    assert parts[0].digest in now.manifest.trained_on
    prepared = prepare(picture_from_file(parts[0].path), now.contract)
    shown = now.memory_picture(len(now.memory_pictures()) - 1)
    assert np.abs(shown.astype(int) - prepared).mean() < 8  # a JPEG of it


def test_one_thread_looks_at_one_picture_at_a_time(
    bundle: Bundle, parts: list[Part], calibration_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A station that inspects meanwhile keeps its cores."""
    busy, most, infer = 0, 0, FusedEngine.infer

    def counted(engine: FusedEngine, image: UInt8Array) -> Reading:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        time.sleep(0.002)
        try:
            return infer(engine, image)
        finally:
            busy -= 1

    monkeypatch.setattr(FusedEngine, "infer", counted)
    now = bundle.calibration
    known = known_parts(bundle, now.pictures, now.defects, (calibration_data,))

    done = teach_good(bundle, parts[:1], known, engine_of, decide, threads=1)

    assert len(done.effects) > 20
    assert most == 1


def test_taught_bundle_passes_its_parity_gate(bundle: Bundle, parts: list[Part], teach: Callable[..., Taught]) -> None:
    """Both forms answer the golden pictures, the taught one among them; a station chooses an engine as always."""
    pictures = len(bundle.golden().scores)
    teach(bundle, parts[:1])
    now = open_bundle(bundle.path)

    golden = now.golden()
    assert len(golden.scores) == pictures + 1
    for graph in ("fused", "split"):
        engine = engine_of(plain_engine(now, graph=graph))
        assert require_parity(engine, golden)
        engine.close()
    engine, proof = choose_engine(now)
    engine.close()
    assert proof.engine == "onnxruntime-fp32-fused"
    assert now.calibration.model_digest == now.digest


def test_graphs_answer_as_a_model_with_the_entries_in_its_memory(
    bundle: Bundle, checkpoint: Checkpoint, parts: list[Part], teach: Callable[..., Taught]
) -> None:
    """The oracle is torch: the trained detector, its buffers longer by what the delta holds."""
    teach(bundle, parts[:1])
    delta = np.load(bundle.path / "teach/0001.npz")
    trained = checkpoint.detector.memory
    assert isinstance(trained, PatchMemory)
    detector = Detector(checkpoint.detector.encoder, empty_memory(TINY, checkpoint.detector.encoder.channels, 5), TINY)
    memory = PatchMemory(150, checkpoint.detector.encoder.channels)
    state = checkpoint.detector.state_dict()
    for name, key in (
        ("columns", "features"),
        ("descriptors", "descriptors"),
        ("source", "source"),
        ("spread", "spread"),
    ):
        state[f"memory.{name}"] = torch.cat([state[f"memory.{name}"], torch.from_numpy(delta[key])])
    detector.memory = memory
    detector.load_state_dict(
        {k: v for k, v in state.items() if k not in ("memory.codes", "memory.squares")}, strict=False
    )
    memory._index()
    memory.spread.copy_(state["memory.spread"])
    detector.eval()

    with FusedEngine(bundle.model_path) as engine:
        for part in parts:
            picture = prepare(picture_from_file(part.path), bundle.contract)
            with torch.no_grad():
                expected, plane, _ = detector(torch.from_numpy(picture[None]))
            found = engine.infer(picture)
            assert found.score == pytest.approx(float(expected[0]), abs=1e-4)
            np.testing.assert_allclose(found.map, plane[0].numpy(), atol=1e-4)


def test_columns_are_those_of_the_memory() -> None:
    """NumPy does what torch does when the memory is filled."""
    rng = np.random.default_rng(0)
    levels = [rng.random(shape, np.float32) for shape in ((3, 8, 12), (4, 4, 6), (5, 2, 3))]
    expected = _places(_columns([torch.from_numpy(level[None]) for level in levels])).numpy()

    np.testing.assert_allclose(columns_of(*levels), expected, atol=1e-6)


def test_entries_read_from_the_graphs_are_the_models(bundle: Bundle, checkpoint: Checkpoint) -> None:
    """Constants are found by what they hold, whatever the exporter calls them."""
    memory = checkpoint.detector.memory
    assert isinstance(memory, PatchMemory)
    path = bundle.path / "decoder.onnx"
    found = memory_in(graph_from_file(path), path, "patch", 100)

    np.testing.assert_array_equal(found.features, memory.columns.numpy())
    np.testing.assert_array_equal(found.descriptors, memory.descriptors.numpy())
    np.testing.assert_array_equal(found.source, memory.source.numpy())
    np.testing.assert_array_equal(found.spread, memory.spread.numpy())
    vectors = PlaceEncoder(bundle.path, "patch").vectors(found)
    np.testing.assert_array_equal(vectors, memory.vectors().numpy())


def test_undo_gives_back_the_very_bytes(bundle: Bundle, parts: list[Part], teach: Callable[..., Taught]) -> None:
    """Digest, limits and engines of the bundle before are good again, after one step and after all."""
    states = [content(bundle.path)]
    digests, limits = [bundle.digest], [bundle.calibration.limits]
    for part in parts:
        teach(open_bundle(bundle.path), [part])
        states.append(content(bundle.path))
        digests.append(open_bundle(bundle.path).digest)
        limits.append(open_bundle(bundle.path).calibration.limits)
    assert [one["number"] for one in lessons(open_bundle(bundle.path))] == [1, 2, 3]
    assert len(set(digests)) == 4

    for number in (2, 1):
        back = undo(open_bundle(bundle.path))
        assert content(bundle.path) == states[number]
        assert (back.digest, back.calibration.limits) == (digests[number], limits[number])
    undo(open_bundle(bundle.path), everything=True)
    assert content(bundle.path) == states[0]
    assert open_bundle(bundle.path).calibration.limits == limits[0]
    with pytest.raises(BundleError, match="nothing was taught"):
        undo(open_bundle(bundle.path))


def test_limits_come_from_new_scores_of_the_same_parts(
    bundle: Bundle, parts: list[Part], calibration_data: Path, teach: Callable[..., Taught]
) -> None:
    """As `calibrate` with the taught bundle would set them."""
    old = bundle.calibration
    done = teach(bundle, parts[:2])
    now = open_bundle(bundle.path)
    shutil.copytree(bundle.path, bundle.path.with_name("again.mapl"))
    again = open_bundle(bundle.path.with_name("again.mapl"))
    with FusedEngine(again.model_path) as engine:
        calibrate_bundle(again, good_samples(calibration_data), partial(look, engine, again.contract))

    assert done.calibration == now.calibration
    assert now.calibration.version == old.version + 1
    assert now.calibration.limits.fail == pytest.approx(open_bundle(again.path).calibration.limits.fail, abs=1e-4)
    np.testing.assert_allclose(now.calibration.scores, open_bundle(again.path).calibration.scores, atol=1e-4)
    assert now.calibration.scores != old.scores


def test_a_calibration_part_that_is_taught_keeps_its_score(
    bundle: Bundle, calibration_data: Path, teach: Callable[..., Taught]
) -> None:
    """Also when another one is taught later: of the rest alone the limit would promise what it cannot keep."""
    old = bundle.calibration
    ranked = [name for _, name in sorted(zip(old.scores, old.pictures, strict=True))]
    highest, next_one = (part_from_file(calibration_data / name) for name in ranked[:-3:-1])
    assert score(bundle, highest) == pytest.approx(max(old.scores), abs=1e-4)

    first = teach(bundle, [highest]).calibration
    second = teach(open_bundle(bundle.path), [next_one]).calibration

    for now in (first, second):
        assert now is not None
        assert now.promise.n_good == len(old.scores)
        assert now.pictures == old.pictures
        assert dict(zip(now.pictures, now.scores, strict=True))[ranked[-1]] == max(old.scores)
    before, after = (dict(zip(now.pictures, now.scores, strict=True)) for now in (first, second))
    assert after[ranked[-2]] == before[ranked[-2]]
    assert score(open_bundle(bundle.path), highest) < max(old.scores)


def test_calibrating_anew_tells_that_taught_parts_are_missing(
    bundle: Bundle, calibration_data: Path, teach: Callable[..., Taught]
) -> None:
    """They were chosen by their scores, other than what training saw."""
    highest = max(zip(bundle.calibration.scores, bundle.calibration.pictures, strict=True))[1]
    teach(bundle, [part_from_file(calibration_data / highest)])
    taught = open_bundle(bundle.path)

    with engine_of(plain_engine(taught), threads=1) as engine:
        look_at = partial(look, engine, taught.contract)
        done = calibrate_parts(taught, good_samples(calibration_data), (), look_at, Wish())

    assert (done.n_left_out, done.n_taught) == (1, 1)
    assert bundle.taught == frozenset()


def test_what_others_change_meanwhile_is_not_lost(
    bundle: Bundle, parts: list[Part], calibration_data: Path, teach: Callable[..., Taught]
) -> None:
    """Limits that a person sets while graphs are written: they stay, and teaching is tried again."""

    def sign(made: Bundle) -> None:
        set_limits(open_bundle(bundle.path), Limits(fail=99.0))

    with pytest.raises(BundleError, match="was changed by somebody else meanwhile; try again"):
        teach(bundle, parts[:1], sign=sign)

    assert open_bundle(bundle.path).calibration.limits.fail == 99.0
    teach(open_bundle(bundle.path), parts[:1])


@pytest.mark.parametrize(
    "wish",
    [
        Wish(rule="recall", target_recall=0.6, confidence=0.8),
        Wish(rule="cost", costs=Costs(20, 1)),
        Wish(max_false_reject=0.2, regions=RegionFilter(min_area_px=20)),
    ],
    ids=["recall", "cost", "regions"],
)
@pytest.mark.parametrize("masks", [None, Masks(ignore=GLARE)], ids=["", "masked"])
def test_limits_of_every_rule_are_set_as_calibrate_would(
    bundle: Bundle,
    parts: list[Part],
    line_data: Path,
    calibration_data: Path,
    teach: Callable[..., Taught],
    wish: Wish,
    masks: Masks | None,
) -> None:
    """With regions and masks too; a second lesson and an undo find what they need."""
    good, bad = good_samples(calibration_data), bad_samples(line_data / "test" / "scratch")
    if masks is not None:
        bundle = with_glare(bundle)

    def calibrated(of: Bundle) -> Calibration:
        with FusedEngine(of.model_path, threads=1) as engine:
            name = "onnxruntime-fp32-fused"
            calibrate_parts(of, good, bad, partial(look, engine, of.contract), wish, engine=name, masks=masks)
        return open_bundle(of.path).calibration

    old = calibrated(bundle)
    area = masks and masks.area(bundle.contract, (96, 96))
    folders = (calibration_data, line_data / "test" / "scratch")
    for number in (0, 1):
        done = teach(open_bundle(bundle.path), [parts[number]], folders, area=area, force=True)
        shutil.copytree(bundle.path, bundle.path.with_name(f"again-{number}.mapl"))
        expected = calibrated(open_bundle(bundle.path.with_name(f"again-{number}.mapl")))

        now = open_bundle(bundle.path).calibration
        same = {"limits", "promise", "review_promise", "pixel_promise", "misses", "rule", "target_recall", "costs"}
        same |= {"masks", "picture_hw", "scores", "levels", "defect_scores", "defect_levels", "pictures", "defects"}
        assert now.model_dump(include=same) == expected.model_dump(include=same)
        assert now.scores != old.scores
        known = [effect for effect in done.effects if effect.kind != "taught"]
        assert [effect.mark_after.score for effect in known] == [*now.scores, *now.defect_scores]
        assert (known[0].mark_after.level is None) is (wish.regions is None)
    undo(open_bundle(bundle.path), everything=True)
    assert open_bundle(bundle.path).calibration.limits == old.limits


def test_teaching_a_defect_as_good_is_refused(
    bundle: Bundle, parts: list[Part], defect: Part, teach: Callable[..., Taught]
) -> None:
    """A part like a known defect must not open the door to it; nothing is written."""
    labelled, now = teach_bad(bundle, [defect], known_parts(bundle, {}, {}, ()), engine_of, decide)
    assert (labelled[0].kind, labelled_defects(bundle)[0].digest) == ("defect", defect.digest)
    assert now is not None
    assert defect.digest in now.defects.values()
    opened = open_bundle(bundle.path)
    assert opened.digest == bundle.digest
    before = content(bundle.path)
    image = picture_from_file(defect.path)
    image[0, 0] ^= 1  # the same part, another file
    twin = defect.path.with_name("twin.png")
    cv2.imwrite(str(twin), image)
    try:
        with pytest.raises(DataError, match="labelled as a defect"):
            teach(opened, [defect])
        with pytest.raises(DataError, match="1 known defects would pass"):
            teach(opened, [part_from_file(twin)], patches=1000)
        assert content(bundle.path) == before

        done = teach(opened, [part_from_file(twin)], patches=1000, force=True)
        assert [one.is_missed_now for one in done.effects if one.kind == "defect"] == [True]
    finally:
        twin.unlink()


def test_missing_pictures_are_refused_or_told(bundle: Bundle, parts: list[Part], teach: Callable[..., Taught]) -> None:
    """Without the calibration set nobody knows what its limits promise now."""
    with pytest.raises(DataError, match="20 pictures that the limits came from were not found"):
        teach(bundle, parts[:1], ())

    done = teach(bundle, parts[:1], (), keep_limits=True)
    now = open_bundle(bundle.path)
    assert now.calibration.limits == bundle.calibration.limits
    assert "not scored again" in now.calibration.note
    assert now.calibration.scores == ()  # of another memory: the next teaching must not take them for this one's
    assert done.calibration == now.calibration


def test_engines_made_before_are_refused(bundle: Bundle, parts: list[Part], teach: Callable[..., Taught]) -> None:
    """They know the memory of before; after undo they fit again."""
    from mapl_edge.engine_record import engine_files
    from mapl_edge.export import add_engine

    record = add_engine(bundle, "onnxruntime", "fp32", engine_of, graph="split")
    teach(bundle, parts[:1])
    now = open_bundle(bundle.path)
    with pytest.raises(BundleError, match="was made for bundle"):
        engine_files(now, record.name)

    undo(now)
    assert engine_files(open_bundle(bundle.path), record.name).record == record


def test_graph_that_was_missed_fails_the_gate(
    bundle: Bundle, parts: list[Part], teach: Callable[..., Taught], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused graph and index hold copies of the memory; where one stays behind, the taught part tells."""
    add = folder_of_lessons.add_entries

    def only_the_decoder(graph: Any, source: Path, *entries: Any) -> None:
        if source.name == "decoder.onnx":
            add(graph, source, *entries)

    before = content(bundle.path)
    monkeypatch.setattr(folder_of_lessons, "add_entries", only_the_decoder)

    with pytest.raises(ParityError):
        teach(bundle, parts[:1])
    assert content(bundle.path) == before
    assert [path.name for path in bundle.path.parent.iterdir()] == ["part.mapl"]


def test_graph_without_the_memory_is_refused(bundle: Bundle, parts: list[Part]) -> None:
    """Another exporter may fold the memory into something else."""
    path = bundle.path / "decoder.onnx"
    graph = graph_from_file(path)
    for tensor in graph.graph.initializer:
        if list(tensor.dims)[:1] == [100]:
            tensor.dims[:] = [1, *tensor.dims]

    with pytest.raises(BundleError, match="cannot be added to; export the model again"):
        memory_in(graph, path, "patch", 100)


def test_signed_bundle_wants_a_signature(bundle: Bundle, parts: list[Part], teach: Callable[..., Taught]) -> None:
    """A station that requires one would not start after an unsigned change."""
    (bundle.path / "manifest.sig").write_bytes(b"signature")
    with pytest.raises(BundleError, match="is signed"):
        teach(bundle, parts[:1])

    def sign(made: Bundle) -> None:
        (made.path / "manifest.sig").write_bytes(made.digest.encode())

    teach(bundle, parts[:1], sign=sign)
    assert (bundle.path / "manifest.sig").read_text() == open_bundle(bundle.path).digest
    undo(open_bundle(bundle.path))
    assert (bundle.path / "manifest.sig").read_bytes() == b"signature"


def test_undo_signs_what_was_signed_later(bundle: Bundle, parts: list[Part], teach: Callable[..., Taught]) -> None:
    """The bundle before had no signature, the taught one has: without a key it would be lost."""

    def sign(made: Bundle) -> None:
        (made.path / "manifest.sig").write_bytes(made.digest.encode())

    teach(bundle, parts[:1], sign=sign)
    with pytest.raises(BundleError, match="is signed, and would not be any more"):
        undo(open_bundle(bundle.path))

    undo(open_bundle(bundle.path), sign=sign)
    assert (bundle.path / "manifest.sig").read_text() == open_bundle(bundle.path).digest == bundle.digest


@pytest.mark.parametrize("wrong", ["trained", "twice", "again"])
def test_parts_that_cannot_be_taught(
    bundle: Bundle, parts: list[Part], line_data: Path, teach: Callable[..., Taught], wrong: str
) -> None:
    """Each with its reason."""
    if wrong == "again":
        teach(bundle, parts[:1])
    trained = [part_from_file(path) for path in picture_paths(line_data / "train" / "good")]
    seen = [part for part in trained if part.digest in bundle.manifest.trained_on]
    given = {"trained": seen[:1], "twice": [parts[0], parts[0]], "again": parts[:1]}[wrong]

    with pytest.raises(DataError, match="given twice" if wrong == "twice" else "trained on or taught already"):
        teach(open_bundle(bundle.path), given)


@pytest.fixture(scope="module")
def image_bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the trained parts with a memory of whole pictures."""
    from dataclasses import replace

    trained, pictures = checkpoint.detector, checkpoint.memory_pictures
    config = TINY.model_copy(update={"memory": "image"})
    bank = Bank(pictures, np.arange(len(pictures)), config)
    detector = Detector(trained.encoder, empty_memory(config, trained.encoder.channels, bank.size), config)
    bank.fill(detector, lambda few: trained.encoder(torch.from_numpy(few)))
    detector.fusion, detector.decoder, detector.evidence = trained.fusion, trained.decoder, trained.evidence
    path = tmp_path_factory.mktemp("image") / "image.mapl"
    bundle_from_checkpoint(replace(checkpoint, detector=detector.eval()), path, engine_of)
    return open_bundle(path)


def test_image_memory_gets_the_whole_picture(image_bundle: Bundle, parts: list[Part]) -> None:
    """The part is then nearest to itself; without limits there are no verdicts to change."""
    known = known_parts(image_bundle, {}, {}, ())
    done = teach_good(image_bundle, parts[:1], known, engine_of, decide)
    now = open_bundle(image_bundle.path)
    with FusedEngine(now.model_path) as engine:
        reading = look(engine, now.contract, picture_from_file(parts[0].path))

    assert done.entries == 1
    assert reading.nearest == len(now.memory_pictures()) - 1
    assert done.effects[0].score_after < done.effects[0].score_before
    assert done.calibration is None
    assert undo(now).digest == image_bundle.digest


KILLED = """
import os, signal, sys
from mapl_edge import files

moment, exchange = sys.argv.pop(1), files._exchange

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def exchange_and_die(*args):
    assert exchange(*args)
    die()

if moment == "while the files are gathered":
    os.fsync = die
elif moment == "before the exchange":
    files._exchange = die
elif moment == "after the exchange":
    files._exchange = exchange_and_die
from mapl_edge.cli import main
main()
"""


@pytest.mark.parametrize(
    ("moment", "is_new"),
    [("while the files are gathered", False), ("before the exchange", False), ("after the exchange", True)],
)
def test_kill_leaves_the_old_bundle_or_the_new_one(
    bundle: Bundle, parts: list[Part], calibration_data: Path, moment: str, is_new: bool
) -> None:
    """Whole, with the limits that belong to it."""
    command = [sys.executable, "-c", KILLED, moment, "teach", str(bundle.path), "--good", str(parts[0].path)]
    done = subprocess.run([*command, "--calibration", str(calibration_data)], capture_output=True)

    found = open_bundle(bundle.path)
    assert done.returncode == -signal.SIGKILL
    assert (found.digest != bundle.digest) is is_new
    assert found.calibration.model_digest == found.digest
