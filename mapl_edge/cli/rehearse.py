"""Commands to rehearse with: line, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mapl_edge.cli.app import JsonFlag, Overwrite, app, people
from mapl_edge.cli.common import bars, extra, print_json, stop_on_signals
from mapl_edge.errors import OptionError, OutputError


@app.command(epilog="Example: mapl-edge line --serve mjpeg --port 8080 --faults drop:0.01,unplug:100-150")
def line(
    serve: Annotated[
        Literal["mjpeg", "rtsp", "folder"], typer.Option(help="As an HTTP or RTSP camera, or as pictures in --out.")
    ],
    port: Annotated[
        int | None, typer.Option(help="Port of the camera; default: 8080, or 8554 for RTSP.", min=0, max=65535)
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: reachable from other machines.")] = (
        "127.0.0.1"
    ),
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures.")] = None,
    faults: Annotated[str, typer.Option(help="What goes wrong, such as drop:0.01,freeze:50-80,slow:0.02.")] = "",
    parts: Annotated[int | None, typer.Option(help="Stop after so many parts (a folder: 200).", min=1)] = None,
    fps: Annotated[float, typer.Option(help="Parts per second.", min=0.01, max=1000)] = 10.0,
    seed: Annotated[int, typer.Option(help="Of parts and faults.", min=0)] = 0,
    defects: Annotated[float, typer.Option(help="Share of defective parts.", min=0, max=1)] = 0.3,
    size: Annotated[int, typer.Option(help="Side of the square picture in pixels.", min=64, max=4096)] = 320,
) -> None:
    """Serve the synthetic line as a camera, with faults, to rehearse with."""
    from mapl_edge.testing.faults import Faults
    from mapl_edge.testing.line import SyntheticLine
    from mapl_edge.testing.line_server import LineServing, MjpegServer, serve_folder
    from mapl_edge.testing.rtsp_server import RtspServer

    try:
        injected = Faults.from_text(faults, seed)
    except ValueError as exc:
        raise OptionError(f"--faults: {exc}") from exc
    if (serve == "folder") != (out is not None):
        raise typer.BadParameter("--out goes with --serve folder, and --serve folder needs it")
    serving = LineServing(SyntheticLine(seed, defects, (size, size)), injected, fps)
    with stop_on_signals() as stop, bars() as progress:
        try:
            if out is not None:
                written = serve_folder(serving, out, parts or 200, stop, progress)
                people.print(f"{out}: {written} pictures")
                return
            camera = RtspServer if serve == "rtsp" else MjpegServer
            port = port if port is not None else 8554 if serve == "rtsp" else 8080
            with camera(serving, host, port, parts=parts) as server:
                people.print(f"{server.url}: {fps:g} parts/s, until Ctrl-C")
                while not stop.wait(0.1) and not server.wait(0):
                    pass
        except OSError as exc:
            where = out or f"{host}:{port}"
            raise OutputError(f"{where}: {exc.strerror or exc}; choose another --out, --port or --host") from exc


@app.command(epilog="Example: mapl-edge demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, model, bundle, verdicts and report.")] = Path("demo"),
    parts: Annotated[int, typer.Option(help="Parts to inspect.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the line and of training.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 400,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Train, export, calibrate and run on a synthetic line, and leave a report."""
    with extra("train"):
        from mapl_edge.demo import demo as run_demo

    with bars() as progress:
        result = run_demo(out, parts, seed, steps, overwrite, progress)
    people.print(
        f"{result.good_passed:.1%} of {result.n_good} good parts PASS, {result.bad_failed:.1%} of {result.n_bad} "
        f"defective parts FAIL; look at {result.report}"
    )
    print_json(
        as_json,
        {
            "good_passed": result.good_passed,
            "bad_failed": result.bad_failed,
            "n_good": result.n_good,
            "n_bad": result.n_bad,
            "report": str(result.report),
        },
    )
