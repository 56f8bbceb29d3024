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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mapl_edge.arrays import AnyArray, FloatArray
from mapl_edge.bundle import (
    CALIBRATION,
    DECODER,
    GOLDEN,
    MANIFEST,
    MEMORY,
    MODEL,
    SEAL,
    SIGNATURE,
    TEACH,
    Bundle,
    write_manifest,
)
from mapl_edge.export.memory_graph import Entries, add_entries, graph_from_file, memory_in
from mapl_edge.files import files_below, new_folder
from mapl_edge.search import index_with, write_index

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
        for name in files_below(source):
            made = work / name
            if name == CALIBRATION or name not in skip:
                made.parent.mkdir(parents=True, exist_ok=True)
            if name == CALIBRATION:
                shutil.copyfile(source / name, made)
            elif name not in skip:
                _link(source / name, made)
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


class BaseGraphs:
    """The graphs that a bundle was exported with, read once.

    Attributes:
        memory: the entries that they hold.

    Raises:
        BundleError: the memory cannot be found in them.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._folder = _base_of(bundle)
        summary = json.loads((self._folder / MANIFEST).read_text(encoding="utf-8"))["memory"]
        self._is_patch = summary["scope"] == "patch"
        self._decoder = graph_from_file(self._folder / DECODER)
        self.memory = memory_in(self._decoder, self._folder / DECODER, summary["scope"], summary["search"]["entries"])

    def write(self, work: Path, more: Entries, vectors: FloatArray) -> None:
        """model.onnx, decoder.onnx and memory.faiss with more entries, searched by `vectors`; possible once."""
        self.write_split(work, more, vectors)
        self.write_fused(work, more, vectors)

    def write_split(self, work: Path, more: Entries, vectors: FloatArray) -> None:
        """decoder.onnx and memory.faiss alone."""
        self._write(DECODER, self._decoder, work, more, None)
        write_index(index_with(self._folder / MEMORY, vectors), work / MEMORY)

    def write_fused(self, work: Path, more: Entries, vectors: FloatArray) -> None:
        """model.onnx alone."""
        self._write(MODEL, graph_from_file(self._folder / MODEL), work, more, vectors if self._is_patch else None)

    def _write(self, name: str, graph: Any, work: Path, more: Entries, codes: FloatArray | None) -> None:
        add_entries(graph, self._folder / name, self.memory, more, codes)
        (work / name).write_bytes(graph.SerializeToString(deterministic=True))


def entries_of(deltas: Sequence[Mapping[str, AnyArray]]) -> Entries:
    """The entries of all deltas, of which there is at least one."""
    return Entries(*(np.concatenate([delta[name] for delta in deltas]) for name in Entries.__slots__))


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


def write_taught_manifest(bundle: Bundle, work: Path) -> Bundle:
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
    return write_manifest(work, _digests_known(bundle, work), **fields)


def _digests_known(bundle: Bundle, work: Path) -> dict[str, str]:
    """Digests of the files that are still those of the bundle, which were checked when it was opened."""
    files = bundle.manifest.files
    moved = {f"{BASE}/{name}": name for name in REPLACED} | {name: name for name in files}
    return {
        name: files[was]
        for name, was in moved.items()
        if (work / name).exists() and os.path.samefile(work / name, bundle.path / was)
    }


def save_arrays(path: Path, arrays: dict[str, AnyArray]) -> None:
    """Not compressed, which would take longer than the rest."""
    np.savez(path, allow_pickle=False, **arrays)


def _link(source: Path, made: Path) -> None:
    """Files of a bundle are never written to, only replaced: a second name is as good as a copy, and costs nothing."""
    try:
        os.link(source, made)
    except OSError:
        shutil.copy2(source, made)
