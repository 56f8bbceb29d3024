"""Config: YAML in, frozen values out. All mistakes are told together, each with its path and a hint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from mapl_edge.contract import InputContract
from mapl_edge.errors import ConfigError
from mapl_edge.polygon import Polygon, polygon_from_list
from mapl_edge.redact import HIDDEN, redact
from mapl_edge.verdict import Action

STATION_FILE = Path("station.yaml")
MAX_BUDGET_MS = 86_400_000.0  # a day; no budget is no deadline
MAX_THREADS = 256  # an engine starts as many as it is told to, and takes the machine down with them
EncoderName = Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet18", "vaegan"]
ModelT = TypeVar("ModelT", bound=BaseModel)
SectionT = TypeVar("SectionT", bound="Section")


class Section(BaseModel):
    """A part of a configuration: frozen, unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def _between_keys(cls, content: Mapping[str, Any]) -> list[str]:
        """What is wrong between keys, each of which may be right or not."""
        return []

    @model_validator(mode="wrap")
    @classmethod
    def _all_told(cls, content: Any, handler: ModelWrapValidatorHandler[SectionT]) -> SectionT:
        """An "after" validator would have no say where a key is wrong."""
        between = cls._between_keys(content) if isinstance(content, Mapping) else []
        if not between:
            return handler(content)
        errors: list[InitErrorDetails] = []
        try:
            handler(content)
        except ValidationError as exc:
            for error in exc.errors():
                kind = PydanticCustomError(error["type"], "{says}", {"says": error["msg"]})
                errors.append(InitErrorDetails(type=kind, loc=error["loc"], input=error["input"]))
        for says in between:
            errors.append(InitErrorDetails(type="value_error", input=content, ctx={"error": ValueError(says)}))
        raise ValidationError.from_exception_data(cls.__name__, errors)


class HealthConfig(Section):
    """Which checks a camera picture must pass before the model sees it. A bare `off` switches all off."""

    size: bool = True
    frozen: bool = True
    light: bool = True
    sharpness: bool = True
    colour: bool = True
    shift: bool = True
    tolerance: float = Field(default=1.0, gt=0, le=10)
    """Widens (above 1) or narrows all bounds."""
    frozen_after: Annotated[int, Field(ge=2)] | None = None
    """A live camera's picture that comes so often is frozen; None: 5, and 150 by RTSP, whose encoder repeats itself."""

    @model_validator(mode="before")
    @classmethod
    def _all_or_none(cls, content: Any) -> Any:
        if not isinstance(content, bool):
            return content
        return dict.fromkeys(("size", "frozen", "light", "sharpness", "colour", "shift"), content)


class PresenceConfig(Section):
    """How parts on a belt are seen; see `mapl_edge.runtime.presence`. Lengths are shares of the ROI along the belt."""

    roi: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], PositiveInt, PositiveInt] | None = None
    """x, y, width, height in camera pixels; None: the model's, or the whole picture."""
    axis: Literal["x", "y"] = "x"
    """Along which parts move in the picture."""
    background: Path | None = None
    """Picture of the empty belt, of the camera's size; None: learned from the first 30 frames."""
    contrast: float = Field(default=12.0, gt=0, le=255)
    """Grey levels by which a part differs from the belt, in any channel."""
    smallest: float = Field(default=0.1, gt=0, le=1)
    """Length of the shortest part."""
    gap: float = Field(default=0.05, ge=0, lt=1)
    """What is nearer to each other belongs to one part."""


class TriggerConfig(Section):
    """What says that a part is there: other software, or the camera's own picture."""

    socket: Path | None = None
    """Unix socket that `run` makes; see `mapl_edge.runtime.trigger_socket`."""
    presence: PresenceConfig | None = None
    """A part on the belt. `presence: true` takes the defaults."""
    queue: int = Field(default=8, ge=1)
    """Triggers that may wait; one more is an ERROR verdict."""

    @model_validator(mode="before")
    @classmethod
    def _bare_presence(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("presence") is True:
            return {**content, "presence": {}}
        return content

    @classmethod
    def _between_keys(cls, content: Mapping[str, Any]) -> list[str]:
        given = [content.get(key) is not None for key in ("socket", "presence")]
        if sum(given) == 1:
            return []
        return [f"found {'both' if all(given) else 'neither'} of socket: and presence:, expected one of them"]


def _drawing(content: Any) -> Any:
    """The polygons of a mask, checked; or a file's name as it stands."""
    if content is None or isinstance(content, str | Path):
        return content
    if not isinstance(content, list | tuple) or not content:
        raise ValueError("expected polygons [[[x, y], ...], ...] or the name of a PNG file")
    polygons, mistakes = [], []
    for number, points in enumerate(content):
        try:
            polygons.append(polygon_from_list(points))
        except ValueError as exc:
            mistakes.append(f"polygon {number} {exc}")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return tuple(polygons)


Drawing = Annotated[tuple[Polygon, ...] | Path, BeforeValidator(_drawing)]


class CameraConfig(Section):
    """One camera. `source` is a URI: `0`, `rtsp://…`, `http://…`, `genicam:…`, a video, a folder, `line:`."""

    name: str = "camera-0"
    source: Annotated[str, Field(coerce_numbers_to_str=True, repr=False)] = "0"
    open_timeout_s: float = Field(default=5.0, gt=0, le=600)
    """How long opening and the first frame may take."""
    stale_after_s: float = Field(default=2.0, gt=0, le=600)
    """Without a new frame for so long, a live camera counts as stalled and is opened anew."""
    retry_at_most_s: float = Field(default=2.0, gt=0, le=600)
    """Longest wait between two attempts to open it anew."""
    fps: Annotated[float, Field(gt=0)] | None = None
    """Frames per second, to tell how many such cameras the engine carries; None: what the source says, if it does."""
    health: HealthConfig = HealthConfig()
    bundle: Path | None = None
    """None: the station's."""
    budget_ms: Annotated[float, Field(gt=0, le=MAX_BUDGET_MS)] | None = None
    """From capture to verdict; None: the station's."""
    trigger: TriggerConfig | None = None
    """None: every frame, or the newest ones of a live camera."""
    inspect: Drawing | None = None
    """Polygons in pixels of the camera picture, or a PNG of its size: only there a part can fail. None: everywhere."""
    ignore: Drawing | None = None
    """The same: there it cannot."""


class StoreConfig(Section):
    """Where verdicts and pictures are kept, and for how long. A bare path is its `folder`."""

    folder: Path | None = None
    """None: nothing is kept."""
    keep_days: float = Field(default=365, gt=0)
    keep_verdicts: int = Field(default=1_000_000, ge=1)
    keep_pictures_mb: float = Field(default=10_000, ge=0)
    """Disk for pictures and heat maps; the oldest go first."""
    pass_every: int = Field(default=100, ge=0)
    """One PASS in so many keeps its picture too; 0: none."""
    min_free_mb: float = Field(default=200, ge=0)
    """Disk that pictures leave free, for the verdicts."""

    @model_validator(mode="before")
    @classmethod
    def _folder_alone(cls, content: Any) -> Any:
        if content == "":
            raise ValueError("expected a folder, or no `store:` at all")
        return {"folder": content} if isinstance(content, str | Path) else content


class DriftConfig(Section):
    """How passed parts are followed for drift. `drift: false` turns it off."""

    follow: bool = True
    parts_per_false_alarm: float = Field(default=10_000, ge=100, le=10_000_000)
    """Passed parts between false alarms, over all charts together, on average and at least."""
    quiet_parts: int = Field(default=1_000, ge=1)
    """Passed parts after an alarm in which its statistic tells no other."""
    events: Path | None = None
    """File to which alarms are added, one JSON object a line; None: drift.jsonl in the store, if there is one."""

    @model_validator(mode="before")
    @classmethod
    def _switch_alone(cls, content: Any) -> Any:
        return {"follow": content} if isinstance(content, bool) else content


class StationConfig(Section):
    """What station.yaml holds; `mapl-edge run` reads it."""

    bundle: Path | None = None
    camera: CameraConfig = CameraConfig()
    cameras: tuple[CameraConfig, ...] = ()
    """Several cameras in one process; in place of `camera`."""
    out: Path | None = None
    store: StoreConfig = StoreConfig()
    drift: DriftConfig = DriftConfig()
    threads: Annotated[int, Field(ge=0, le=MAX_THREADS)] = 0
    """Threads for the engine; 0 lets it choose."""
    budget_ms: Annotated[float, Field(gt=0, le=MAX_BUDGET_MS)] | None = None
    """From capture to verdict; None: no deadline."""
    on_late: Action = Action.FAIL
    """What the gate does with a LATE part."""
    on_error: Action = Action.FAIL
    """What the gate does with an ERROR part."""
    engine_stuck_s: Annotated[float, Field(gt=0)] = 5.0
    """An engine that is so long inside one call is given up; counts only with a budget."""
    engine_restarts: Annotated[int, Field(ge=0)] = 3
    """Starts of one engine within `restart_window_s`; then the next proven engine takes over."""
    restart_window_s: Annotated[float, Field(gt=0)] = 600.0
    reload: bool = True
    """Take over what changes in the bundle's folder while the station runs; False: only at SIGHUP."""

    @classmethod
    def _between_keys(cls, content: Mapping[str, Any]) -> list[str]:
        cameras, mistakes = content.get("cameras"), []
        if not isinstance(cameras, list | tuple) or not cameras:
            return []
        if "camera" in content:
            mistakes.append("there is camera: and cameras:, expected one of them; move it into the list")
        unnamed = CameraConfig.model_fields["name"].default
        names = [
            each.get("name", unnamed) if isinstance(each, Mapping) else getattr(each, "name", None) for each in cameras
        ]
        for name in sorted({name for name in names if isinstance(name, str) and names.count(name) > 1}):
            mistakes.append(f"cameras: the name {name!r} is there twice; give each camera its own")
        return mistakes


class TrainConfig(Section):
    """How a model is trained. `paper_settings` has the MAPL paper's; where these differ, docs/model.md says why."""

    contract: InputContract = InputContract()
    fit_aspect: bool = True
    """Give the input the pictures' own ratio of sides, with about as many pixels as `contract.size_hw` says."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    steps: int = Field(default=1000, ge=1)
    """Iteration steps at most (Table 2: 500)."""
    patience: int = Field(default=6, ge=1)
    """Stop after so many validations in which neither the loss fell nor the validation score rose (§2.6.3)."""
    validate_every: int = Field(default=50, ge=1)
    """Steps between validations; after each the state is saved."""
    batch_size: int = Field(default=8, ge=2)
    """Half normal, half anomalous (Table 2: 8)."""
    crop: int | None = Field(default=96, ge=64, multiple_of=32)
    """Side in pixels of the squares that the head learns from, two a picture; None: whole pictures (the paper's)."""
    learning_rate: float = Field(default=0.003, gt=0)
    """Peak of warm-up + cosine (Table 2: 0.003)."""
    l1_weight: float = Field(default=0.6, ge=0)
    focal_weight: float = Field(default=0.4, ge=0)
    focal_gamma: float = Field(default=4.0, ge=0)

    encoder: EncoderName = "efficientnet_lite0"
    weights: Path | None = None
    """Weights for the encoder from a file; None: those it comes with."""
    memory: Literal["auto", "image", "patch"] = "auto"
    """Nearest whole picture (the paper's), nearest patch per place, or what the normals say."""
    memory_samples: int = Field(default=30, ge=1)
    """N normal pictures in an image memory, and in any memory of an encoder that trains (Table 2: 30)."""
    memory_patches: int = Field(default=4096, ge=1)
    """Patches in a patch memory."""
    reduction: Literal["coreset", "kmeans"] = "coreset"
    """How a patch memory chooses its patches: far from each other, or the centres of clusters."""
    position_weight: float | None = Field(default=None, ge=0)
    """Weight of a patch's place in the search; 0: a patch may be found anywhere; None: what the normals say."""
    moved_px: float | None = Field(default=None, ge=0, le=64)
    """Normals are in a patch memory a second time, moved by up to so many pixels of the input each way, so that parts
    a little beside their place are no defects; None: 4 (half a cell) where parts agree in place, else 0."""
    refresh_every: int = Field(default=25, ge=1)
    """Steps after which the memory is filled anew where the encoder trains."""

    fusion: Literal["slim", "full", "none"] = "slim"
    """Multi-scale fusion: squeezed before its 3x3 convolutions, the paper's, or each level for itself."""
    spatial_attention: Literal["residual", "multiply", "none"] = "residual"
    """Weight fused features by 1 + M, by M (Eq. 9 to 11), or not."""
    coordinate_attention: bool = False
    """Coordinate attention inside the fusion, which the paper leaves out."""
    decoder_stride: Literal[1, 4] = 4
    """Where the U-Net decoder ends: 4 (fast) or 1 (the paper's, full resolution)."""
    distance: bool = True
    """Let the distance to the memory speak in map and score beside the decoder."""
    pseudo_labeler: bool = True
    """Train the predictor q with pseudo-labels (§2.2, Eq. 15 and 16)."""
    classifiers: int = Field(default=2, ge=1)
    """K one-class classifiers of the pseudo-labeler (Table 2: 2)."""

    simulation: Literal["varied", "paper"] = "varied"
    """Simulated defects: Perlin masks, lines and spots with many fillings, or the paper's alone."""
    textures: Path | None = None
    """A folder of texture pictures such as DTD; None: procedural textures."""
    interference: bool = True
    """Disturb pictures while training by noise and contrast, as a factory does."""

    @classmethod
    def paper_settings(cls, **changes: Any) -> TrainConfig:
        """What the MAPL paper says (Table 2, §2, §3.3), with our encoder unless `changes` name another."""
        paper = {
            "fit_aspect": False,
            "steps": 500,
            "crop": None,
            "memory": "image",
            "moved_px": 0.0,
            "fusion": "full",
            "spatial_attention": "multiply",
            "decoder_stride": 1,
            "distance": False,
            "simulation": "paper",
            "interference": False,
        }
        return cls.model_validate(paper | changes)


def config_from_yaml(path: Path, model: type[ModelT]) -> ModelT:
    """Read one YAML file into `model`.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a value is wrong; all mistakes at once.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        document = loader.get_single_node()
        twice = list(_keys_twice(document, "", set()))
        content = {} if document is None else loader.construct_document(document)
    except OSError as exc:
        raise ConfigError(str(path), [f"cannot be read ({exc.strerror}); check the path"]) from exc
    except yaml.MarkedYAMLError as exc:
        told = [_told(exc.context, exc.context_mark), _told(exc.problem, exc.problem_mark)]
        raise ConfigError(str(path), [f"is not YAML: {', '.join(filter(None, told))}"]) from None  # it quotes the line
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigError(str(path), [f"is not YAML: {' '.join(str(exc).split())}"]) from exc
    return _checked({} if content is None else content, model, str(path), twice)


def config_from_dict(content: Any, model: type[ModelT], where: str = "config") -> ModelT:
    """Check a parsed YAML document against `model`; see `config_from_yaml`."""
    return _checked(content, model, where, [])


def _checked(content: Any, model: type[ModelT], where: str, mistakes: list[str]) -> ModelT:
    """The content as `model`, unless it has mistakes beside those that are known already."""
    config = None
    try:
        config = model.model_validate(content)
    except ValidationError as exc:
        mistakes = mistakes + [_mistake(error, model) for error in exc.errors()]
    if config is None or mistakes:  # not inside the except: its error quotes values
        raise ConfigError(where, mistakes)
    return config


def _keys_twice(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[str]:
    """The keys that a mapping has more than once, of which the last would win; `path` ends with a dot."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, each in enumerate(node.value):
            yield from _keys_twice(each, f"{path}{number}.", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line, name = key.start_mark.line + 1, f"{path}{_shown(key.value)}"
            if str(key.value) in lines:
                yield f"{name}: is there in line {lines[str(key.value)]} and in line {line}, expected once"
            lines.setdefault(str(key.value), line)
            yield from _keys_twice(value, f"{name}.", seen)


class _Loader(yaml.SafeLoader):
    """Says where a value is that Python cannot make of its text."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            problem = "found a value that cannot be read; put it in quotes if it is text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _told(says: str | None, mark: yaml.Mark | None) -> str:
    """One half of what is wrong with a file, without the names in it: they may be of an address."""
    if says is None or mark is None:
        return says or ""
    says = re.sub(r"(alias|anchor|handle|tag) (['\"]).*\2", rf"\1 '{HIDDEN}'", says)
    return f"{says} (line {mark.line + 1}, column {mark.column + 1})"


def _mistake(error: ErrorDetails, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "the document"
    if error["type"] != "extra_forbidden":
        if error["type"] == "value_error" and not error["loc"]:  # of the document as a whole: it is not shown whole
            return error["msg"].removeprefix("Value error, ")
        says = "expected a path" if error["type"] == "path_type" else error["msg"].removeprefix("Value error, ")
        return f"{path}: {says[:1].lower()}{says[1:]}, found {redact(repr(error['input']))}"
    known = _keys_at(model, error["loc"][:-1])
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
    path = ".".join(map(str, (*error["loc"][:-1], _shown(error["loc"][-1]))))
    return f"{path}: unknown key, {hint}"


def _shown(key: int | str) -> str:
    """A key in a message; a piece of an address that YAML takes for one is not shown."""
    return str(key) if re.fullmatch(r"[\w -]+", str(key)) else HIDDEN


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `loc` knows."""
    for part in (part for part in loc if isinstance(part, str)):
        field = model.model_fields.get(part)
        inner = None if field is None else _section_in(field.annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, in a list or in place of None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for each in get_args(annotation) if (inner := _section_in(each))), None)
