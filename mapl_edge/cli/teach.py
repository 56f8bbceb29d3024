"""Commands that change what a bundle knows: teach."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mapl_edge.bundle import Bundle
from mapl_edge.cli.app import ConfigOption, JsonFlag, app, people
from mapl_edge.cli.common import (
    area_in_force,
    bars,
    calibration_or_none,
    extra,
    opened_bundle,
    print_json,
    print_wide,
    station_from_yaml,
)
from mapl_edge.config import MAX_THREADS
from mapl_edge.engine_record import engine_names
from mapl_edge.errors import DataError, OptionError
from mapl_edge.quick_import import quick_import
from mapl_edge.stages import Stages
from mapl_edge.verdict import Outcome


@app.command(epilog="Example: mapl-edge teach bottle.mapl --good 17 --store store --calibration data/bottle/train/good")
def teach(
    bundle: Annotated[Path, typer.Argument(help="Bundle to teach.")],
    good: Annotated[
        list[str] | None, typer.Option(help="A good part: its number in the store (17, or 17,23), or a picture file.")
    ] = None,
    bad: Annotated[list[str] | None, typer.Option(help="A defective part, likewise; it must never pass.")] = None,
    store: Annotated[Path | None, typer.Option(help="Store that the numbers are of; default: station.yaml's.")] = None,
    run: Annotated[
        str | None, typer.Option(help="Run that the numbers are of; default: the newest in the store.")
    ] = None,
    camera: Annotated[str | None, typer.Option(help="Camera that the numbers are of.")] = None,
    calibration: Annotated[
        list[Path] | None, typer.Option(help="Folder with the pictures that the limits came from, defects too.")
    ] = None,
    patches: Annotated[int, typer.Option(help="Places of a good part that the memory gets at most.", min=1)] = 50,
    keep_limits: Annotated[
        bool, typer.Option("--keep-limits", help="Leave the limits; go on without the pictures they came from.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Teach though known defects would pass.")] = False,
    threads: Annotated[
        int, typer.Option(help="Pictures looked at side by side; 0: all cores.", min=0, max=MAX_THREADS)
    ] = 0,
    undo: Annotated[bool, typer.Option("--undo", help="Take off what was taught last.")] = False,
    undo_all: Annotated[bool, typer.Option("--undo-all", help="Take off all that was taught.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show what was taught; change nothing.")] = False,
    sign: Annotated[Path | None, typer.Option(help="Ed25519 private key (PEM) to sign the new bundle with.")] = None,
    config: ConfigOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Add good parts to a bundle's memory, or defects to what must not pass; no training, no torch."""
    wanted = [bool(good or bad), undo or undo_all, show].count(True)
    if wanted != 1:
        raise typer.BadParameter("give --good and --bad parts, or --undo, --undo-all or --show")
    stages = Stages()
    opened = opened_bundle(bundle)
    stages.end("open and check digests")
    with extra("export"), quick_import():
        from mapl_edge.export import teach as room
        from mapl_edge.export.lessons import lessons
    if show:
        return _show(opened, lessons(opened), as_json)
    signed = partial(_sign, key=sign) if sign is not None else None
    if undo or undo_all:
        back = room.undo(opened, everything=undo_all, sign=signed)
        people.print(f"{bundle}: digest {back.digest[:12]} again, as before")
        _tell_engines(back)
        return print_json(as_json, {"bundle": str(bundle), "digest": back.digest})
    from mapl_edge.export.known_parts import known_parts

    # What these need is imported while the known parts are looked at.
    def decide(old: Any, digest: str, goods: Any, defects: Any) -> Any:
        from mapl_edge.calibrate.again import calibration_again
        from mapl_edge.user import user_name

        return calibration_again(old, old.version + 1, user_name(), digest, goods, defects, EXACT_ENGINE, "taught")

    def open_engine(files: Any) -> Any:
        from mapl_edge.runtime.engine_choice import engine_of

        return engine_of(files, threads=1)

    stages.end("load libraries")
    parts = [_parts(names or [], store, run, camera) for names in (good, bad)]
    told: dict[str, Any] = {"bundle": str(bundle), "digest": opened.digest}
    area = None if calibration_or_none(opened) is None else area_in_force(opened, config)

    def known() -> Any:
        now = calibration_or_none(opened)
        return known_parts(opened, now.pictures if now else {}, now.defects if now else {}, calibration or [])

    if parts[1]:
        effects, now = room.teach_bad(opened, parts[1], known(), open_engine, decide, area)
        for effect in effects:
            stopped = effect.after is not None and effect.after is not Outcome.PASS
            told_of = "no teaching may let it pass" if stopped else "the limit does not stop it"
            people.print(f"{effect.kind} {effect.name}: score {effect.score_after:.4g}, {told_of}", markup=False)
        if now is not None and now.misses is not None:
            people.print(f"{bundle}: {now.misses}")
        told["bad"] = [effect.as_json() for effect in effects]
        opened = opened_bundle(bundle)
    if parts[0]:
        among = known()
        stages.end("find the pictures")
        with bars() as progress:
            taught = room.teach_good(
                opened,
                parts[0],
                among,
                open_engine,
                decide,
                area=area,
                patches=patches,
                keep_limits=keep_limits,
                threads=threads,
                force=force,
                sign=signed,
                progress=progress,
                stages=stages,
            )
        _tell(bundle, taught, stages)
        _tell_engines(taught.bundle)
        told |= _json_of(taught, stages)
    return print_json(as_json, told)


EXACT_ENGINE = "onnxruntime-fp32-fused"  # what teaching scores with


def _parts(names: list[str], store: Path | None, run: str | None, camera: str | None) -> list[Any]:
    """Pictures by their numbers in the store, or from disk."""
    from mapl_edge.export.known_parts import part_from_file

    found, numbers = [], []
    for name in names:
        pieces = name.split(",")
        if all(piece.strip().isdecimal() for piece in pieces):
            numbers += [int(piece) for piece in pieces]
        else:
            found.append(part_from_file(Path(name)))
    if numbers:
        from mapl_edge.runtime.history import Wanted, open_history

        folder = store or station_from_yaml(None).store.folder
        if folder is None:
            raise OptionError("numbers are of a store: name its folder with --store, or set store: in station.yaml")
        with open_history(folder) as past:
            newest = list(past.entries(Wanted(last=1, camera=camera, run=run)))
            if not newest:
                raise DataError(f"{folder}: holds no verdict of that run and camera; see mapl-edge history {folder}")
            of_run = newest[0].run
            for number in numbers:
                entries = list(past.entries(Wanted(camera=camera, run=of_run, seq=number)))
                with_picture = [entry for entry in entries if entry.stored_picture is not None]
                if len(with_picture) != 1:
                    raise DataError(_no_picture(folder, of_run, number, [entry.verdict for entry in entries]))
                entry = with_picture[0]
                assert entry.stored_picture is not None
                people.print(
                    f"number {number}: {entry.picture} of camera {entry.camera}, run {entry.run}", markup=False
                )
                found.append(part_from_file(entry.stored_picture, f"{entry.camera}/{number}"))
    return found


def _no_picture(folder: Path, run: str, number: int, verdicts: list[Outcome]) -> str:
    """Why a number has not one picture in the store, and how to get it."""
    history = f"see mapl-edge history {folder} --json, and name --run or --camera"
    if not verdicts:
        return f"{folder}: run {run} has no number {number}; {history}"
    if len(verdicts) > 1:
        return f"{folder}: run {run} has several cameras with a number {number}; {history}"
    if verdicts[0] is Outcome.PASS:
        return (
            f"{folder}: number {number} of run {run} passed, and of parts that pass only one picture in so many is "
            "kept (store.pass_every in station.yaml, 100 unless set); take a picture of the part and name the file, or "
            "set pass_every: 1, which keeps all, and let the part pass by again"
        )
    return (
        f"{folder}: keeps no picture of number {number} of run {run} ({verdicts[0].value}); what was kept may have "
        "made room for newer ones (store.keep_pictures_mb, keep_days); take a picture of the part and name the file"
    )


def _tell(path: Path, taught: Any, stages: Stages) -> None:
    changes = [effect for effect in taught.effects if effect.changes or effect.kind == "taught"]
    for effect in changes:
        people.print(str(effect), markup=False)
    known = [effect for effect in taught.effects if effect.kind != "taught"]
    flips = len([effect for effect in known if effect.changes])
    people.print(
        f"{path}: taught {taught.number:04d}, {taught.entries} entries; {flips} of {len(known)} known parts get "
        f"another verdict; fused and split graphs agree on {taught.fused.pictures} golden pictures (score within "
        f"{max(taught.fused.score_error, taught.split.score_error):.1e}); {sum(stages.seconds.values()):.1f} s"
    )
    now = taught.calibration
    if now is not None:
        people.print(f"limit {now.limits.fail:.6g}: {now.note if now.note != 'taught' else now.promise}", markup=False)
    people.print(
        f"digest {taught.digest[:12]}, was {taught.digest_before[:12]}; take it off: mapl-edge teach {path} --undo"
    )


def _json_of(taught: Any, stages: Stages) -> dict[str, Any]:
    known = [effect for effect in taught.effects if effect.kind != "taught"]
    of_kind = {kind: sum(effect.kind == kind for effect in known) for kind in ("good", "defect")}
    counts = {"moved": sum(effect.moves for effect in known), "changed": sum(effect.changes for effect in known)}
    shown = [effect for effect in taught.effects if effect.kind == "taught" or effect.changes or effect.moves]
    now = taught.calibration
    return {
        "taught": taught.number,
        "digest": taught.digest,
        "digest_before": taught.digest_before,
        "entries": taught.entries,
        "known_parts": of_kind | counts,
        "effects": [effect.as_json() for effect in shown],
        "score_error": {"fused": taught.fused.score_error, "split": taught.split.score_error},
        "map_error": {"fused": taught.fused.map_error, "split": taught.split.map_error},
        "calibration": None if now is None else now.model_dump(mode="json", include=IN_FORCE),
        "seconds": round(sum(stages.seconds.values()), 3),
        "stages_s": {name: round(seconds, 3) for name, seconds in stages.seconds.items()},
    }


IN_FORCE = {"version", "rule", "limits", "promise", "review_promise", "pixel_promise", "misses", "note"}
"""What is told of a calibration; the parts that it came from stand in calibration.yaml."""


def _tell_engines(bundle: Bundle) -> None:
    """Engines made of the graphs before are refused by their digest; say how to make them again."""
    from mapl_edge.engine_record import engine_files
    from mapl_edge.errors import BundleError

    for name in engine_names(bundle)[1:]:
        try:
            engine_files(bundle, name)
        except BundleError:
            backend, precision, graph, *target = name.split("-")
            command = f"mapl-edge export {bundle.path} --engine {backend} --precision {precision} --graph {graph}"
            on = f" --target {target[0]}" if target else ""
            people.print(f"engine {name} is not used any more; make it again: {command}{on} --overwrite", markup=False)


def _show(bundle: Bundle, lessons: list[dict[str, Any]], as_json: bool) -> None:
    table = Table("taught", "when", "by", "parts", "entries", "score before -> after", title=str(bundle.path))
    for one in lessons:
        scores = ", ".join(f"{before:.4g} -> {after:.4g}" for before, after in one["scores"].values())
        table.add_row(
            f"{one['number']:04d}", one["at"], one["by"], escape(", ".join(one["parts"])), str(one["entries"]), scores
        )
    print_wide(table)
    print_json(as_json, {"bundle": str(bundle.path), "digest": bundle.digest, "lessons": lessons})


def _sign(bundle: Bundle, key: Path) -> None:
    from mapl_edge.signature import sign_bundle

    sign_bundle(bundle, key)
