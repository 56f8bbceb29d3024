"""Bundles: what is written opens again, and whatever was changed on the way is named. No model is needed here."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mapl_edge.bundle import (
    BUNDLE_SCHEMA,
    DECODER,
    ENCODER,
    GOLDEN,
    MANIFEST,
    MEMORY,
    MODEL,
    Manifest,
    MemorySummary,
    memory_name,
    open_bundle,
    write_manifest,
)
from mapl_edge.calibration import Calibration, Limits, Promise, write_calibration
from mapl_edge.contract import InputContract
from mapl_edge.errors import BundleError, ContractMismatch, Uncalibrated
from mapl_edge.files import sha256_of

CONTRACT = InputContract(size_hw=(96, 64), roi_xywh=(0, 0, 200, 100))
PICTURES = [memory_name(0), memory_name(1)]
GRAPHS = [MODEL, ENCODER, DECODER, MEMORY]
FILES = sorted([GOLDEN, *PICTURES, *GRAPHS])


def fields() -> dict[str, Any]:
    """What a manifest says besides its files."""
    return {
        "family": "mapl",
        "created_at": "2026-11-22T03:04:05.678Z",
        "contract": CONTRACT,
        "memory": MemorySummary(samples=2),
        "tools": {"mapl-edge": "0.1.0"},
        "training": {"seed": 3, "steps": 8},
        "trained_on": ("aa", "bb"),
        "held_out": {"good/002.png": "cc"},
    }


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A bundle of small files; the graph is only bytes."""
    folder = tmp_path / "part.mapl"
    (folder / "memory").mkdir(parents=True)
    for graph in GRAPHS:
        (folder / graph).write_bytes(graph.encode())
    rng = np.random.default_rng(0)
    np.savez(
        folder / GOLDEN,
        pictures=rng.integers(0, 256, (3, 96, 64, 3), np.uint8),
        scores=rng.random(3, np.float32),
        maps=rng.random((3, 96, 64), np.float32),
    )
    for i, name in enumerate(PICTURES):
        assert cv2.imwrite(str(folder / name), np.full((96, 64, 3), 50 * (i + 1), np.uint8))
    write_manifest(folder, **fields())
    return folder


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change keys of manifest.json."""
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def calibration_for(digest: str) -> Calibration:
    """Limits that belong to the bundle with this digest."""
    return Calibration(
        created_at="2026-11-22T03:04:05.678Z",
        created_by="mia",
        model_digest=digest,
        limits=Limits(fail=1.5),
        promise=Promise(max_false_reject=0.05, confidence=0.95, achieved=0.1, n_good=30, n_above=0, n_needed=59),
        pictures={},
    )


def test_bundle_opens_as_it_was_written(part: Path) -> None:
    """Everything that the station needs comes from the folder alone."""
    bundle = open_bundle(part)

    assert bundle.manifest == Manifest(files=bundle.manifest.files, **fields())
    assert sorted(bundle.manifest.files) == FILES
    assert bundle.contract == CONTRACT
    assert bundle.model_path.read_bytes() == b"model.onnx"
    assert bundle.digest == sha256_of(part / MANIFEST)


def test_golden_answers_come_back(part: Path) -> None:
    """Parity is checked against exactly these."""
    golden = open_bundle(part).golden()

    assert (golden.pictures.shape, golden.pictures.dtype) == ((3, 96, 64, 3), np.uint8)
    assert (golden.scores.shape, golden.scores.dtype) == ((3,), np.float32)
    assert (golden.maps.shape, golden.maps.dtype) == ((3, 96, 64), np.float32)


def test_memory_pictures_come_by_index(part: Path) -> None:
    """The operator sees the normal part that a reject was compared with."""
    bundle = open_bundle(part)

    assert [int(bundle.memory_picture(i).mean()) for i in (0, 1)] == [50, 100]


def test_memory_pictures_sort_by_their_index() -> None:
    """A patch memory stands on hundreds of pictures; in a listing they lie in order."""
    names = [memory_name(i) for i in range(1000)]

    assert names == sorted(names)
    assert len(set(names)) == 1000


def test_copied_bundle_is_the_same_bundle(part: Path, tmp_path: Path) -> None:
    """A stick or scp carries it; the digest does not depend on where it lies."""
    shutil.copytree(part, tmp_path / "elsewhere")

    assert open_bundle(tmp_path / "elsewhere").digest == open_bundle(part).digest


@pytest.mark.parametrize("name", FILES)
def test_changed_byte_is_named(name: str, part: Path) -> None:
    """One flipped bit in any file is found before that file is used."""
    data = bytearray((part / name).read_bytes())
    data[len(data) // 2] ^= 1
    (part / name).write_bytes(data)

    with pytest.raises(BundleError, match=rf"part\.mapl: {name} was changed"):
        open_bundle(part)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(name: str, part: Path) -> None:
    """A copy that was broken off."""
    (part / name).unlink()

    with pytest.raises(BundleError, match=rf"part\.mapl: {name} is missing; copy the whole folder again"):
        open_bundle(part)


def test_limits_that_are_being_written_are_in_nobodys_way(calibrated: Path, tmp_path: Path) -> None:
    """A station may start just then; and a kill there leaves a bundle that opens."""
    bundle = Path(shutil.copytree(calibrated, tmp_path / "part.mapl"))
    for name in (
        ".calibration.yaml.ab12_xyz.partial.yaml",
        ".manifest.sig.ab12_xyz.partial.sig",
        "calibration.yaml.unreadable-1",
    ):
        (bundle / name).write_text("half of it")

    assert open_bundle(bundle).calibration.version == 1


@pytest.mark.parametrize(
    "name", ["notes.txt", ".model.onnx.ab12_xyz.partial.onnx", "memory/02.jpg", ".hidden", "deep/manifest.json"]
)
def test_file_that_is_not_listed_is_named(name: str, part: Path) -> None:
    """Nothing travels along that the manifest does not vouch for."""
    (part / name).parent.mkdir(exist_ok=True)
    (part / name).write_text("")

    with pytest.raises(BundleError, match=rf"part\.mapl: {name} is not listed in the manifest"):
        open_bundle(part)


def test_link_in_place_of_a_file_is_refused(part: Path, tmp_path: Path) -> None:
    """What it points to can change after the check, even if it has the right bytes now."""
    (part / MODEL).rename(tmp_path / "outside.onnx")
    (part / MODEL).symlink_to(tmp_path / "outside.onnx")

    with pytest.raises(BundleError, match=rf"part\.mapl: {MODEL} "):
        open_bundle(part)


def test_link_in_place_of_a_folder_is_refused(part: Path, tmp_path: Path) -> None:
    """The same, one level higher."""
    (part / "memory").rename(tmp_path / "outside")
    (part / "memory").symlink_to(tmp_path / "outside")

    with pytest.raises(BundleError, match=r"part\.mapl: memory/000\.jpg "):
        open_bundle(part)


@pytest.mark.parametrize(
    "name", ["../outside.onnx", "/etc/passwd", "memory/../../x", "..", "..\\x", "C:x"], ids=lambda name: name
)
def test_path_that_leaves_the_bundle_is_refused(name: str, part: Path) -> None:
    """A manifest may only speak of what lies in its folder."""
    edit_manifest(part, files={name: "00"})

    with pytest.raises(BundleError, match=r"manifest\.json is wrong at files: .*leaves the bundle"):
        open_bundle(part)


@pytest.mark.parametrize("schema", [BUNDLE_SCHEMA + 1, 99], ids="schema {}".format)
def test_newer_schema_is_refused(schema: int, part: Path) -> None:
    """An old station says that it is old, not that the bundle is broken."""
    edit_manifest(part, schema_version=schema, added_later={})

    says = rf"schema {schema} is newer than this version reads \({BUNDLE_SCHEMA}\); update mapl-edge"
    with pytest.raises(BundleError, match=says):
        open_bundle(part)


def test_a_bundle_of_the_first_version_still_opens_and_says_what_it_lacks(part: Path) -> None:
    """It had no split graphs and no validation pictures, and its memory's names had two digits."""
    for name in (ENCODER, DECODER, MEMORY):
        (part / name).unlink()
    for i, name in enumerate(PICTURES):
        (part / name).rename(part / f"memory/{i:02d}.jpg")
    write_manifest(part, schema_version=1, **fields())

    bundle = open_bundle(part)

    assert not bundle.is_split
    assert "schema 1" in bundle.notes[0]
    assert "export the model again" in bundle.notes[0]
    assert bundle.memory_picture(1).shape == (96, 64, 3)
    with pytest.raises(BundleError, match="no validation pictures"):
        bundle.validation()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut-off"),
        pytest.param(b"\0\0\0\0", id="zeros-after-a-power-cut"),
        pytest.param(b"\xff\xfe\x00", id="not-text"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no-schema"),
        pytest.param(b'{"schema_version": "new"}', id="schema-is-text"),
        pytest.param(b"[" * 100_000, id="nested-without-end"),
    ],
)
def test_broken_manifest_is_refused(content: bytes, part: Path) -> None:
    """One line that names the bundle, whatever lies in the file."""
    (part / MANIFEST).write_bytes(content)

    with pytest.raises(BundleError, match=r"part\.mapl: manifest\.json .*; export") as caught:
        open_bundle(part)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"contract": {"size_hw": [100, 100]}}, "contract.size_hw", id="wrong-size"),
        pytest.param({"memory": {}}, "memory.samples", id="missing-key"),
        pytest.param({"extra": 1}, "extra", id="unknown-key"),
        pytest.param({"files": ["model.onnx"]}, "files", id="files-are-a-list"),
    ],
)
def test_wrong_value_in_the_manifest_is_named(changes: dict[str, Any], named: str, part: Path) -> None:
    """Whoever made the bundle finds the key."""
    edit_manifest(part, **changes)

    with pytest.raises(BundleError, match=rf"manifest\.json is wrong at {named}: .*; export again"):
        open_bundle(part)


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_bundle_without_its_core_is_refused(name: str, part: Path) -> None:
    """A manifest that fits its folder is not yet a bundle: without graph or golden answers nothing can run."""
    (part / name).unlink()
    write_manifest(part, **fields())

    with pytest.raises(BundleError, match=name):
        open_bundle(part)


def test_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    """The message says what was found and how a bundle is made."""
    with pytest.raises(
        BundleError, match=r"no manifest\.json in it, expected a bundle; make one with mapl-edge export"
    ):
        open_bundle(tmp_path)


def test_file_is_no_bundle(tmp_path: Path) -> None:
    """`mapl-edge run model.onnx` is a natural mistake."""
    (tmp_path / "model.onnx").write_bytes(b"")

    with pytest.raises(BundleError, match=r"model\.onnx: is a file, expected a bundle"):
        open_bundle(tmp_path / "model.onnx")


def test_missing_folder_is_no_bundle(tmp_path: Path) -> None:
    """And a typing error is told as one."""
    with pytest.raises(BundleError, match=r"part\.mapl: no such folder, expected a bundle"):
        open_bundle(tmp_path / "part.mapl")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO], ids=errno.errorcode.get)
def test_file_that_cannot_be_read_is_told(code: int, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's user may lack permission, the card may be worn: one line, no traceback."""

    def refuse(path: Path) -> str:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr("mapl_edge.bundle.sha256_of", refuse)

    with pytest.raises(BundleError, match=rf"part\.mapl.*{os.strerror(code)}"):
        open_bundle(part)


def test_uncalibrated_bundle_opens_but_has_no_limits(part: Path) -> None:
    """It can be measured and calibrated, not run; the message is the command to type."""
    bundle = open_bundle(part)

    with pytest.raises(Uncalibrated, match=rf"no thresholds yet .*; run: mapl-edge calibrate {part} --good "):
        _ = bundle.calibration


def test_calibration_does_not_change_the_bundle(part: Path) -> None:
    """It is the one mutable file: with it, the bundle opens and keeps its digest."""
    digest = open_bundle(part).digest
    write_calibration(calibration_for(digest), part / "calibration.yaml")

    bundle = open_bundle(part)

    assert bundle.digest == digest
    assert bundle.calibration == calibration_for(digest)
    assert bundle.calibration_digest == sha256_of(part / "calibration.yaml")


def test_calibration_of_another_bundle_is_refused(part: Path) -> None:
    """Scores of two models have different scales; a borrowed limit passes or fails everything."""
    write_calibration(calibration_for("f" * 64), part / "calibration.yaml")
    bundle = open_bundle(part)

    with pytest.raises(
        ContractMismatch,
        match=f"made for bundle ffffffffffff, this one is {bundle.digest[:12]}; run: mapl-edge calibrate",
    ):
        _ = bundle.calibration


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def put_golden(part: Path, **arrays: Any) -> None:
    """Replace the golden answers and sign the bundle again, as an attacker would."""
    np.savez(part / GOLDEN, **arrays)
    write_manifest(part, **fields())


def test_pickled_golden_is_refused_and_not_run(part: Path, tmp_path: Path) -> None:
    """A bundle comes by mail: nothing in it may run code."""
    trap = Trap(tmp_path / "sprung")
    pickled = np.empty(1, object)
    pickled[0] = trap
    put_golden(part, pictures=pickled, scores=np.zeros(1, np.float32), maps=np.zeros((1, 96, 64), np.float32))
    bundle = open_bundle(part)

    with pytest.raises(BundleError, match=GOLDEN):
        bundle.golden()
    assert not trap.folder.exists()


def test_golden_that_is_a_pickle_is_refused_and_not_run(part: Path, tmp_path: Path) -> None:
    """np.load falls back to pickle for a file that is no archive."""
    trap = Trap(tmp_path / "sprung")
    put_golden(part)
    (part / GOLDEN).write_bytes(pickle.dumps(trap))
    write_manifest(part, **fields())
    bundle = open_bundle(part)

    with pytest.raises(BundleError, match=GOLDEN):
        bundle.golden()
    assert not trap.folder.exists()


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param({"pictures": np.zeros((1, 96, 64, 3), np.uint8)}, id="arrays-missing"),
        pytest.param(
            {
                "pictures": np.zeros((1, 96, 64, 3), np.uint8),
                "scores": np.zeros(2, np.float32),
                "maps": np.zeros((1, 96, 64), np.float32),
            },
            id="counts-differ",
        ),
        pytest.param(
            {
                "pictures": np.zeros((1, 32, 32, 3), np.uint8),
                "scores": np.zeros(1, np.float32),
                "maps": np.zeros((1, 32, 32), np.float32),
            },
            id="another-size-than-the-contract",
        ),
    ],
)
def test_golden_of_another_shape_is_refused(arrays: dict[str, np.ndarray], part: Path) -> None:
    """An archive with the right digest can still be the wrong archive."""
    put_golden(part, **arrays)
    bundle = open_bundle(part)

    with pytest.raises(BundleError, match=GOLDEN):
        bundle.golden()


def test_digests_that_are_known_are_not_computed_again(part: Path) -> None:
    """They were checked when the bundle was opened; one that is wrong is noticed when it is opened next."""
    right = {name: sha256_of(part / name) for name in GRAPHS}
    made = write_manifest(part, right, **fields())
    assert open_bundle(part) == made

    write_manifest(part, right | {GRAPHS[0]: "f" * 64}, **fields())
    with pytest.raises(BundleError, match="was changed"):
        open_bundle(part)
