"""Search: the nearest of a memory's vectors. Export builds the index, runtime searches it.

The door to FAISS of what runs at the line: `pip install faiss-cpu`, or `faiss-gpu` where there is a GPU it knows. FAISS
searches exactly; the lists of a large memory are compared as products of matrices here, list by list with all queries
that look into it, where FAISS goes query by query.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from mapl_edge.arrays import FloatArray, IntArray
from mapl_edge.errors import BackendError, BackendUnavailable, BundleError, ContractMismatch

CODE = 63  # codes are whole numbers up to this: products of two such bytes add up without overflow on any processor
NEIGHBOURS = 5  # that tell how densely patches lie
NEVER = 10**9  # a squared distance that no code has
RECALL = 0.99  # of an approximate index: how often it must find what exact search finds
AIM = 0.998  # what is set for, so that queries of other parts, and of defects, reach RECALL too
FLAT_UP_TO = 4096  # vectors; up to here exact search is hardly slower (bench/search.py)
LISTED_DIMS = 256  # numbers a vector; whole pictures have many more, and there are few of them
ROUNDS = 25  # of k-means
MOST = 0.5  # of the memory, that a search may look into; above that exact search is as fast
FEW_THREADS = 4  # products of matrices on one thread take less time than so many that compare one by one
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
        reach: how far beyond the nearest list's centre the centre of another may be for a search to look into it, as
            difference of squared distances; None where it is exact.
    """

    index: str
    entries: int
    dims: int
    recall: float
    queries: int
    reach: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class SearchIndex:
    """An index in memory, on the GPU where FAISS has one.

    Args:
        path: what `write_index` wrote.
        threads: for one call; 0 lets FAISS take all cores. ONNX sessions before and after it need
            `session.intra_op.allow_spinning` 0: threads that spin for the next graph take the cores from the search.
        reach: see `SearchSummary`; None leaves the search to FAISS.
        entries, dims: what the decoder and the encoder beside it expect; None: anything.

    Raises:
        BackendUnavailable: FAISS is not installed.
        BundleError: the file is damaged, or does not fit the graphs beside it.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 0,
        reach: float | None = None,
        entries: int | None = None,
        dims: int | None = None,
    ) -> None:
        self._faiss = faiss = _faiss()
        index = _read(faiss, path)
        self.entries, self.dims = int(index.ntotal), int(index.d)
        for what, found, expected in (("vectors", self.entries, entries), ("numbers a vector", self.dims, dims)):
            if expected is not None and found != expected:
                raise BundleError(f"{path}: has {found} {what}, the graphs beside it expect {expected}; export again")
        on_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
        if on_gpu:  # exact: there it is faster than any short cut, and all indexes of ours hold the vectors themselves
            self._resources = faiss.StandardGpuResources()
            index = faiss.index_cpu_to_gpu(self._resources, 0, _flat(index))
        has_lists = hasattr(index, "invlists") and not on_gpu
        self._lists = _Lists(index, reach) if has_lists and reach is not None else None
        self._index: Any = None if self._lists else index  # lists hold all of it
        self._threads, self._matrices_from = threads, _matrices_from(faiss)
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
        nearest = self._lists.search(queries) if self._lists else self._searched(queries.reshape(-1, s))
        if (nearest < 0).any():
            raise BackendError(f"{self.name} found nothing near {int((nearest < 0).sum())} of {b * q} queries")
        index: IntArray = nearest.reshape(b, q)
        return index

    def close(self) -> None:
        """Free the memory; calling it twice is harmless."""
        self._index = self._resources = self._lists = None

    def _searched(self, queries: FloatArray) -> IntArray:
        before = self._faiss.omp_get_max_threads()
        threads = self._threads or before
        # Products of matrices take a quarter of the time, and of codes are exact; FAISS 1.15 begins with them at more
        # numbers than the queries of a picture have. Several threads may wait for each other in them.
        soon = threads <= FEW_THREADS and self.dims <= LISTED_DIMS
        self._faiss.omp_set_num_threads(1 if soon else threads)  # of the calling thread, which torch takes it from too
        self._faiss.cvar.distance_compute_blas_threshold = MATRICES_FROM if soon else self._matrices_from
        try:
            found: IntArray = self._index.search(np.ascontiguousarray(queries), 1)[1]
            return found
        finally:
            self._faiss.omp_set_num_threads(before)


class _Lists:
    """The lists of an IVF index, each searched by one product of matrices with all queries that look into it.

    A query looks into the list whose centre is nearest and into those that are at most `reach` farther. Squared
    distances are |m|² − 2 q·m, what a query adds to all of them left out; the codes that patches are searched by are
    whole numbers, so products are exact in float32 and answers depend on nothing else that is searched for.

    On one thread: with two, each waits for the other between products, and on two cores a search takes as long. Not for
    several searches at once: a product is written where the one before it was.
    """

    def __init__(self, index: Any, reach: float) -> None:
        faiss = _faiss()
        sizes = [index.invlists.list_size(number) for number in range(index.nlist)]
        lists = [number for number, size in enumerate(sizes) if size]
        ids = [np.sort(faiss.rev_swig_ptr(index.invlists.get_ids(number), sizes[number])) for number in lists]
        vectors = _flat(index).reconstruct_n(0, index.ntotal)
        self._centres = _doubled(index.quantizer.reconstruct_n(0, index.nlist)[lists])
        self._lists = [np.ascontiguousarray(_doubled(vectors[some]).T) for some in ids]
        self._entries = np.concatenate(ids)
        self._widths = [len(some) for some in ids]
        self._firsts = np.cumsum([0, *self._widths])[:-1]
        self._reach = np.float32(reach)
        self._make_room(0)
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers

    def search(self, queries: FloatArray) -> IntArray:
        """float32 (B, Q, S) → int64 (B * Q); -1 where a query is not a number."""
        before = [library.num_threads for library in self._libraries]
        try:
            for library in self._libraries:  # which share out each product: they wait longer than that saves
                library.set_num_threads(1)
            return np.concatenate([self._nearest(one) for one in queries])
        finally:
            for library, threads in zip(self._libraries, before, strict=True):
                library.set_num_threads(threads)

    def _nearest(self, queries: FloatArray) -> IntArray:
        q = len(queries)
        if q > len(self._steps[0]):
            self._make_room(q)
        ones = np.concatenate([queries, np.ones((q, 1), np.float32)], axis=1)
        away = self._centres @ ones.T  # (lists, Q)
        looks = away <= away.min(axis=0) + self._reach
        which, asking = np.divmod(np.flatnonzero(looks), q)  # list after list
        rows, squares, least = ones[asking], np.empty(len(asking), np.float32), np.empty(len(asking), np.int64)
        ends = np.cumsum(np.count_nonzero(looks, axis=1)).tolist()
        start = 0
        for vectors, steps, end in zip(self._lists, self._steps, ends, strict=True):
            if end > start:
                n = end - start
                product = self._room[: n * vectors.shape[1]]
                np.dot(rows[start:end], vectors, out=product.reshape(n, -1))
                product.reshape(n, -1).argmin(axis=1, out=least[start:end])
                product.take(least[start:end] + steps[:n], out=squares[start:end], mode="clip")
                start = end
        found = self._entries[self._firsts[which] + least]
        best = np.full(q, np.inf, np.float32)
        np.minimum.at(best, asking, squares)
        nearest = np.full(q, NEVER, np.int64)
        is_best = squares == best[asking]
        np.minimum.at(nearest, asking[is_best], found[is_best])  # of equally near ones the first, as FAISS has it
        nearest[nearest == NEVER] = -1
        return nearest

    def _make_room(self, queries: int) -> None:
        """For the largest product, once: new memory for each would cost as much as to fill it."""
        self._room = np.empty(queries * max(self._widths), np.float32)
        self._steps = [np.arange(queries) * width for width in self._widths]  # where rows of a product begin


def index_from_vectors(vectors: FloatArray, samples: FloatArray | None = None) -> tuple[Any, SearchSummary]:
    """The index that suits this many vectors: exact while that is fastest, then approximate.

    The approximate one has lists around centres (IVF, k-means). How far a search reaches is set by every other
    picture, and the recall told by those between: places of one picture are too much alike to tell what a search finds
    on the next. For those who search the file with FAISS alone it looks into `nprobe` lists, which takes longer for the
    same recall: queries between many centres need more of them than others.

    Args:
        vectors: float32 (K, S).
        samples: real queries, float32 (B, Q, S), Q from each picture; without enough of them in each half, or if no
            reach that saves work finds `RECALL`, the index is exact.
    """
    faiss = _faiss()
    k, s = vectors.shape
    vectors = np.ascontiguousarray(vectors, np.float32)
    flat = faiss.IndexFlatL2(s)
    flat.add(vectors)
    exact = flat, SearchSummary("Flat", k, s, 1.0, 0)
    if k <= FLAT_UP_TO or s > LISTED_DIMS or samples is None or len(samples) < 2:
        return exact
    (setting, right), (telling, truth) = (_new_ones(flat, samples[half::2].reshape(-1, s)) for half in (0, 1))
    if min(len(setting), len(telling)) < MIN_SAMPLES // 2:
        return exact

    lists = 2 ** round(np.log2(k**0.5))
    index = faiss.index_factory(s, f"IVF{lists},Flat")
    index.cp.min_points_per_centroid = 1  # FAISS warns below 39; here lists are short on purpose
    index.cp.niter = ROUNDS
    index.train(vectors)
    index.add(vectors)
    centres = index.quantizer.reconstruct_n(0, lists)
    of_entry = index.quantizer.search(vectors, 1)[1][:, 0]
    beyond = _beyond(setting, centres)
    needed = np.take_along_axis(beyond, of_entry[right][:, None], 1)
    reach = float(np.quantile(needed, AIM, method="higher"))
    looked_at = float(((beyond <= reach) @ np.bincount(of_entry, minlength=lists)).mean())
    told = np.take_along_axis(_beyond(telling, centres), of_entry[truth][:, None], 1)
    recall = float((told <= reach).mean())
    if recall < RECALL or looked_at > MOST * k:
        return exact
    index.nprobe = int(np.quantile((beyond < needed).sum(1), AIM, method="higher")) + 1
    name = f"IVF{lists},Flat reach={reach:.0f}"
    return index, SearchSummary(name, k, s, recall, len(telling), reach)


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


def _doubled(vectors: FloatArray) -> FloatArray:
    """−2 m and |m|², float32 (K, S + 1): their product with q and a one is the squared distance but for |q|²."""
    return np.concatenate([-2 * vectors, np.square(vectors).sum(1, keepdims=True)], axis=1)


def _beyond(queries: FloatArray, centres: FloatArray) -> FloatArray:
    """How much farther than the nearest each centre is, squared distances (Q, lists)."""
    away = np.concatenate([queries, np.ones((len(queries), 1), np.float32)], axis=1) @ _doubled(centres).T
    beyond: FloatArray = away - away.min(axis=1, keepdims=True)
    return beyond


def _flat(index: Any) -> Any:
    """An exact index of the vectors that another holds."""
    faiss = _faiss()
    if hasattr(index, "refine_index"):  # of bundles made before
        return faiss.downcast_index(index.refine_index)
    if not hasattr(index, "invlists"):
        return index
    flat = faiss.IndexFlatL2(index.d)
    index.make_direct_map()
    flat.add(index.reconstruct_n(0, index.ntotal))
    return flat


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
