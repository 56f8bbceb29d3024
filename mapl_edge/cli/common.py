"""What several commands need: opening, progress, tables, one JSON object."""

from __future__ import annotations

import difflib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table

from mapl_edge.bundle import CALIBRATION, MANIFEST, Bundle, open_bundle
from mapl_edge.calibration import Calibration
from mapl_edge.cli.app import people
from mapl_edge.clock import Clock, SystemClock
from mapl_edge.errors import BackendUnavailable, BundleError, ContractMismatch, OptionError, Uncalibrated
from mapl_edge.files import sha256_of, write_stdout
from mapl_edge.masks import InspectedArea, masks_from_camera

if TYPE_CHECKING:
    from mapl_edge.config import CameraConfig, StationConfig

PATHS = ("bundle", "inspect", "ignore")  # of a camera, as seen from the station file
WIDE = 120  # columns of a table that goes to a file or pipe; more where what stands in it needs them
SENTENCE = 30  # characters of a sentence in such a table that have room in one line
LINE_EVERY_S = 10.0  # of progress, for each kind of work


def opened_bundle(path: Path) -> Bundle:
    """Open a bundle and tell what was noticed."""
    bundle = open_bundle(path)
    for note in bundle.notes:
        people.print(note)
    return bundle


def calibration_or_none(bundle: Bundle) -> Any:
    """What is in force; None where nothing is yet."""
    try:
        return bundle.calibration
    except Uncalibrated:
        return None


def station_from_yaml(path: Path | None) -> StationConfig:
    """The station file, with its paths as seen from the folder it lies in."""
    from mapl_edge.config import STATION_FILE, StationConfig, config_from_yaml

    if path is None and not STATION_FILE.is_file():
        return StationConfig()
    path = path or STATION_FILE
    station = config_from_yaml(path, StationConfig)
    here: dict[str, Any] = {
        key: path.parent / value for key in ("bundle", "out") if (value := getattr(station, key)) is not None
    }
    if (folder := station.store.folder) is not None:
        here["store"] = station.store.model_copy(update={"folder": path.parent / folder})
    if (events := station.drift.events) is not None:
        here["drift"] = station.drift.model_copy(update={"events": path.parent / events})
    here["camera"], *several = (_seen_from(path.parent, each) for each in (station.camera, *station.cameras))
    return station.model_copy(update=here | {"cameras": tuple(several)})


def _seen_from(folder: Path, camera: CameraConfig) -> CameraConfig:
    trigger = camera.trigger
    if trigger is not None and trigger.socket is not None:
        trigger = trigger.model_copy(update={"socket": folder / trigger.socket})
    if trigger is not None and trigger.presence is not None and trigger.presence.background is not None:
        seen = {"background": folder / trigger.presence.background}
        trigger = trigger.model_copy(update={"presence": trigger.presence.model_copy(update=seen)})
    files = {key: folder / value for key in PATHS if isinstance(value := getattr(camera, key), Path)}
    return camera.model_copy(update={"trigger": trigger, **files})


def area_of(opened: Bundle, calibration: Calibration, camera: CameraConfig) -> InspectedArea | None:
    """The camera's masks, which must be those that the limits were made with; None where there are none.

    Raises:
        ContractMismatch: they are others.
    """
    masks = masks_from_camera(camera)
    found = "" if masks is None else masks.digest
    if found != calibration.masks:
        made, has = (f"masks {digest[:12]}" if digest else "no masks" for digest in (calibration.masks, found))
        raise ContractMismatch(
            f"{opened.calibration_path}: the limits were made with {made}, the station file has {has} (camera.inspect, "
            f"camera.ignore); name the station file that has them with --config, or run: "
            f"mapl-edge calibrate {opened.path} --good FOLDER_OF_GOOD_PARTS"
        )
    if masks is None:
        return None
    assert calibration.picture_hw is not None, "kept with the masks' digest"
    return masks.area(opened.contract, calibration.picture_hw)


def area_in_force(opened: Bundle, config: Path | None) -> InspectedArea | None:
    """The same for those who are no station: its file is read where it is named, or the limits were made with masks.

    Raises:
        Uncalibrated: there are no limits.
        ContractMismatch: the station's masks are others.
    """
    calibration = opened.calibration
    if config is None and not calibration.masks:
        return None
    return area_of(opened, calibration, station_from_yaml(config).camera)


def only_bundle_here() -> Path:
    """The bundle in this folder, where there is just one."""
    found = sorted(path.parent for path in Path().glob(f"*.mapl/{MANIFEST}"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(map(str, found)) or "none"
    raise BundleError(f"which bundle? found {names} in this folder; name one, or set bundle: in station.yaml")


def bundles_here() -> dict[str, Path]:
    """The bundles of the station file and of this folder, by the digests of their calibrations."""
    station = station_from_yaml(None)
    named = [station.bundle, *(camera.bundle for camera in (station.camera, *station.cameras))]
    paths = [path for path in named if path is not None]
    paths += sorted(path.parent for path in Path().glob(f"*.mapl/{MANIFEST}"))
    files = {path: path / CALIBRATION for path in reversed(paths)}  # the station's come last, and count
    return {sha256_of(file): path for path, file in files.items() if file.is_file()}


def one_of(option: str, value: Any, choices: Any) -> Any:
    """`value`, which must be one of the names of a Literal, or None."""
    known = get_args(choices)
    if value is not None and value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise typer.BadParameter(f"--{option} {value!r}: {hint}")
    return value


def numbers(text: str, separator: str, count: int, flag: str, expected: str) -> list[int]:
    """So many whole numbers from 0 between separators."""
    parts = text.split(separator)
    if len(parts) != count or not all(part.strip().isdecimal() for part in parts):
        raise OptionError(f"{flag}: found {text!r}, expected {expected}")
    return [int(part) for part in parts]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Say which extra brings a library that is missing."""
    try:
        yield
    except ModuleNotFoundError as exc:
        raise BackendUnavailable(f"{exc.name} is not installed; pip install 'mapl-edge[{name}]'") from exc


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event; a second one acts as usual."""
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def on_signal(number: int, frame: object) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def bars() -> Iterator[Any]:
    """Progress bars, one per kind of work: progress(what, done, total). A log file gets lines now and then instead."""
    if not people.is_terminal:
        yield ProgressLines(partial(people.print, markup=False))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=people) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield progress


class ProgressLines:
    """Progress where nothing can be drawn over: a line for each kind of work, at most one in `LINE_EVERY_S`.

    What is done sooner has no line at all.
    """

    def __init__(self, tell: Callable[[str], None], clock: Clock | None = None) -> None:
        self._tell, self._clock = tell, clock or SystemClock()
        self._told: dict[str, float] = {}  # when each kind of work last had a line, or began

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `bars`."""
        now = self._clock.monotonic()
        last = self._told.setdefault(what, now)
        if now - last >= LINE_EVERY_S:
            self._told[what] = now
            self._tell(f"{what}: {done} of {total}")


def shown(value: float | None, form: str) -> str:
    """A figure for a table; a dash for none."""
    return "-" if value is None else format(value, form)


def verdict_table(folder: Path, columns: tuple[str, ...]) -> Table:
    """Only names and reasons may take several lines."""
    return Table(*(Column(name, no_wrap=name not in ("picture", "error")) for name in columns), title=str(folder))


def print_wide(table: Table) -> None:
    """A file or pipe has no width of its own. There only sentences take several lines: no figure or path is broken."""
    console = people
    if not people.is_terminal:
        for column in table.columns:
            cells = [str(cell) for cell in column.cells]
            column.no_wrap = column.no_wrap or not any(" " in cell for cell in cells)
            words = [word for cell in cells for word in cell.split()]
            kept = cells if column.no_wrap else [*words, *(cell[:SENTENCE] for cell in cells)]
            column.min_width = max(map(len, kept), default=0)
        boundless = people.options.update(width=sys.maxsize)
        least = Measurement.get(people, boundless, table).minimum
        console = Console(stderr=True, highlight=False, width=max(WIDE, least))
    console.print(table, soft_wrap=False, crop=False)


def tell_skipped(errors: list[Any]) -> None:
    """Say how many pictures `--skip-bad` left out."""
    if errors:
        people.print(f"skipped {len(errors)} bad pictures, first: {errors[0]}", markup=False)


def print_json(wanted: bool, content: dict[str, Any]) -> None:
    """One JSON object on stdout, if it is wanted."""
    if wanted:
        write_stdout((json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
