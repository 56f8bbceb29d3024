"""Config: YAML in, frozen values out. All mistakes are told together, each with its path and a hint."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from mapl_edge.contract import InputContract
from mapl_edge.errors import ConfigError

STATION_FILE = Path("station.yaml")
MAX_THREADS = 256  # an engine starts as many as it is told to, and takes the machine down with them
ModelT = TypeVar("ModelT", bound=BaseModel)


class Section(BaseModel):
    """A part of a configuration: frozen, unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CameraConfig(Section):
    """One camera. `source` is a URI: `0`, a video, a folder of pictures, `line:`."""

    name: str = "camera-0"
    source: Annotated[str, Field(coerce_numbers_to_str=True)] = "0"


class StationConfig(Section):
    """What station.yaml holds; `mapl-edge run` reads it."""

    bundle: Path | None = None
    camera: CameraConfig = CameraConfig()
    out: Path | None = None
    threads: Annotated[int, Field(ge=0, le=MAX_THREADS)] = 0
    """Threads for the engine; 0 lets it choose."""


class TrainConfig(Section):
    """How a model is trained; the defaults are Table 2 of the MAPL paper where the paper says."""

    contract: InputContract = InputContract()
    seed: int = Field(default=0, ge=0, lt=2**31)
    steps: int = Field(default=500, ge=1)
    """Iteration steps (Table 2: 500)."""
    batch_size: int = Field(default=8, ge=2)
    """Half normal, half simulated (Table 2: 8)."""
    learning_rate: float = Field(default=0.003, gt=0)
    """Peak of warm-up + cosine (Table 2: 0.003)."""
    memory_samples: int = Field(default=30, ge=1)
    """N normal samples in the memory (Table 2: 30)."""
    l1_weight: float = Field(default=0.6, ge=0)
    focal_weight: float = Field(default=0.4, ge=0)
    focal_gamma: float = Field(default=4.0, ge=0)
    decoder_stride: Literal[1, 4] = 4
    """Where the U-Net decoder ends: 4 (fast) or 1 (the paper's, full resolution)."""
    textures: Path | None = None
    """A folder of texture pictures such as DTD; None: procedural textures."""
    validate_every: int = Field(default=50, ge=1)


def config_from_yaml(path: Path, model: type[ModelT]) -> ModelT:
    """Read one YAML file into `model`.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a value is wrong; all mistakes at once.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(str(path), [f"cannot be read ({exc.strerror}); check the path"]) from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise ConfigError(str(path), [f"is not YAML: {' '.join(str(exc).split())}"]) from exc
    return config_from_dict({} if content is None else content, model, where=str(path))


def config_from_dict(content: Any, model: type[ModelT], where: str = "config") -> ModelT:
    """Check a parsed YAML document against `model`; see `config_from_yaml`."""
    try:
        return model.model_validate(content)
    except ValidationError as exc:
        raise ConfigError(where, [_mistake(error, model) for error in exc.errors()]) from exc


def _mistake(error: ErrorDetails, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in error["loc"]) or "the document"
    if error["type"] != "extra_forbidden":
        says = "expected a path" if error["type"] == "path_type" else error["msg"].removeprefix("Value error, ")
        return f"{path}: {says[:1].lower()}{says[1:]}, found {error['input']!r}"
    known = _keys_at(model, error["loc"][:-1])
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
    return f"{path}: unknown key, {hint}"


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `loc` knows."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
