"""README, docs and --help agree with each other and with the code."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from mapl_edge import errors
from mapl_edge.cli.app import Commands, app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUP = typer.main.get_command(app)
assert isinstance(GROUP, Commands)
COMMANDS = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}


def lines_with_command() -> list[tuple[str, str]]:
    """Every `mapl-edge …` line in a code block of any page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            joined = block.replace("\\\n", " ")
            found += [
                (page.name, line.strip().removeprefix("$ "))
                for line in joined.splitlines()
                if line.strip().removeprefix("$ ").startswith("mapl-edge ")
            ]
    return found


def check_line(line: str) -> None:
    """Parse a command line without running it; it raises if an option or a command is unknown."""
    words = shlex.split(line.split("#")[0].split(" | ")[0].split(" > ")[0], comments=True)[1:]
    if words[0].startswith("--"):
        return
    command = COMMANDS[words[0]]
    command.make_context(words[0], words[1:], resilient_parsing=False).close()


@pytest.mark.parametrize(("page", "line"), lines_with_command())
def test_every_documented_command_line_parses(page: str, line: str) -> None:
    """A reader types it as it stands."""
    check_line(line)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_ends_in_an_example_that_parses(name: str) -> None:
    """The example is the first thing people copy."""
    epilog = COMMANDS[name].epilog or ""

    assert epilog.startswith(f"Example: mapl-edge {name}")
    check_line(epilog.removeprefix("Example: "))


def test_every_command_is_in_the_readme() -> None:
    """What is not there does not exist for a new user."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert [name for name in COMMANDS if f"mapl-edge {name}" not in readme] == []


def test_links_lead_somewhere() -> None:
    """Between pages and to files."""
    broken = [
        (page.name, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert broken == []


def test_each_row_of_the_fault_matrix_names_a_test() -> None:
    """A promise without a test is a wish."""
    rows = re.findall(r"^\|(?! fault|---)(.*)\|$", (ROOT / "docs" / "reliability.md").read_text(), re.MULTILINE)
    named = [re.search(r"`(tests/\S+\.py)::(test_\w+)`", row) for row in rows]

    assert len(rows) > 20
    assert [row for row, found in zip(rows, named, strict=True) if found is None] == []
    assert [
        found[0] for found in named if found and f"def {found[2]}(" not in (ROOT / found[1]).read_text(encoding="utf-8")
    ] == []


def test_exit_codes_are_documented() -> None:
    """docs/run.md lists each code that an error class has."""
    text = (ROOT / "docs" / "run.md").read_text(encoding="utf-8")
    codes = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.MaplEdgeError)}

    for code in codes:
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE), code


def test_every_station_key_is_documented() -> None:
    """And every training key."""
    from mapl_edge.config import CameraConfig, DriftConfig, StationConfig, StoreConfig, TrainConfig

    run, train = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("run.md", "train.md"))

    assert [
        key
        for model in (StationConfig, CameraConfig, StoreConfig, DriftConfig)
        for key in model.model_fields
        if f"{key}:" not in run
    ] == []
    assert [key for key in TrainConfig.model_fields if f"{key}:" not in train] == []


def test_the_yaml_in_the_docs_is_accepted(tmp_path: Path) -> None:
    """Each yaml block is a whole file, of the kind that its page is about."""
    from mapl_edge.config import StationConfig, TrainConfig, config_from_yaml

    config_from_yaml(ROOT / "deploy" / "station.yaml", StationConfig)
    for page, model in (("run.md", StationConfig), ("train.md", TrainConfig)):
        blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
        assert blocks
        for block in blocks:
            (tmp_path / page).write_text(block, encoding="utf-8")
            config_from_yaml(tmp_path / page, model)


def test_version_is_the_packages() -> None:
    """`--version` on the line tells what to report."""
    shown = subprocess.run([sys.executable, "-m", "mapl_edge", "--version"], capture_output=True, text=True, check=True)

    assert re.fullmatch(r"\d+\.\d+\.\d+\n", shown.stdout)
