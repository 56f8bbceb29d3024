"""Engine records: what was made for a bundle stays with it, and any change shows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mapl_edge.bundle import ENGINES, Bundle, open_bundle
from mapl_edge.engine_record import (
    RECORD,
    TOLERANCE,
    EngineRecord,
    engine_files,
    engine_names,
    plain_engine,
    write_record,
)
from mapl_edge.errors import BundleError
from mapl_edge.files import sha256_of

NAME = "openvino-fp16-fused"


@pytest.fixture
def folder(bundle: Bundle) -> Path:
    """An engine's folder in a bundle: the fused graph, called openvino's."""
    folder = bundle.path / ENGINES / NAME
    folder.mkdir(parents=True)
    shutil.copyfile(bundle.model_path, folder / "model.onnx")
    write_record(folder, record_of(bundle, files={"model.onnx": sha256_of(folder / "model.onnx")}))
    return folder


def record_of(of: Bundle, **changes: object) -> EngineRecord:
    """The record of an engine called openvino in fp16."""
    plain = plain_engine(of).record
    return plain.model_copy(
        update={"backend": "openvino", "precision": "fp16", "tolerance": TOLERANCE["fp16"], **changes}
    )


def test_an_engine_does_not_change_the_bundle(bundle: Bundle, folder: Path) -> None:
    """It is made on the device, after the limits were set: digest and calibration stay."""
    assert open_bundle(bundle.path).digest == bundle.digest
    assert open_bundle(bundle.path).calibration == bundle.calibration


def test_an_engine_is_found_with_its_files(bundle: Bundle, folder: Path) -> None:
    """Its own graph where it has one, the bundle's where it has none."""
    files = engine_files(bundle, NAME)

    assert engine_names(bundle) == ["onnxruntime-fp32-fused", NAME]
    assert files.path("model") == folder / "model.onnx"
    assert files.path("encoder") == bundle.path / "encoder.onnx"
    assert plain_engine(bundle).path("model") == bundle.model_path


def cut_short(bundle: Bundle, folder: Path) -> None:
    """Half a graph."""
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])


def edited(bundle: Bundle, folder: Path) -> None:
    """A tolerance that suits."""
    content = json.loads((folder / RECORD).read_bytes())
    (folder / RECORD).write_text(json.dumps(content | {"tolerance": 1.0}))


def of_another_bundle(bundle: Bundle, folder: Path) -> None:
    """Copied from elsewhere."""
    files = {"model.onnx": sha256_of(folder / "model.onnx")}
    write_record(folder, record_of(bundle, files=files, bundle="0" * 64))


def with_a_stranger(bundle: Bundle, folder: Path) -> None:
    """A file more."""
    (folder / "more.bin").write_bytes(b"x")


def without_its_graph(bundle: Bundle, folder: Path) -> None:
    """A file less."""
    (folder / "model.onnx").unlink()


def renamed(bundle: Bundle, folder: Path) -> None:
    """The folder says int8, the record fp32."""
    write_record(folder, record_of(bundle, files={"model.onnx": sha256_of(folder / "model.onnx")}, precision="fp32"))


def newer(bundle: Bundle, folder: Path) -> None:
    """From the future."""
    files = {"model.onnx": sha256_of(folder / "model.onnx")}
    write_record(folder, record_of(bundle, files=files, schema_version=99))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (cut_short, "model.onnx was changed or cut short"),
        (edited, "engine.json was changed"),
        (of_another_bundle, "was made for bundle 000000000000"),
        (with_a_stranger, "more.bin is not in its record"),
        (without_its_graph, "model.onnx is missing"),
        (renamed, "holds the engine openvino-fp32-fused"),
        (newer, "schema 99 is newer"),
    ],
)
def test_a_changed_engine_is_refused_and_says_how_to_make_it_again(bundle: Bundle, folder: Path, change, says) -> None:  # type: ignore[no-untyped-def]
    """Nothing of it is opened before that."""
    change(bundle, folder)

    with pytest.raises(BundleError, match=says) as caught:
        engine_files(bundle, NAME)

    assert "export" in str(caught.value)


def test_an_unknown_engine_lists_the_known(bundle: Bundle) -> None:
    """A name is easily mistyped."""
    with pytest.raises(BundleError, match="found onnxruntime-fp32-fused"):
        engine_files(bundle, "openvino-int8-fused")
