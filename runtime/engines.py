"""Engines of graphs: fused, one call a frame; or split, encoder and decoder with a FAISS search between them."""

from __future__ import annotations

from pathlib import Path

from mapl_edge.arrays import AnyArray, UInt8Array
from mapl_edge.engine import BaseEngine
from mapl_edge.errors import BackendError
from mapl_edge.runtime.onnx_session import OnnxSession
from mapl_edge.runtime.session import OpenSession, Session
from mapl_edge.search import SearchIndex

FEATURES = ("features1", "features2", "features3")


class FusedEngine(BaseEngine):
    """Runs one graph: `image` uint8 (B, H, W, 3) → `score`, `map`, `nearest`; see `Engine`.

    Args:
        path: the graph's file.
        threads: for one call; 0 lets the library take all cores.
        open_session: the library that runs it.
        precision: of the graph, for people.
    """

    def __init__(
        self, path: Path, threads: int = 0, open_session: OpenSession = OnnxSession, precision: str = "fp32"
    ) -> None:
        super().__init__(f"{path.name} {precision}")
        self._path, self._threads, self._open, self._precision = path, threads, open_session, precision

    def _load(self) -> tuple[int, int]:
        self._session = self._open(self._path, self._threads)
        self.name = f"{self._session.name} {self._precision}"
        return _size_of(self._session, self._path)

    def _answer(self, pictures: UInt8Array) -> tuple[AnyArray, AnyArray, AnyArray]:
        found = self._session.run({"image": pictures})
        return found["score"], found["map"], found["nearest"]

    def _free(self) -> None:
        self._session.close()


class SplitEngine(BaseEngine):
    """Runs `encoder.onnx`, searches `memory.faiss` and runs `decoder.onnx`; see `Engine`.

    Args:
        encoder, decoder: the graphs' files.
        memory: the index's file.
        reach: of a search in it, see `mapl_edge.search.SearchIndex`.
        threads, open_session, precision: see `FusedEngine`.
    """

    def __init__(
        self,
        encoder: Path,
        decoder: Path,
        memory: Path,
        reach: float | None = None,
        threads: int = 0,
        open_session: OpenSession = OnnxSession,
        precision: str = "fp32",
    ) -> None:
        super().__init__(f"{encoder.name} {precision} split")
        self._paths, self._reach = (encoder, decoder, memory), reach
        self._threads, self._open, self._precision = threads, open_session, precision

    def _load(self) -> tuple[int, int]:
        encoder, decoder, memory = self._paths
        self._encoder, self._decoder = self._open(encoder, self._threads), self._open(decoder, self._threads)
        self._index = SearchIndex(memory, self._threads, self._reach)
        self.name = f"{self._encoder.name} {self._precision} split"
        return _size_of(self._encoder, encoder)

    def _answer(self, pictures: UInt8Array) -> tuple[AnyArray, AnyArray, AnyArray]:
        encoded = self._encoder.run({"image": pictures})
        feeds = {name: encoded[name] for name in FEATURES}
        found = self._decoder.run(feeds | {"index": self._index.search(encoded["queries"])})
        return found["score"], found["map"], found["nearest"]

    def _free(self) -> None:
        for part in (self._encoder, self._decoder, self._index):
            part.close()


def _size_of(session: Session, path: Path) -> tuple[int, int]:
    shape = session.inputs.get("image", ())
    if len(shape) != 4 or shape[1] is None or shape[2] is None:
        raise BackendError(f"{path}: takes {dict(session.inputs)}, expected image (B, H, W, 3); export again")
    return shape[1], shape[2]
