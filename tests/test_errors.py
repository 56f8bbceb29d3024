"""The tree in the docstring of errors.py is the truth about the classes and their exit codes."""

import inspect
import re
from pathlib import Path

import pytest

from mapl_edge import errors
from mapl_edge.errors import ConfigError, MaplEdgeError, PictureError

LINE = re.compile(r"^(?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)\s+(?:exit code )?(?P<code>\d)\b")


def drawn_tree() -> dict[str, tuple[str, int]]:
    """Each class in the docstring: the class above it, its exit code."""
    tree: dict[str, tuple[str, int]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = LINE.match(line)
        if match:
            indent = len(match["indent"])
            depth = 0 if indent == 0 else 1 if indent <= 3 else 2
            above[depth:] = [match["name"]]
            tree[match["name"]] = (above[depth - 1] if depth else "Exception", int(match["code"]))
    return tree


def real_tree() -> dict[str, tuple[str, int]]:
    """Each class in the module: the class it is made from, its exit code."""
    classes = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, MaplEdgeError)]
    return {cls.__name__: (cls.__bases__[0].__name__, cls.exit_code) for cls in classes}


def test_tree_is_drawn_as_it_is() -> None:
    """Users read the tree, scripts read the exit codes; both must be what the code does."""
    assert drawn_tree() == real_tree()


def test_every_error_has_one_parent() -> None:
    """A tree can be caught by its branches; a mesh cannot."""
    classes = [getattr(errors, name) for name in real_tree()]

    assert all(len(cls.__bases__) == 1 for cls in classes)


@pytest.mark.parametrize("name", sorted(set(real_tree()) - {"MaplEdgeError", "OptionError"}))
def test_exit_code_is_not_one_that_means_something_else(name: str) -> None:
    """0 is success, 1 a fault of ours, 2 a wrong command line, and from 126 on shells speak themselves."""
    assert errors.OptionError.exit_code == 2
    assert 3 <= getattr(errors, name).exit_code <= 125


def test_config_error_tells_all_mistakes() -> None:
    """As one line for people, as a tuple for programs."""
    error = ConfigError("station.yaml", ["camera.ulr: unknown key", "threads: must be positive"])

    assert error.mistakes == ("camera.ulr: unknown key", "threads: must be positive")
    assert str(error) == "station.yaml: camera.ulr: unknown key; threads: must be positive"


def test_picture_error_names_the_picture() -> None:
    """--skip-bad counts pictures by their path."""
    error = PictureError(Path("a/b.png"), "is empty")

    assert error.path == Path("a/b.png")
    assert str(error) == "a/b.png: is empty"
