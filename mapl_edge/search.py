"""Search: the nearest of a memory's vectors, by FAISS. Export builds the index, runtime searches it.

The door to FAISS of what runs at the line: `pip install faiss-cpu`, or `faiss-gpu` where there is a GPU it knows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mapl_edge.arrays import FloatArray, IntArray
from mapl_edge.errors import BackendError, BackendUnavailable, BundleError, ContractMismatch

CODE = 63  # codes are whole numbers up to this: products of two such bytes add up without overflow on any processor
NEIGHBOURS = 5  # that tell how densely patches lie
NEVER = 10**9  # a squared distance that no code has
RECALL = 0.99  # of an approximate index: how often it must find what exact search finds
AIM = 0.995  # what is set for, so that other queries reach RECALL too
REFINED = 8  # candidates of the quantised search that are compared exactly
FLAT_UP_TO = 4096  # vectors; up to here exact search is hardly slower (bench/search.py)
QUANTISED_DIMS = 256  # numbers a vector; whole pictures have many more, and there are few of them
MATRICES_FROM = 20  # queries, or numbers in them
MIN_SAMPLES = 1000  # queries without which no recall can be told, a half to set by and a half to tell by


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """What was built, for people and for the record.

    Attributes:
        index: in the words of FAISS' index factory, with the number of lists that a search looks into.
        entries, dims: K and S, how many vectors of how many numbers.
        recall: how often it finds what exact search finds; 1 where it is exact.
        queries: how many real queries that was measured with; 0 where it is exact.
    """

    index: str
    entries: int
    dims: int
    recall: float
    queries: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class SearchIndex:
    """An index in memory, on the GPU where FAISS has one.

    Args:
        path: what `write_index` wrote.
        threads: for one call; 0 lets FAISS take all cores. ONNX sessions before and after it need
            `session.intra_op.allow_spinning` 0: threads that spin for the next graph take the cores from the search.
        entries, dims: what the decoder and the encoder beside it expect; None: anything.

    Raises:
        BackendUnavailable: FAISS is not installed.
        BundleError: the file is damaged, or does not fit the graphs beside it.
    """

    def __init__(self, path: Path, threads: int = 0, entries: int | None = None, dims: int | None = None) -> None:
        self._faiss = faiss = _faiss()
        index = _read(faiss, path)
        self.entries, self.dims = int(index.ntotal), int(index.d)
        for what, found, expected in (("vectors", self.entries, entries), ("numbers a vector", self.dims, dims)):
            if expected is not None and found != expected:
                raise BundleError(f"{path}: has {found} {what}, the graphs beside it expect {expected}; export again")
        on_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
        if on_gpu:  # exact: there it is faster than any short cut, and all indexes of ours hold the vectors themselves
            exact = faiss.downcast_index(index.refine_index) if hasattr(index, "refine_index") else index
            self._resources = faiss.StandardGpuResources()
            index = faiss.index_cpu_to_gpu(self._resources, 0, exact)
        self._index, self._threads, self._matrices_from = index, threads, _matrices_from(faiss)
        self.name = f"faiss {faiss.__version__} {'cuda' if on_gpu else 'cpu'}"

    def search(self, queries: FloatArray) -> IntArray:
        """The nearest vector to each query: float32 (B, Q, S) → int64 (B, Q). All queries are searched at once.

        Raises:
            ContractMismatch: the queries are not what the index holds.
            BackendError: nothing was found, as where a query is not a number.
        """
        b, q, s = queries.shape
        if s != self.dims or queries.dtype != np.float32:
            raise ContractMismatch(f"queries are {queries.dtype} of {s}, the index takes float32 of {self.dims}")
        flat = np.ascontiguousarray(queries).reshape(-1, s)
        before = self._faiss.omp_get_max_threads()
        threads = self._threads or before
        self._faiss.omp_set_num_threads(threads)  # of the calling thread, which torch takes it from too
        # On one thread, products of matrices take a third of the time, and of codes are exact; FAISS 1.15 begins with
        # them at more numbers than the queries of a picture have. Several threads wait for each other in them.
        soon = threads == 1 and s <= QUANTISED_DIMS
        self._faiss.cvar.distance_compute_blas_threshold = MATRICES_FROM if soon else self._matrices_from
        try:
            _, nearest = self._index.search(flat, 1)
        finally:
            self._faiss.omp_set_num_threads(before)
        if (nearest < 0).any():
            raise BackendError(f"{self.name} found nothing near {int((nearest < 0).sum())} of {b * q} queries")
        index: IntArray = nearest.reshape(b, q)
        return index

    def close(self) -> None:
        """Let FAISS free its memory; calling it twice is harmless."""
        self._index = self._resources = None


def index_from_vectors(vectors: FloatArray, samples: FloatArray | None = None) -> tuple[Any, SearchSummary]:
    """The index that suits this many vectors: exact while that is fastest, then approximate.

    The approximate one has lists around centres (IVF) of quantised vectors, the best of them compared exactly, or of
    the vectors themselves where they are so near each other that quantised ones cannot be told apart. How many lists a
    search looks into is set by every other picture, and the recall told by those between: places of one picture are
    too much alike to tell what a search finds on the next.

    Args:
        vectors: float32 (K, S).
        samples: real queries, float32 (B, Q, S), Q from each picture; without enough of them in each half, or if no
            number of lists that saves work reaches `RECALL`, the index is exact.
    """
    faiss = _faiss()
    k, s = vectors.shape
    vectors = np.ascontiguousarray(vectors, np.float32)
    flat = faiss.IndexFlatL2(s)
    flat.add(vectors)
    exact = flat, SearchSummary("Flat", k, s, 1.0, 0)
    if k <= FLAT_UP_TO or s > QUANTISED_DIMS or samples is None or len(samples) < 2:
        return exact
    (setting, right), (telling, truth) = (_new_ones(flat, samples[half::2].reshape(-1, s)) for half in (0, 1))
    if min(len(setting), len(telling)) < MIN_SAMPLES // 2:
        return exact

    lists = 2 ** round(np.log2(k**0.5))
    for kind, quantised in ((f"PQ{s}x4fs,RFlat", True), ("Flat", False)):
        name = f"IVF{lists},{kind}"
        index = faiss.index_factory(s, name)
        ivf = index
        if quantised:  # four bits a number in the lists, the best few compared exactly
            ivf = faiss.downcast_index(faiss.downcast_index(index).base_index)
            ivf.by_residual = False  # one table a query, not one for each list that it looks into
            ivf.implem = 12  # the same answers with any number of threads
            index.k_factor = REFINED
        ivf.cp.min_points_per_centroid = 1  # FAISS warns below 39; here lists are short on purpose
        index.train(vectors)
        index.add(vectors)
        for probes in sorted({max(1, round(lists * share)) for share in np.geomspace(1 / 64, 1 / 2, 21)}):
            ivf.nprobe = probes
            if _recall(index, setting, right) >= AIM and (recall := _recall(index, telling, truth)) >= RECALL:
                return index, SearchSummary(f"{name} nprobe={probes}", k, s, recall, len(telling))
    return exact


def write_index(index: Any, path: Path) -> None:
    """Write an index in FAISS' own format (no pickle)."""
    path.write_bytes(_faiss().serialize_index(index).tobytes())


def index_with(path: Path, vectors: FloatArray) -> Any:
    """The index of a file with more vectors, float32 (N, S), behind those that it holds.

    Raises:
        BundleError: the file is damaged, or holds vectors of another length.
    """
    index = _read(_faiss(), path)
    if index.d != vectors.shape[1]:
        raise BundleError(f"{path}: has {index.d} numbers a vector, expected {vectors.shape[1]}; export again")
    index.add(np.ascontiguousarray(vectors, np.float32))
    return index


def _recall(index: Any, queries: FloatArray, truth: IntArray) -> float:
    return float((index.search(queries, 1)[1][:, 0] == truth).mean())


def _new_ones(flat: Any, samples: FloatArray) -> tuple[FloatArray, IntArray]:
    """The samples that are not themselves among the vectors, and their nearest: to find oneself is no feat."""
    samples = np.ascontiguousarray(samples, np.float32)
    squares, nearest = flat.search(samples, 1)
    new = squares[:, 0] > 1e-4 * np.median(squares)
    return samples[new], nearest[new, 0]


@cache
def _matrices_from(faiss: Any) -> int:
    """What FAISS came with."""
    return int(faiss.cvar.distance_compute_blas_threshold)


def _read(faiss: Any, path: Path) -> Any:
    try:
        index = faiss.deserialize_index(np.fromfile(path, np.uint8))
    except (RuntimeError, MemoryError, ValueError, AssertionError) as exc:
        raise BundleError(f"{path}: is damaged, or no FAISS index; export or copy again") from exc
    except OSError as exc:
        raise BundleError(f"{path}: cannot be read ({exc.strerror}); check path and permissions") from exc
    if index.metric_type != faiss.METRIC_L2:
        raise BundleError(f"{path}: does not search by the sum of squared differences; export again")
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as exc:
        raise BackendUnavailable("faiss is not installed; pip install faiss-cpu (or 'mapl-edge[faiss-gpu]')") from exc
    return faiss
