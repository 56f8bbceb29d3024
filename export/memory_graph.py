"""The memory as it lies in a bundle's graphs: read from the decoder, added to in every graph. Needs onnx, no torch.

An exporter names constants as it likes and folds some, so they are found by what they hold: `memory_in` knows the
decoder's by their shapes, `add_entries` every other graph's by their equal content. That nothing was missed is for the
parity gate to prove (`mapl_edge.export.teach`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from mapl_edge.arrays import AnyArray, FloatArray, IntArray, UInt8Array
from mapl_edge.bundle import DECODER, ENCODER
from mapl_edge.errors import BundleError
from mapl_edge.export.onnx_session import onnx_session, product_with
from mapl_edge.export.search_graph import add_to_search
from mapl_edge.search import CODE

MEAN, BASIS = "memory.mean", "memory.basis"  # what the names of the encoder's constants end in
LEVELS = ("features1", "features2", "features3")


@dataclass(frozen=True, slots=True)
class Entries:
    """Some of a memory's entries: patches, or whole pictures.

    Attributes:
        features: float32 (N, D): columns of a patch memory, flattened pyramids of an image memory.
        descriptors: float32 (N, E) of a patch memory; (N, 0) of an image memory.
        source: int64 (N,): which normal picture an entry is from.
        spread: float32 (N,) of a patch memory: see `PatchMemory`; (0,) of an image memory.
    """

    features: FloatArray
    descriptors: FloatArray
    source: IntArray
    spread: FloatArray

    def __len__(self) -> int:
        return len(self.source)

    def and_also(self, more: Entries) -> Entries:
        """These, then those."""
        pairs = ((getattr(self, name), getattr(more, name)) for name in self.__slots__)
        return Entries(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, slots=True)
class Seen:
    """What the encoder says of one prepared picture, place by place; of an image memory there is one place.

    Attributes:
        queries: float32 (Q, S): what is searched for.
        descriptors: float32 (Q, E), as entries of the memory have them.
        levels: what the decoder takes, by name; float32 (1, C, H, W) each.
    """

    queries: FloatArray
    descriptors: FloatArray
    levels: dict[str, FloatArray]

    def entries(self, places: IntArray, source: int) -> Entries:
        """What the memory would hold of some places of this picture, if nothing were near them."""
        whole = not self.descriptors.shape[1]
        features = self.queries if whole else columns_of(*(level[0] for level in self.levels.values()))
        lone = np.ones(0 if whole else len(places), np.float32)
        return Entries(features[places], self.descriptors[places], np.full(len(places), source, dtype=np.int64), lone)


class PlaceEncoder:
    """Runs encoder.onnx and tells of each place what an entry of the memory holds.

    Args:
        folder: of the bundle.
        scope: of its memory, image or patch.

    Raises:
        BundleError: the graph is not as this version exports it.
    """

    def __init__(self, folder: Path, scope: str) -> None:
        graph = onnx.load(folder / ENCODER)
        self._where, self._scope = folder / ENCODER, scope
        self._mean, self._basis, self._described = np.zeros(0, np.float32), np.eye(0, dtype=np.float32), ""
        if scope == "patch":
            self._mean, self._basis = (_constant(graph, end, self._where) for end in (MEAN, BASIS))
            self._described = _taken_from(graph, MEAN, self._where)
            graph.graph.output.append(onnx.helper.make_tensor_value_info(self._described, onnx.TensorProto.FLOAT, None))
        self._graph = graph.SerializeToString()

    @cached_property
    def _session(self) -> Any:
        return onnx_session(self._graph)

    def __call__(self, picture: UInt8Array) -> Seen:
        """Look at one prepared picture, uint8 (H, W, 3)."""
        names = [*LEVELS, "queries", *([self._described] if self._described else [])]
        found = dict(zip(names, self._session.run(names, {"image": picture[None]}), strict=True))
        queries: FloatArray = found["queries"][0]
        described = found[self._described].reshape(len(queries), -1) if self._described else queries[:, :0]
        return Seen(queries, described, {name: found[name] for name in LEVELS})

    def vectors(self, entries: Entries) -> FloatArray:
        """What the search compares queries with, float32 (N, S)."""
        if self._scope == "image":
            return entries.features
        return codes_of(entries, self._mean, self._basis)


def columns_of(fine: FloatArray, middle: FloatArray, coarse: FloatArray) -> FloatArray:
    """Features of all levels at each place of stride 8, as `PatchMemory` keeps them: (C, H, W) each → (Q, D)."""
    c, h, w = fine.shape
    four = fine.reshape(c, h // 2, 2, w // 2, 2).transpose(0, 2, 4, 1, 3).reshape(4 * c, h // 2, w // 2)
    stacked = np.concatenate([four, middle, _twice(_twice(coarse, 1), 2)])
    return np.ascontiguousarray(stacked.reshape(len(stacked), -1).T)


def codes_of(entries: Entries, mean: FloatArray, basis: FloatArray) -> FloatArray:
    """What patches are searched by, as `PatchMemory` has it, float32 (N, S)."""
    return np.rint(product_with(basis)(entries.descriptors - mean)).clip(-CODE, CODE)


def graph_from_file(path: Path) -> Any:
    """A graph to look into and to change."""
    return onnx.load(path)


def memory_in(decoder: Any, path: Path, scope: str, entries: int) -> Entries:
    """All entries of a bundle's memory.

    Args:
        decoder: the graph in decoder.onnx.
        path: where that lies.
        scope, entries: of the memory: image or patch, and how many.

    Raises:
        BundleError: the constants that hold them are not there, or cannot be told apart.
    """
    held = [
        numpy_helper.to_array(tensor)
        for tensor in decoder.graph.initializer
        if tensor.dims and tensor.dims[0] == entries
    ]
    sources = [array for array in held if array.dtype == np.int64 and array.size == entries]
    floats = sorted(
        (array.reshape(entries, -1) for array in held if array.dtype == np.float32), key=lambda array: array.shape[1]
    )
    widths = [array.shape[1] for array in floats]
    if len(sources) != 1 or len(floats) != (1 if scope == "image" else 3) or (scope == "patch" and widths[0] != 1):
        raise BundleError(
            f"{path}: holds {len(sources)} lists of sources and tables {widths} wide of {entries} entries, expected "
            f"one and {'one' if scope == 'image' else 'three'}: this memory cannot be added to; export the model again"
        )
    spread, descriptors = np.zeros(0, np.float32), np.zeros((entries, 0), np.float32)
    if scope == "patch":
        spread, descriptors = floats[0][:, 0], floats[1]
    return Entries(floats[-1], descriptors, sources[0].reshape(-1), spread)


def add_entries(graph: Any, source: Path, memory: Entries, more: Entries, codes: FloatArray | None) -> None:
    """Put more entries behind those of a graph's memory.

    Args:
        graph: as it was exported; changed in place.
        source: where it lies.
        memory: what it holds.
        more: what to add.
        codes: what `more` is searched by, where the graph has a patch search; see `PlaceEncoder.vectors`.

    Raises:
        BundleError: the graph does not hold the memory.
    """
    missing = {name for name in Entries.__slots__ if getattr(memory, name).size}
    for tensor in graph.graph.initializer:
        if not tensor.dims or tensor.dims[0] != len(memory):
            continue
        held = numpy_helper.to_array(tensor)
        for name in Entries.__slots__:
            old = getattr(memory, name)
            if held.dtype == old.dtype and held.size == old.size and np.array_equal(held.reshape(old.shape), old):
                added = getattr(more, name).reshape(-1, *held.shape[1:])
                tensor.CopyFrom(numpy_helper.from_array(np.concatenate([held, added]), tensor.name))
                missing.discard(name)
    if missing:
        raise BundleError(
            f"{source}: does not hold the memory's {', '.join(sorted(missing))} as {DECODER} does, so nothing can be "
            "added to it; export the model again"
        )
    if codes is not None:
        add_to_search(graph, len(memory), codes)
    del graph.graph.value_info[:]  # shapes that no longer hold


def _constant(graph: Any, end: str, where: Path) -> AnyArray:
    for tensor in graph.graph.initializer:
        if tensor.name.endswith(end):
            return numpy_helper.to_array(tensor)
    raise BundleError(f"{where}: has no constant {end}, so its places cannot be described; export the model again")


def _taken_from(graph: Any, end: str, where: Path) -> str:
    """The tensor that the constant is taken from."""
    for node in graph.graph.node:
        if node.op_type == "Sub" and node.input[1].endswith(end):
            return str(node.input[0])
    raise BundleError(f"{where}: {end} is taken from nothing, expected descriptors; export the model again")


def _twice(x: FloatArray, axis: int) -> FloatArray:
    """Twice as long by linear interpolation, half-pixel centres, as torch does with align_corners=False."""
    n = x.shape[axis]
    before, after = (np.take(x, np.clip(np.arange(n) + step, 0, n - 1), axis) for step in (-1, 1))
    pairs = np.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
