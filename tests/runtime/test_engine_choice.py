"""Engine choice: nothing inspects that has not proved itself here, and what was proved is not proved again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mapl_edge.bundle import ENGINES, Bundle, open_bundle, write_manifest
from mapl_edge.engine_record import plain_engine, write_record
from mapl_edge.errors import BackendError, ParityError
from mapl_edge.files import sha256_of
from mapl_edge.runtime import choose_engine, engine_choice, standby_engines
from mapl_edge.runtime.engine_choice import record_choice

BROKEN = "onnxruntime-int8-fused"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where proofs are kept."""
    return tmp_path / "proofs"


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the engines that were proved, in order."""
    names: list[str] = []
    real = engine_choice.prove

    def prove(engine, files):  # type: ignore[no-untyped-def]
        names.append(files.record.name)
        return real(engine, files)

    monkeypatch.setattr(engine_choice, "prove", prove)
    return names


def add(bundle: Bundle, graph: onnx.ModelProto | None = None, tolerance: float = 0.05) -> None:
    """Put an engine into the bundle without asking what it answers, as a broken exporter would."""
    folder = bundle.path / ENGINES / BROKEN
    folder.mkdir(parents=True)
    if graph is None:
        shutil.copyfile(bundle.model_path, folder / "model.onnx")
    else:
        onnx.save(graph, folder / "model.onnx")
    plain = plain_engine(bundle).record
    files = {"model.onnx": sha256_of(folder / "model.onnx")}
    write_record(folder, plain.model_copy(update={"precision": "int8", "files": files, "tolerance": tolerance}))


def rewired(bundle: Bundle, fault: str) -> onnx.ModelProto:
    """The fused graph with one fault built in, as real exporters had them."""
    model = onnx.load(bundle.model_path)
    graph = model.graph
    if fault in ("colour order", "upside down"):
        axis = {"colour order": 3, "upside down": 1}[fault]
        for node in graph.node:
            node.input[:] = ["turned" if name == "image" else name for name in node.input]
        for name, value in (("begin", -1), ("end", -(1 << 31)), ("axes", axis), ("steps", -1)):
            graph.initializer.append(helper.make_tensor(f"turn_{name}", TensorProto.INT64, [1], [value]))
        inputs = ["image", "turn_begin", "turn_end", "turn_axes", "turn_steps"]
        graph.node.insert(0, helper.make_node("Slice", inputs, ["turned"]))
        return model
    for node in graph.node:
        node.output[:] = ["true_score" if name == "score" else name for name in node.output]
    least = 1e-3 * max(1.0, float(np.abs(bundle.golden().scores).max()))  # seen at any score, see Parity.score_error
    value = {"nan": float("nan"), "off": least}[fault]
    graph.initializer.append(helper.make_tensor("more", TensorProto.FLOAT, [], [value]))
    graph.node.append(helper.make_node("Add", ["true_score", "more"], ["score"]))
    return model


@pytest.mark.parametrize("fault", ["colour order", "upside down", "nan", "off"])
def test_an_engine_that_answers_otherwise_is_left_out_and_named(bundle: Bundle, cache: Path, fault: str) -> None:
    """The line goes on with the next one, and somebody is told."""
    add(bundle, rewired(bundle, fault), tolerance=1e-4)
    told: list[str] = []

    engine, proof = choose_engine(bundle, threads=1, cache=cache, tell=told.append)

    with engine:
        assert proof.engine == "onnxruntime-fp32-fused"
    assert len(told) == 1
    assert BROKEN in told[0]
    assert "tolerance 1e-04" in told[0]


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [("openvino-int8-fused", "--engine openvino$"), ("opnvino", "--engine onnxruntime or openvino or tensorrt or ")],
)
def test_an_engine_that_is_not_there_can_be_added(bundle: Bundle, cache: Path, wanted: str, hint: str) -> None:
    """By a library's name that export takes."""
    with pytest.raises(BackendError, match=rf"no engine '{wanted}', found onnxruntime-fp32-fused.*{hint}"):
        choose_engine(bundle, wanted, cache=cache)


def test_if_none_proves_itself_nothing_runs(bundle: Bundle, cache: Path) -> None:
    """With each one's reason."""
    add(bundle, rewired(bundle, "nan"))

    with pytest.raises(ParityError, match=rf"no engine proved itself.*{BROKEN}.*must not be used"):
        choose_engine(bundle, BROKEN, cache=cache)


def test_another_way_to_resize_is_noticed(bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden pictures are prepared already; the pattern is not."""
    import cv2

    real = cv2.resize
    monkeypatch.setattr(
        "mapl_edge.prepare.cv2.resize",
        lambda image, size, *out, interpolation: real(image, size, *out, interpolation=cv2.INTER_NEAREST),
    )

    with pytest.raises(ParityError, match="prepared otherwise here"):
        choose_engine(bundle, cache=cache)


def test_the_second_start_proves_nothing_again(bundle: Bundle, cache: Path, proved: list[str]) -> None:
    """A station must be back in a second."""
    for _ in range(2):
        choose_engine(bundle, threads=1, cache=cache)[0].close()

    assert proved == ["onnxruntime-fp32-fused"]


@pytest.mark.parametrize("change", ["threads", "bundle", "device", "library"])
def test_what_changed_is_proved_anew(
    bundle: Bundle, cache: Path, proved: list[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver update or a copied cache proves nothing."""
    choose_engine(bundle, threads=1, cache=cache)[0].close()
    if change == "bundle":
        fields = bundle.manifest.model_dump(exclude={"files", "created_at"})
        write_manifest(bundle.path, **fields, created_at="2027-01-01T00:00:00.000Z")
        bundle = open_bundle(bundle.path)
    if change == "device":
        monkeypatch.setattr(engine_choice, "device", lambda: "another")
    if change == "library":
        monkeypatch.setattr(engine_choice, "version", lambda package: "0.0")
    choose_engine(bundle, threads=2 if change == "threads" else 1, cache=cache)[0].close()

    assert proved == ["onnxruntime-fp32-fused"] * 2


@pytest.mark.parametrize("content", ["", "{", '{"engine": 1}'])
def test_a_damaged_cache_is_as_good_as_none(bundle: Bundle, cache: Path, proved: list[str], content: str) -> None:
    """A power cut may do that."""
    choose_engine(bundle, threads=1, cache=cache)[0].close()
    for kept in cache.iterdir():
        kept.write_text(content)
    choose_engine(bundle, threads=1, cache=cache)[0].close()

    assert len(proved) == 2


def test_a_failed_proof_is_not_kept(bundle: Bundle, cache: Path, proved: list[str]) -> None:
    """It may have been the moment; it is tried again at the next start."""
    add(bundle, rewired(bundle, "nan"))
    for _ in range(2):
        choose_engine(bundle, threads=1, cache=cache)[0].close()

    assert proved.count(BROKEN) == 2


def test_auto_takes_what_a_benchmark_found_fastest_here(bundle: Bundle, cache: Path, proved: list[str]) -> None:
    """Without proving all others first; and it can be forced otherwise."""
    add(bundle)
    record_choice(bundle, BROKEN)

    engine, proof = choose_engine(bundle, threads=1, cache=cache)
    engine.close()
    other, forced = choose_engine(bundle, "onnxruntime-fp32-fused", threads=1, cache=cache)
    other.close()

    assert (proof.engine, forced.engine) == (BROKEN, "onnxruntime-fp32-fused")
    assert proved == [BROKEN, "onnxruntime-fp32-fused"]


def test_auto_keeps_to_the_precision_of_the_limits(bundle: Bundle, cache: Path) -> None:
    """int8 gives other scores than those that the limits were set with."""
    add(bundle)
    record_choice(bundle, BROKEN)

    engine, proof = choose_engine(bundle, threads=1, cache=cache, precisions=("fp32", "fp16"))
    engine.close()

    assert proof.engine == "onnxruntime-fp32-fused"


def test_a_choice_of_another_device_is_not_taken(bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles are copied."""
    record_choice(bundle, "onnxruntime-fp32-fused")
    monkeypatch.setattr(engine_choice, "device", lambda: "another")

    assert engine_choice.recorded_choice(bundle) is None
    assert len(json.loads((bundle.path / ENGINES / engine_choice.CHOICE).read_text())) == 1


def test_an_engine_that_the_bundle_has_not_says_how_to_add_it(bundle: Bundle, cache: Path) -> None:
    """With the command."""
    with pytest.raises(BackendError, match="--engine openvino"):
        choose_engine(bundle, "openvino-int8-fused", cache=cache)


def test_a_missing_library_names_its_extra(bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the line that installs it."""
    monkeypatch.setattr(engine_choice, "find_spec", lambda module: None)

    with pytest.raises(ParityError, match="pip install onnxruntime"):
        choose_engine(bundle, cache=cache)


def test_an_unwritable_cache_is_no_reason_to_stop(bundle: Bundle, tmp_path: Path) -> None:
    """Stations with a read-only system prove at each start."""
    (tmp_path / "file").write_text("")

    choose_engine(bundle, threads=1, cache=tmp_path / "file" / "proofs")[0].close()


def test_standby_gives_the_chosen_engine_first_and_then_another_of_its_kind(bundle: Bundle, cache: Path) -> None:
    """A `DeadlineInspector` closes what it opened, so the second is new."""
    engine, proof = choose_engine(bundle, threads=1, cache=cache)

    (open_first,) = standby_engines(bundle, engine, proof.engine, threads=1, cache=cache)
    first, second = open_first(), open_first()
    with first, second:
        assert first is engine
        assert second is not engine
        assert second.name == engine.name


def test_standby_engines_must_prove_themselves_too(bundle: Bundle, cache: Path, proved: list[str]) -> None:
    """Trouble with one engine is no reason to trust another."""
    engine, proof = choose_engine(bundle, threads=1, cache=cache)
    add(bundle, rewired(bundle, "nan"))

    with engine:
        _, open_next = standby_engines(bundle, engine, proof.engine, threads=1, cache=cache)
        assert proved == ["onnxruntime-fp32-fused"]  # nothing is proved before it is needed
        with pytest.raises(ParityError):
            open_next()


def test_a_named_engine_has_no_other_on_standby(bundle: Bundle, cache: Path) -> None:
    """Who names one wants that one."""
    add(bundle)
    engine, proof = choose_engine(bundle, "onnxruntime-fp32-fused", threads=1, cache=cache)

    with engine:
        assert len(standby_engines(bundle, engine, proof.engine, "onnxruntime-fp32-fused", cache=cache)) == 1
        assert len(standby_engines(bundle, engine, proof.engine, cache=cache)) == 2


@pytest.mark.parametrize("wanted", ["auto", "onnxruntime"])
def test_no_engine_takes_over_that_the_limits_were_not_set_with(bundle: Bundle, cache: Path, wanted: str) -> None:
    """A limit of fp32 scores means nothing to int8 ones, least of all unattended."""
    add(bundle)
    engine, proof = choose_engine(bundle, "onnxruntime-fp32-fused", threads=1, cache=cache)

    with engine:
        assert len(standby_engines(bundle, engine, proof.engine, wanted, precisions=("fp32",), cache=cache)) == 1
