"""The application: its options and its way out. Text for people goes to stderr, `--json` to stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mapl_edge import __version__
from mapl_edge.errors import MaplEdgeError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From pictures of good parts to PASS/FAIL on a factory camera.",
    epilog="Example: mapl-edge demo --out demo",
)
CALIBRATED = ("fp32", "fp16")  # limits are set with fp32, whose scores fp16 gives too; int8 is asked for by name
people = Console(stderr=True, highlight=False, soft_wrap=True)
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
EngineOption = Annotated[
    str, typer.Option("--engine", help="auto (the fastest proven one), a library, or an engine's name.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Count pictures that cannot be read and go on.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Station file; default: station.yaml, if it is here.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")]


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of the user's is one line and an exit code (see `mapl_edge.errors`)."""
    try:
        app()
    except MaplEdgeError as exc:
        people.print(f"{type(exc).__name__}: {' '.join(str(exc).split())}", markup=False)
        sys.exit(exc.exit_code)
