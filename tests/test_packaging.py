"""The wheel carries every room of the house, under one import name."""

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ROOMS = ("export", "runtime", "calibrate")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_folder_is_declared() -> None:
    """A folder with code that pyproject.toml does not list would be missing from the wheel."""
    declared = set(PROJECT["tool"]["setuptools"]["packages"])
    core = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for init in (ROOT / "mapl_edge").rglob("__init__.py")
        if init.relative_to(ROOT).parts[1] not in ROOMS
    }
    rooms = {
        "mapl_edge." + ".".join(init.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }

    assert declared == core | rooms, "list the package in [tool.setuptools] packages"


@pytest.mark.parametrize("room", ROOMS)
def test_room_link_points_home(room: str) -> None:
    """mapl_edge/<room> lets type checkers and bare checkouts find the top-level folder."""
    link = ROOT / "mapl_edge" / room

    assert link.resolve() == ROOT / room, f"run: ln -sfn ../{room} {link.relative_to(ROOT)}"


def test_the_edge_install_names_no_training_library() -> None:
    """Torch on the line would cost gigabytes and gives nothing there."""
    base = " ".join(PROJECT["project"]["dependencies"])

    assert not re.search(r"torch|onnxscript|matplotlib|scipy|scikit-learn", base)


def test_every_direct_dependency_is_pinned_for_fresh_machines() -> None:
    """A fresh machine gets what was tested."""
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["train"], *extras["encoders"], *extras["dev"]]
    names = {re.split(r"[<>=; ]", requirement)[0].lower() for requirement in wanted}

    assert names <= pinned, f"add to constraints.txt: {sorted(names - pinned)}"


def test_runtime_never_imports_export_calibrate_or_torch() -> None:
    """Imports point one way: rooms → core. (CI also proves it from the built wheel.)"""
    forbidden = re.compile(r"^\s*(?:from|import) (?:torch|mapl_edge\.(?:export|calibrate|model))", re.MULTILINE)

    for path in (ROOT / "runtime").rglob("*.py"):
        assert not forbidden.search(path.read_text(encoding="utf-8")), path


def test_core_looks_into_rooms_only_from_the_command_line() -> None:
    """What crosses rooms lives in the core, so the core must not lean on them."""
    looks = re.compile(r"^\s*(?:from|import) mapl_edge\.(?:export|calibrate|runtime)\b", re.MULTILINE)
    lookers = {
        path.relative_to(ROOT).parts[1]
        for path in (ROOT / "mapl_edge").rglob("*.py")
        if path.relative_to(ROOT).parts[1] not in ROOMS and looks.search(path.read_text(encoding="utf-8"))
    }

    assert lookers == {"cli", "demo.py"}
