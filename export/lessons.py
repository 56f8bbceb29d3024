"""Lessons: the teach/ folder of a bundle, and the bundle that base and deltas make.

    part.mapl/
      teach/base/         what the bundle was exported with and teaching replaces: graphs, index, golden.npz, manifest
      teach/0001.npz      a delta: entries for the memory, the parts' prepared pictures, golden answers that it changes
      teach/0001.json     who taught what and when, scores before and after, digest of the bundle before

A taught bundle is the base with all its deltas, made anew each time, and nothing else goes into its manifest: so taking
the last delta off gives the very bytes that were there before, and with them the digest, the limits that belong to it
and the engines that were made for it. The bundle is written beside its place and changes places with the old one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mapl_edge.arrays import AnyArray
from mapl_edge.bundle import (
    CALIBRATION,
    DECODER,
    GOLDEN,
    MANIFEST,
    MEMORY,
    MODEL,
    SEAL,
    SIGNATURE,
    Bundle,
    write_manifest,
)
from mapl_edge.export.memory_graph import Entries, PlaceEncoder, add_entries, memory_in
from mapl_edge.files import new_folder
from mapl_edge.search import index_with, write_index

TEACH = "teach"
BASE = f"{TEACH}/base"
REPLACED = (MODEL, DECODER, MEMORY, GOLDEN)  # files that teaching writes anew


def lessons(bundle: Bundle) -> list[dict[str, Any]]:
    """The records of all deltas, first to last."""
    names = sorted(name for name in bundle.manifest.files if name.startswith(f"{TEACH}/") and name.endswith(".json"))
    names = [name for name in names if not name.startswith(f"{BASE}/")]
    return [json.loads((bundle.path / name).read_text(encoding="utf-8")) for name in names]


@contextmanager
def replaced(bundle: Bundle, without: set[str] = frozenset()) -> Iterator[Path]:  # type: ignore[assignment]
    """A folder with all of the bundle but what teaching writes; it takes the bundle's place in the end."""
    skip = {*REPLACED, MANIFEST, SEAL, SIGNATURE, *without}
    source = bundle.path.resolve()
    with new_folder(source, MANIFEST, overwrite=True) as work:
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source).as_posix()
            if path.is_dir():
                (work / name).mkdir(exist_ok=True)
            elif name == CALIBRATION:
                shutil.copyfile(path, work / name)
            elif name not in skip:
                _link(path, work / name)
        yield work


def keep_base(bundle: Bundle, work: Path) -> None:
    """Keep what the bundle was exported with, at the first lesson."""
    base = work / BASE
    if base.exists():
        return
    base.mkdir(parents=True)
    for name in (*REPLACED, MANIFEST, SEAL, SIGNATURE):
        if (bundle.path / name).exists():
            _link(bundle.path / name, base / name)


def _base_of(bundle: Bundle) -> Path:
    base = bundle.path / BASE
    return base if base.exists() else bundle.path


def delta_of(bundle: Bundle, number: int) -> dict[str, AnyArray]:
    """The arrays of one delta."""
    with np.load(bundle.path / f"{TEACH}/{number:04d}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def deltas_of(bundle: Bundle) -> list[dict[str, AnyArray]]:
    """All deltas, first to last."""
    return [delta_of(bundle, one["number"]) for one in lessons(bundle)]


def write_graphs(bundle: Bundle, work: Path, deltas: Sequence[dict[str, AnyArray]]) -> None:
    """model.onnx, decoder.onnx and memory.faiss: the base's, with the entries of the deltas."""
    base, summary = _base_of(bundle), json.loads((_base_of(bundle) / MANIFEST).read_text(encoding="utf-8"))["memory"]
    memory = memory_in(base, summary["scope"], summary["search"]["entries"])
    more = Entries(*(np.concatenate([delta[name] for delta in deltas]) for name in Entries.__slots__))
    vectors = PlaceEncoder(bundle.path, summary["scope"]).vectors(more)
    add_entries(base / MODEL, work / MODEL, memory, more, vectors if summary["scope"] == "patch" else None)
    add_entries(base / DECODER, work / DECODER, memory, more, None)
    write_index(index_with(base / MEMORY, vectors), work / MEMORY)


def write_golden(bundle: Bundle, work: Path) -> None:
    """golden.npz: the base's, with what each delta changes and the pictures that were taught."""
    with np.load(_base_of(bundle) / GOLDEN, allow_pickle=False) as arrays:
        golden = dict(arrays)
    for path in sorted((work / TEACH).glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            delta = dict(arrays)
        changed = delta["changed"]
        golden["pictures"] = np.concatenate([golden["pictures"], delta["pictures"]])
        for name in ("scores", "maps"):
            new = delta[f"golden_{name}"]
            golden[name] = np.concatenate([golden[name], new[len(changed) :]])
            golden[name][changed] = new[: len(changed)]
    save_arrays(work / GOLDEN, golden)


def write_taught_manifest(work: Path) -> None:
    """The base's manifest with what the deltas change: nothing but base and deltas goes into it."""
    fields = json.loads((work / BASE / MANIFEST).read_text(encoding="utf-8"))
    del fields["files"]
    for path in sorted((work / TEACH).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        fields["memory"]["samples"] += record["entries"]
        fields["memory"]["search"]["entries"] += record["entries"]
        digests = list(record["parts"].values())
        fields["trained_on"] = [*fields["trained_on"], *digests]
        fields["held_out"] = {name: one for name, one in fields["held_out"].items() if one not in digests}
    write_manifest(work, **fields)


def save_arrays(path: Path, arrays: dict[str, AnyArray]) -> None:
    """Not compressed, which would take longer than the rest."""
    np.savez(path, allow_pickle=False, **arrays)


def _link(source: Path, made: Path) -> None:
    """Files of a bundle are never written to, only replaced: a second name is as good as a copy, and costs nothing."""
    try:
        os.link(source, made)
    except OSError:
        shutil.copy2(source, made)
