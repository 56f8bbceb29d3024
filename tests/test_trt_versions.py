"""The TensorRT double offers a version's names and no others; the listings in the tree are parts of real ones."""

import json
from pathlib import Path

import pytest
from trt_versions import REDUCED, VERSIONS, full_listings, listing, reduced

from mapl_edge.testing import FakeTensorRt

needs_listings = pytest.mark.skipif(
    full_listings() is None, reason="no full TensorRT listings: set MAPL_EDGE_TRT_API to their folder"
)


@needs_listings
@pytest.mark.parametrize("version", VERSIONS)
def test_listing_in_the_tree_is_what_our_code_touches(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new name in our code must be looked up in the real listing of every version."""
    kept = json.loads((REDUCED / f"{version}.json").read_text(encoding="utf-8"))

    assert kept == reduced(version, tmp_path, monkeypatch), "run: python tests/trt_versions.py"


@needs_listings
@pytest.mark.parametrize("version", VERSIONS)
def test_listing_in_the_tree_is_a_part_of_the_real_one(version: str) -> None:
    """Nothing in it is invented."""
    full = json.loads((full_listings() / f"{version}.json").read_text(encoding="utf-8"))  # type: ignore[operator]
    kept = json.loads((REDUCED / f"{version}.json").read_text(encoding="utf-8"))

    for name, held in kept.items():
        assert name == "version" or set(held.get("enum", held)) <= set(full[name].get("enum", full[name])), name


@pytest.mark.parametrize(
    ("version", "absent"),
    [("11.4.0", "FP16"), ("rtx-1.7.1", "INT8")],
)
def test_a_name_of_another_version_is_absent(version: str, absent: str) -> None:
    """As in the real module, so that `hasattr` decides as it will there."""
    trt = FakeTensorRt(listing(version))

    assert not hasattr(trt.BuilderFlag, absent)
    assert not hasattr(trt, "NoSuchThing")
    with pytest.raises(AttributeError, match="max_workspace_size"):
        trt.make("IBuilderConfig")().max_workspace_size = 1


def test_a_listed_name_that_the_double_lacks_is_no_attribute_error() -> None:
    """`hasattr` would take that for absent and test the wrong branch."""
    trt = FakeTensorRt({"version": "0", "IBuilderConfig": {"reset": ""}, "Refitter": {"__init__": ""}})

    with pytest.raises(NotImplementedError):
        hasattr(trt.make("IBuilderConfig")(), "reset")
    with pytest.raises(NotImplementedError):
        hasattr(trt, "Refitter")
