"""The application: its options and its way out. Text for people goes to stderr, `--json` to stdout."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.main import get_command_from_info

from mapl_edge import __version__
from mapl_edge.errors import MaplEdgeError
from mapl_edge.quick_import import quick_import
from mapl_edge.stderr import unhurried_stderr

HOMES = {  # of commands: the module that adds them; as --help lists them
    "capture": "capture",
    "train": "make",
    "export": "make",
    "calibrate": "limits",
    "teach": "teach",
    "run": "station",
    "history": "records",
    "replay": "records",
    "drift": "records",
    "evaluate": "measure",
    "bench": "measure",
    "inspect": "measure",
    "report": "report",
    "line": "rehearse",
    "demo": "rehearse",
}


class Commands(TyperGroup):
    """Commands whose modules are imported when they are asked for: whoever types one waits for its module alone."""

    def list_commands(self, ctx: Any) -> list[str]:
        """As `--help` lists them."""
        return list(HOMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None; then all are there, for the hint at a close one."""
        for name in (cmd_name,) if cmd_name in HOMES else HOMES:
            if name not in self.commands:
                self.commands[name] = _command(name)
        return self.commands.get(cmd_name)


def _command(name: str) -> Any:
    with quick_import():
        import_module(f"mapl_edge.cli.{HOMES[name]}")
    info = next(one for one in app.registered_commands if one.callback is not None and one.callback.__name__ == name)
    return get_command_from_info(info, pretty_exceptions_short=True, rich_markup_mode="rich")


app = typer.Typer(
    cls=Commands,
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
        app(prog_name="mapl-edge")
    except MaplEdgeError as exc:
        with unhurried_stderr():
            people.print(f"{type(exc).__name__}: {' '.join(str(exc).split())}", markup=False)
        sys.exit(exc.exit_code)
