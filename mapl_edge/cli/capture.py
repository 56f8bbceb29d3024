"""The command that collects pictures: capture."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from mapl_edge.cli.app import JsonFlag, app, people
from mapl_edge.cli.common import bars, print_json, station_from_yaml, stop_on_signals

SECONDS = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|)")


def _seconds(text: str) -> float:
    """0.5, 0.5s or 500ms."""
    found = SECONDS.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r}: expected a time such as 0.5s or 500ms")
    return float(found[1]) / (1e3 if found[2] == "ms" else 1)


@app.command(epilog="Example: mapl-edge capture --camera 0 --out data/part --label good --count 100 --every 0.5s")
def capture(
    out: Annotated[Path, typer.Option(help="Data set; pictures go to train/<label> in it. It may exist.")],
    camera: Annotated[int | None, typer.Option(help="USB camera by index.", min=0)] = None,
    source: Annotated[
        str | None, typer.Option(help="rtsp://, http://, v4l2:, genicam:, a folder, a video, or line:.")
    ] = None,
    label: Annotated[str, typer.Option(help="What these parts are: good, or the name of a defect.")] = "good",
    split: Annotated[Literal["train", "test"], typer.Option(help="To train with, or to evaluate with.")] = "train",
    count: Annotated[int, typer.Option(help="So many pictures.", min=1)] = 100,
    every: Annotated[str, typer.Option(help="Time between two pictures of a live camera, such as 0.5s.")] = "0s",
    min_change: Annotated[
        float, typer.Option(help="Leave out pictures that differ less from the last one, in grey levels.", min=0)
    ] = 0.0,
    config: Annotated[Path | None, typer.Option(help="Station file; default: station.yaml, if it is here.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Collect pictures from a camera to train with, until there are enough or Ctrl-C."""
    from mapl_edge.runtime.collect import collect, label_folder
    from mapl_edge.runtime.sources import source_from_uri

    if camera is not None and source is not None:
        raise typer.BadParameter("give --camera or --source, not both")
    every_s, folder = _seconds(every), label_folder(out, label, split)
    station = station_from_yaml(config)
    uri = source if source is not None else str(camera) if camera is not None else station.camera.source
    tell = partial(people.print, markup=False)
    with stop_on_signals() as stop, bars() as progress:
        opened = source_from_uri(uri, limits=station.camera, tell=tell)
        done = collect(
            opened,
            folder,
            count,
            every_s=every_s,
            min_change=min_change,
            stop=stop,
            progress=progress,
            tell=tell,
        )
    told = f"{folder}: {done.saved} pictures"
    told += f", {count - done.saved} fewer than wanted" if done.ended else ""
    told += f"; {done.alike} left out, too like the last one" if done.alike else ""
    told += f"; {done.unreadable} could not be read" if done.unreadable else ""
    told += "".join(f"; {n} {kind}" for kind, n in sorted(done.troubles.items()))
    tell(told)
    print_json(as_json, done.as_json())
