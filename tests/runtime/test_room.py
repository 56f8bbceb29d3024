"""The room's names, looked up when they are asked for."""

import subprocess
import sys

import pytest

import mapl_edge.runtime as room


@pytest.mark.parametrize("name", room.__all__)
def test_every_name_of_the_room_is_found(name):
    """A name that is listed and lies nowhere would be an ImportError at the line."""
    assert getattr(room, name) is not None


def test_name_that_is_not_there_is_told():
    """As of any other module."""
    with pytest.raises(AttributeError, match="has no attribute 'Stores'"):
        _ = room.Stores


def test_engine_is_opened_without_cameras_and_stores():
    """A command that scores pictures (teach, calibrate) shall not wait for what it does not use."""
    code = "import sys, mapl_edge.runtime.engine_choice; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"sqlite3", "mapl_edge.runtime.camera", "mapl_edge.runtime.store"} & set(loaded)
