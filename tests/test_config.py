"""YAML in, frozen values out; all mistakes told together, each with its path and what to do."""

import ast
import re
import traceback
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import mapl_edge
from mapl_edge.config import (
    CameraConfig,
    PresenceConfig,
    StationConfig,
    TrainConfig,
    config_from_dict,
    config_from_yaml,
)
from mapl_edge.contract import InputContract
from mapl_edge.errors import ConfigError

# What the code calls a value of each model where it reads a key from it.
HOLDERS: dict[type[BaseModel], set[str]] = {
    StationConfig: {"station", "_station"},
    CameraConfig: {"camera", "_camera", "limits", "_limits"},
    TrainConfig: {"config", "_config"},
}


def one_of(key: str) -> st.SearchStrategy[Any]:
    """Any value that the training key may have."""
    return st.sampled_from(get_args(TrainConfig.model_fields[key].annotation))


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
paths = st.none() | words.map(Path)
weights = st.floats(0, 1e6)
contracts = st.builds(
    InputContract,
    size_hw=st.tuples(*[st.integers(1, 128).map(lambda n: 32 * n)] * 2),
    roi_xywh=st.none() | st.tuples(*[st.integers(0, 9999)] * 2, *[st.integers(16, 9999)] * 2),
)
stations = st.builds(
    StationConfig,
    bundle=paths,
    camera=st.builds(CameraConfig, name=words, source=words),
    out=paths,
    threads=st.integers(0, 64),
)
trainings = st.builds(
    TrainConfig,
    contract=contracts,
    seed=st.integers(0, 2**31 - 1),
    fit_aspect=st.booleans(),
    steps=st.integers(1, 10**6),
    patience=st.integers(1, 100),
    validate_every=st.integers(1, 1000),
    batch_size=st.integers(2, 256),
    crop=st.none() | st.integers(2, 32).map(lambda n: 32 * n),
    learning_rate=st.floats(1e-12, 10),
    l1_weight=weights,
    focal_weight=weights,
    focal_gamma=weights,
    encoder=one_of("encoder"),
    weights=paths,
    memory=one_of("memory"),
    memory_samples=st.integers(1, 1000),
    memory_patches=st.integers(1, 10**6),
    reduction=one_of("reduction"),
    position_weight=st.none() | weights,
    moved_px=st.none() | st.floats(0, 64),
    refresh_every=st.integers(1, 1000),
    fusion=one_of("fusion"),
    spatial_attention=one_of("spatial_attention"),
    coordinate_attention=st.booleans(),
    decoder_stride=one_of("decoder_stride"),
    distance=st.booleans(),
    pseudo_labeler=st.booleans(),
    classifiers=st.integers(1, 10),
    simulation=one_of("simulation"),
    textures=paths,
    interference=st.booleans(),
)


def mistakes_in(text: str, model: type[BaseModel], folder: Path) -> tuple[str, ...]:
    """What is wrong with a file of this text."""
    path = folder / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config_from_yaml(path, model)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return caught.value.mistakes


@given(original=stations | trainings)
@settings(max_examples=100, deadline=None)
def test_yaml_carries_every_setting(original: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a run wrote down about itself starts the same run again."""
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_text(yaml.safe_dump(original.model_dump(mode="json")))

    assert config_from_yaml(path, type(original)) == original


@pytest.mark.parametrize("model", [StationConfig, TrainConfig])
@pytest.mark.parametrize("text", ["", "# nothing chosen yet\n", "{}", "---\n"], ids=repr)
def test_empty_file_is_the_defaults(model: type[BaseModel], text: str, tmp_path: Path) -> None:
    """A user may begin with an empty file."""
    path = tmp_path / "settings.yaml"
    path.write_text(text)

    assert config_from_yaml(path, model) == model()


def test_paper_settings_are_those_of_table_2() -> None:
    """What the paper says (MAPL, Table 2 and §2): steps, batch, rate, N, loss weights, γ, K, size."""
    config = TrainConfig.paper_settings()

    assert (config.steps, config.batch_size, config.learning_rate) == (500, 8, 0.003)
    assert (config.memory_samples, config.l1_weight, config.focal_weight, config.focal_gamma) == (30, 0.6, 0.4, 4.0)
    assert (config.contract.size_hw, config.fit_aspect, config.crop) == ((256, 256), False, None)
    assert (config.memory, config.fusion, config.spatial_attention) == ("image", "full", "multiply")
    assert (config.decoder_stride, config.coordinate_attention) == (1, False)
    assert (config.pseudo_labeler, config.classifiers, config.simulation) == (True, 2, "paper")
    assert not config.distance
    assert not config.interference


def test_defaults_are_those_of_table_2_but_for_what_is_ours() -> None:
    """A key that differs from the paper is named here and explained in docs/model.md."""
    ours, papers = TrainConfig(), TrainConfig.paper_settings()

    assert {key for key in TrainConfig.model_fields if getattr(ours, key) != getattr(papers, key)} == {
        "fit_aspect", "steps", "crop", "memory", "fusion", "spatial_attention", "decoder_stride", "distance",
        "simulation", "interference", "moved_px",
    }  # fmt: skip


def test_paper_settings_may_be_changed_and_are_checked() -> None:
    """With the paper's own encoder, say; a wrong value is still wrong."""
    assert TrainConfig.paper_settings(encoder="vaegan", steps=7).model_dump() == (
        TrainConfig.paper_settings().model_dump() | {"encoder": "vaegan", "steps": 7}
    )
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        TrainConfig.paper_settings(steps=0)


def test_defaults_of_the_station() -> None:
    """Without station.yaml the first camera is used and the bundle is looked for."""
    station = StationConfig()

    assert (station.bundle, station.out, station.threads) == (None, None, 0)
    assert (station.camera.name, station.camera.source) == ("camera-0", "0")


def test_settings_cannot_be_changed() -> None:
    """What was checked stays as it was checked."""
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().steps = 1


@pytest.mark.parametrize(
    ("model", "text", "mistake"),
    [
        pytest.param(TrainConfig, "sede: 1", "sede: unknown key, did you mean 'seed'?", id="misspelt"),
        pytest.param(StationConfig, "thread: 2", "thread: unknown key, did you mean 'threads'?", id="cut-short"),
        pytest.param(
            TrainConfig,
            "contract: {size_wh: [64, 64]}",
            "contract.size_wh: unknown key, did you mean 'size_hw'?",
            id="nested",
        ),
        pytest.param(
            StationConfig,
            "camera: {url: x}",
            f"camera.url: unknown key, known keys: {', '.join(CameraConfig.model_fields)}",
            id="nested-and-new",
        ),
        pytest.param(
            StationConfig, "x: 2", f"x: unknown key, known keys: {', '.join(StationConfig.model_fields)}", id="new"
        ),
    ],
)
def test_unknown_key_gets_a_hint(model: type[BaseModel], text: str, mistake: str, tmp_path: Path) -> None:
    """A misspelt key that is ignored would cost a day; the hint costs nothing."""
    assert mistakes_in(text, model, tmp_path) == (mistake,)


@pytest.mark.parametrize("value", [".inf", ".nan", "1e300", "0"])
def test_a_budget_is_a_time(value: str, tmp_path: Path) -> None:
    """Without a deadline there is none; `run` counts how many cameras fit into it."""
    (mistake,) = mistakes_in(f"budget_ms: {value}", StationConfig, tmp_path)

    assert mistake.startswith("budget_ms: ")


def test_an_empty_store_is_not_the_folder_that_we_are_in(tmp_path: Path) -> None:
    """Somebody has taken the name out and left the key."""
    assert mistakes_in("store: ''", StationConfig, tmp_path) == (
        "store: expected a folder, or no `store:` at all, found ''",
    )


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Nobody wants to mend a file one error at a time."""
    text = "steps: 0\nsede: 1\nbatch_size: many\ndecoder_stride: 2\ncontract: {size_hw: [100, 64], roi: 1}\n"

    mistakes = mistakes_in(text, TrainConfig, tmp_path)

    assert {mistake.split(":")[0] for mistake in mistakes} == {
        "steps",
        "sede",
        "batch_size",
        "decoder_stride",
        "contract.size_hw",
        "contract.roi",
    }


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        (
            "camera: {name: x}\ncameras: [{name: a}, {name: a}, {name: b}, {name: b}]\nthreads: -1\nsead: 1",
            ["threads: ", "sead: ", "there is camera: and", "cameras: the name 'a'", "cameras: the name 'b'"],
        ),
        (
            "cameras: [{name: a, fps: 0}, {name: a, trigger: {queue: 0}}]",
            [
                "cameras.0.fps: ",
                "cameras.1.trigger.queue: ",
                "cameras.1.trigger: found neither",
                "cameras: the name 'a'",
            ],
        ),
        (
            "cameras: [7, {fps: 1}, {}, {name: [a]}]",
            ["cameras.0: ", "cameras.3.name: ", "cameras: the name 'camera-0'"],
        ),
        (
            "camera: {trigger: {socket: x, presence: true, queue: 0}}",
            ["camera.trigger.queue: ", "camera.trigger: found b"],
        ),
        ("budget_ms: 1\nbudget_ms: 2\nthreads: -1", ["budget_ms: is there in line 1 and in line 2", "threads: "]),
        (
            "camera: {fps: 1}\ncameras:\n- name: a\n- name: b\n  fps: 1\n\n  fps: 0\ncamera: {}",
            [
                "cameras.1.fps: is there in line 5 and in line 7",
                "camera: is there in line 1 and in line 8",
                "cameras.1.fps: input should be greater than 0",
                "there is camera: and cameras:",
            ],
        ),
        (
            "threads: &a 1\nthreads: *a\nthreads: 3",
            ["threads: is there in line 1 and in line 2", "threads: is there in line 1 and in line 3"],
        ),
        (
            "a: &a {b: 1, b: 2}\nx: [*a, *a]",
            ["a.b: is there in line 1 and in line 1", "a: unknown key", "x: unknown key"],
        ),
        ("rtsp://me:geheim@h: 1\nrtsp://me:geheim@h: 2", ["***: is there in line 1 and in line 2", "***: unknown key"]),
    ],
    ids=["station", "cameras", "odd-cameras", "trigger", "key-twice", "keys-twice", "thrice", "alias", "no-secrets"],
)
def test_what_is_wrong_between_keys_is_told_beside_what_is_wrong_in_them(
    text: str, starts: list[str], tmp_path: Path
) -> None:
    """The later of two equal keys would win in silence."""
    mistakes = mistakes_in(text, StationConfig, tmp_path)

    assert len(mistakes) == len(starts), mistakes
    assert all(mistake.startswith(start) for mistake, start in zip(mistakes, starts, strict=True)), mistakes


def test_all_polygons_that_are_wrong_are_told(tmp_path: Path) -> None:
    """A drawing may have many."""
    (mistake,) = mistakes_in("camera: {inspect: [[[0, 0]], [[0, 0], [9, 0], [0, 9]], x]}", StationConfig, tmp_path)

    assert "polygon 0 has 1 points, expected 3 to 1000; polygon 2 expected a list of points [x, y], found" in mistake


def test_a_merged_section_may_be_overridden(tmp_path: Path) -> None:
    """YAML's own way of saying something once: `<<` is no second key."""
    path = tmp_path / "station.yaml"
    path.write_text("cameras:\n- &a {name: a, fps: 1, open_timeout_s: 3}\n- {<<: *a, name: b, fps: 2}\n")

    first, second = config_from_yaml(path, StationConfig).cameras

    assert (first.fps, second.name, second.fps, second.open_timeout_s) == (1, "b", 2, 3)


WRONG_VALUES = {
    "steps: 0": ["steps", "greater than or equal to 1", "0"],
    "batch_size: many": ["batch_size", "integer", "'many'"],
    "seed: -1": ["seed", "greater than or equal to 0", "-1"],
    "decoder_stride: 2": ["decoder_stride", "1 or 4", "2"],
    "contract: {size_hw: [100, 64]}": ["contract.size_hw", "multiples of 32", "100x64"],
    "contract: {roi_xywh: [-1, 0, 64, 64]}": ["contract.roi_xywh.0", "greater than or equal to 0", "-1"],
    "crop: 100": ["crop", "multiple of 32", "100"],
    "crop: 32": ["crop", "greater than or equal to 64", "32"],
    "memory: both": ["memory", "'auto', 'image' or 'patch'", "'both'"],
    "encoder: lite0": ["encoder", "'efficientnet_lite0'", "'vaegan'", "'lite0'"],
    "fusion: fast": ["fusion", "'slim', 'full' or 'none'", "'fast'"],
    "position_weight: -0.1": ["position_weight", "greater than or equal to 0", "-0.1"],
    "moved_px: 65": ["moved_px", "less than or equal to 64", "65"],
    "position_weight: .nan": ["position_weight", "nan"],
    "patience: 0": ["patience", "greater than or equal to 1", "0"],
    "distance: maybe": ["distance", "boolean", "'maybe'"],
    "weights: 3": ["weights", "expected a path", "3"],
    "learning_rate: .inf": ["learning_rate", "finite", "inf"],
    "learning_rate: .nan": ["learning_rate", "nan"],
    "l1_weight: .inf": ["l1_weight", "finite", "inf"],
    "l1_weight: .nan": ["l1_weight", "nan"],
    "focal_weight: .inf": ["focal_weight", "finite", "inf"],
    "focal_gamma: .inf": ["focal_gamma", "finite", "inf"],
}


@pytest.mark.parametrize("text", WRONG_VALUES)
def test_wrong_value_is_told_with_path_and_value(text: str, tmp_path: Path) -> None:
    """What was found, what was expected."""
    (mistake,) = mistakes_in(text, TrainConfig, tmp_path)

    where, *parts = WRONG_VALUES[text]
    assert mistake.startswith(f"{where}: ")
    assert all(part in mistake for part in parts)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"steps: [1", id="open-bracket"),
        pytest.param(b"a: b: c", id="two-colons"),
        pytest.param(b"\xff\xfe\x00\x01", id="not-text"),
        pytest.param(b"\0", id="zero-byte"),
        pytest.param(b"textures: 2026-13-45", id="date-that-does-not-exist"),
        pytest.param(b"[" * 5000, id="nested-without-end"),
        pytest.param(b"!!python/object/apply:os.getcwd []", id="code"),
    ],
)
def test_file_that_is_not_yaml_is_refused(content: bytes, tmp_path: Path) -> None:
    """One line, whatever lies in the file; and nothing in it is run."""
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"settings\.yaml: is not YAML: ") as caught:
        config_from_yaml(path, TrainConfig)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("camera:\n  source: rtsp://me:geheim@cam/1: x", r"are not allowed here \(line 2, column 33\)$"),
        (
            "camera:\n  source: 'rtsp://me:geheim@cam/1",
            r"column 11\), found unexpected end of stream \(line 2",
        ),
        ('camera:\n  source: "rtsp://me:ge\\heim@cam/1"', r"unknown escape character 'h' \(line 2, column 25\)"),
        ("camera:\n  source: @rtsp://me:geheim@cam/1", r"'@' that cannot start any token \(line 2, column 11\)"),
        ("source: *geheim", r"undefined alias '\*\*\*' \(line 1, column 9\)"),
        ("source: !geheim'x 1", r"for the tag '\*\*\*' \(line 1, column 9\)"),
        ("threads: !!int geheim", r"put it in quotes if it is text \(line 1, column 10\)"),
        ("reload: !!bool geheim", r"put it in quotes if it is text \(line 1, column 9\)"),
        (
            "camera: {source: 'rtsp://me:geheim@cam/1', 'source rtsp://me:geheim@cam/1': x}",
            r"camera\.\*\*\*: unknown key",
        ),
        ("camera: {source=rtsp://me:geheim@cam/1}", r"camera\.\*\*\*: unknown key"),
        ("camera: {source: rtsp://me:ge,heim@cam/1}", r"camera\.\*\*\*: unknown key"),
        ('camera: {source: ["rtsp://me:ge heim@cam/1"]}', r"camera\.source: .*\*\*\*@cam/1"),
        ('camera: "me:ge heim@cam/1"', r"camera: .*\*\*\*@cam/1"),
    ],
)
def test_no_mistake_quotes_the_cameras_password(text: str, says: str, tmp_path: Path) -> None:
    """What is wrong and where; the line itself may hold an address. The cause behind the error is no better place."""
    path = tmp_path / "station.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=says) as told:
        config_from_yaml(path, StationConfig)

    assert "heim" not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "42"], ids=repr)
def test_document_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    """A list has no keys; the message says what stands there instead."""
    (mistake,) = mistakes_in(text, StationConfig, tmp_path)

    assert mistake.startswith("the document: ")
    assert "dictionary" in mistake


@pytest.mark.parametrize("name", ["missing.yaml", "."], ids=["missing", "folder"])
def test_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    """A wrong --config is the first mistake anybody makes."""
    with pytest.raises(ConfigError, match=r"cannot be read \(.*\); check the path"):
        config_from_yaml(tmp_path / name, StationConfig)


def test_camera_number_needs_no_quotes(tmp_path: Path) -> None:
    """`source: 0` is the first thing that anybody writes, and YAML reads a number there."""
    path = tmp_path / "station.yaml"
    path.write_text("camera: {source: 0}\n")

    assert config_from_yaml(path, StationConfig).camera.source == "0"


def test_mistakes_in_a_dict_name_where_it_came_from() -> None:
    """Flags are checked by the same rules as files."""
    with pytest.raises(ConfigError, match=r"^train: steps: "):
        config_from_dict({"steps": 0}, TrainConfig, where="train")


def keys_read() -> dict[type[BaseModel], set[str]]:
    """The attributes that the source reads from what it calls station, camera or config, outside config.py."""
    read: dict[type[BaseModel], set[str]] = {model: set() for model in HOLDERS}
    package = Path(mapl_edge.__file__).parent
    rooms = [package, *(room.resolve() for room in package.iterdir() if room.is_symlink())]
    for path in {path for room in rooms for path in room.rglob("*.py") if path.name != "config.py"}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                holder = node.value
                name = holder.attr if isinstance(holder, ast.Attribute) else getattr(holder, "id", "")
                for model, names in HOLDERS.items():
                    if name in names:
                        read[model].add(node.attr)
    return read


@pytest.mark.parametrize("model", HOLDERS, ids=lambda model: model.__name__)
def test_every_key_is_read_by_code(model: type[BaseModel]) -> None:
    """A key that nobody reads is a promise that nobody keeps."""
    unread = set(model.model_fields) - keys_read()[model]

    assert not unread, f"no code reads {sorted(unread)} from a variable called {sorted(HOLDERS[model])}"


@pytest.mark.parametrize(
    ("cameras", "says"),
    [
        ("camera: {name: a}\ncameras: [{name: b}]", "camera: and cameras:, expected one of them"),
        ("cameras: [{name: a}, {name: a}]", "the name 'a' is there twice"),
        ("cameras: [{name: a, sorce: '0'}]", "cameras.0.sorce: unknown key, did you mean 'source'?"),
        ("cameras: [{name: a, source: 'rtsp://me:hush@host/1'}, {name: a}]", "twice"),
    ],
    ids=["both", "twice", "typo", "no-secrets"],
)
def test_mistakes_among_several_cameras_are_told(tmp_path: Path, cameras: str, says: str) -> None:
    """Before anything is opened."""
    path = tmp_path / "station.yaml"
    path.write_text(cameras)

    with pytest.raises(ConfigError, match=re.escape(says)) as told:
        config_from_yaml(path, StationConfig)

    assert "hush" not in str(told.value)


@pytest.mark.parametrize(
    ("trigger", "says"),
    [
        ("{queue: 3}", "found neither of socket: and presence:, expected one of them"),
        ("{socket: a.sock, presence: true}", "found both of socket: and presence:, expected one of them"),
        ("{presence: {axes: y}}", "did you mean 'axis'?"),
        ("{presence: {roi: [0, 0, 0, 10]}}", "greater than 0"),
    ],
    ids=["neither", "both", "key", "roi"],
)
def test_a_camera_has_one_trigger(tmp_path: Path, trigger: str, says: str) -> None:
    """A camera that nothing triggers, or two things, is a mistake."""
    path = tmp_path / "station.yaml"
    path.write_text(f"camera: {{trigger: {trigger}}}")

    with pytest.raises(ConfigError, match=re.escape(says)):
        config_from_yaml(path, StationConfig)


def test_presence_may_be_switched_on_bare(tmp_path: Path) -> None:
    """Its defaults suit a part that fills a tenth of the picture or more."""
    path = tmp_path / "station.yaml"
    path.write_text("camera: {trigger: {presence: true}}")

    trigger = config_from_yaml(path, StationConfig).camera.trigger

    assert trigger is not None
    assert trigger.presence == PresenceConfig()
    assert trigger.socket is None


def test_the_example_station_is_right() -> None:
    """Whoever copies deploy/station.yaml, or takes the # from its lines, has a station that starts."""
    path = Path(__file__).parents[1] / "deploy" / "station.yaml"
    offered = re.findall(r"^# (\w+:.*|  - .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)

    plain = config_from_yaml(path, StationConfig)
    full = config_from_dict(yaml.safe_load("\n".join(offered)), StationConfig)

    assert plain.camera.name == "line-1"
    assert [camera.name for camera in full.cameras] == ["line-1", "line-2"]
    assert full.cameras[1].trigger is not None
    assert full.store.folder == Path("/var/lib/mapl-edge/store")
    assert full.budget_ms == 100
